"""Servers of others behind the worker's own metering."""
