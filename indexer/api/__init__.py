"""Reading the tables over HTTP: REST, GraphQL and live queries, all made from `resources.py`."""
