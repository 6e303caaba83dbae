"""Which route answers a request: names, offers, measurements, limits, ranking."""
