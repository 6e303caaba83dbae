"""Images made from what this machine runs itself, without any registry."""
