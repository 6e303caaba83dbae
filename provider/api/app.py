"""The application, put together."""

from fastapi import FastAPI

from provider.api.errors import add_handlers
from provider.api.market import market_routes
from provider.api.paid import paid_routes
from provider.service import InferenceService


def create_app(service: InferenceService) -> FastAPI:
    """The application; the service's parts are started and stopped by the caller."""
    app = FastAPI(title="clawmarket provider", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(paid_routes(service))
    app.include_router(market_routes(service))
    add_handlers(app)
    return app
