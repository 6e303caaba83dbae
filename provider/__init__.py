"""The worker: serves inference, keeps the usage ledger, anchors it and settles."""
