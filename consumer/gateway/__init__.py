"""Brain Switch: a local OpenAI-compatible endpoint that picks a provider, pays exactly, and falls back."""
