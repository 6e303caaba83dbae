"""Where other people's work runs: containers without network, rights or a writable disk, in the strongest tier."""
