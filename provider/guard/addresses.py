"""Who counts as one client, and how many connections each has."""

import ipaddress
from collections import Counter

from provider.guard.limits import GuardLimits


def address_key(host: str) -> str:
    """What limits count by: an IPv4 address, or the /64 of an IPv6 address, which one customer has to itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class Connections:
    """Counts open connections, in all and by address."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._by_address: Counter[str] = Counter()
        self._trusted = frozenset(address_key(proxy) for proxy in limits.trusted_proxies)

    @property
    def total(self) -> int:
        """Connections open now."""
        return self._by_address.total()

    def enter(self, address: str) -> bool:
        """Counts a new connection, or says that there is no room for it."""
        full = self.total >= self._limits.connections
        crowded = self._by_address[address] >= self._limits.connections_per_address and address not in self._trusted
        if full or crowded:
            if not self._by_address[address]:
                del self._by_address[address]
            return False
        self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A counted connection is gone."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
