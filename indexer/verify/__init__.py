"""Whether the tables are right: against the raw logs, and against the contracts themselves."""
