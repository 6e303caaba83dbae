"""From the nodes to the tables: in big pieces up to finality, then block by block."""
