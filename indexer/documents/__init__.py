"""Documents by digest: providers' metadata and offers' terms, fetched from strangers and checked against the chain."""
