"""The worker's HTTP surface: OpenAI-compatible, with the market's headers beside."""

from provider.api.app import create_app

__all__ = ["create_app"]
