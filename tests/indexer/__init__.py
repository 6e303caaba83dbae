"""The indexer on a real chain and both databases."""
