"""What the market asks and trades, by kind, model and payment token; see docs/indexer.md."""
