"""What the worker shows its owner: metrics, logs, readiness, status."""
