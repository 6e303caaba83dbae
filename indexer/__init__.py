"""The chain in SQL: every event of the market's contracts, rebuildable from the chain at any time."""
