"""Which models a worker has, and which of them are in memory."""
