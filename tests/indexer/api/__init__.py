"""The indexer's API over tables of a real market, on both databases, served by a process of its own."""
