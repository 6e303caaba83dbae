"""How a guarded application is served."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from provider.guard.http_protocol import guarded_protocol
from provider.guard.limits import GuardLimits
from provider.guard.tls_protocol import TlsGreeting


def server_config(
    app: ASGIApp, limits: GuardLimits, tls: ssl.SSLContext | None = None, **settings: Any
) -> uvicorn.Config:
    """Uvicorn's configuration; `settings` are further ones, but for those of TLS, which is ours."""
    return uvicorn.Config(
        app,
        http=_protocol(limits, tls),  # type: ignore[arg-type] # it is only called
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=list(limits.trusted_proxies),
        **settings,
    )


def _protocol(limits: GuardLimits, tls: ssl.SSLContext | None) -> Callable[..., asyncio.Protocol]:
    plain = guarded_protocol(limits)
    return plain if tls is None else lambda **given: TlsGreeting(plain(**given), tls, limits)
