"""GraphQL over the same resources and queries as REST, with the same names and parameters."""
