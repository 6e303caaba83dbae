"""The inference engine: a process of its own (`python -m provider.engine`) and the host's client for it."""
