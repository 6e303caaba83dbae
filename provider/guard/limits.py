"""The figures of the guard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuardLimits:
    """What one address and all together may take. Times in seconds, sizes in bytes, rates a second.

    Requests on a lease that a good voucher came for lately, from that address, count against `lease_per_s`; all others
    against `address_per_s`. An address that sent `forgeries` forged vouchers (one is forgiven every
    `forgiveness_s`) is heard on such leases only.
    """

    connections: int = 1024
    connections_per_address: int = 64
    handshake_timeout_s: float = 10.0
    closing_timeout_s: float = 5.0
    head_timeout_s: float = 10.0
    head_bytes: int = 16 * 1024
    head_fields: int = 64
    body_grace_s: float = 10.0
    body_bytes_per_s: int = 16 * 1024
    send_timeout_s: float = 30.0
    address_per_s: float = 50.0
    address_burst: int = 200
    lease_per_s: float = 50.0
    lease_burst: int = 200
    forgeries: int = 10
    forgiveness_s: float = 10.0
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed; their connections count against the total only."""
