"""`clawmarket provider …`, one file for each subject. Heavy imports stay inside the commands: help must be quick."""
