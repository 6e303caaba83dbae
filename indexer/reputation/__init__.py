"""What a provider earned from others, in fees that were lost to it, from the chain alone; see docs/indexer.md."""
