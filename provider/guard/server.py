"""How a guarded application is served."""

from typing import Any

import uvicorn
from starlette.types import ASGIApp

from provider.guard.http_protocol import guarded_protocol
from provider.guard.limits import GuardLimits


def server_config(app: ASGIApp, limits: GuardLimits, **settings: Any) -> uvicorn.Config:
    """Uvicorn's configuration; `settings` are further ones, such as those of TLS."""
    return uvicorn.Config(
        app,
        http=guarded_protocol(limits),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=list(limits.trusted_proxies),
        **settings,
    )
