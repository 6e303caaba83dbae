"""Limits against abuse where requests come in: connections, slow clients, floods of forged vouchers."""

from provider.guard.addresses import address_key
from provider.guard.edge import EdgeGate
from provider.guard.limits import GuardLimits
from provider.guard.server import server_config

__all__ = ["EdgeGate", "GuardLimits", "address_key", "server_config"]
