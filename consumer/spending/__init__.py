"""Who may spend how much: virtual API keys, budgets, and the leases that are opened within them."""
