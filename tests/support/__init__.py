"""Helpers shared by the test folders: real processes only, each stopped by its own process id."""
