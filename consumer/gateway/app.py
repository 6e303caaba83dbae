"""The gateway's HTTP interface: OpenAI's paths, and what only this gateway has."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from consumer.gateway.app_answer import AnswerEndpoint
from consumer.gateway.app_guard import Guard
from consumer.gateway.app_ports import Dispatching, Keys
from consumer.gateway.app_request import CHAT, COMPLETIONS, EMBEDDINGS, header, parse_asked, read_body
from consumer.gateway.errors import bad_request, on_http_exception, on_route_failed
from consumer.gateway.events import RouteFailed
from consumer.gateway.settings import GatewaySettings
from consumer.gateway.status import Requests


def create_app(dispatcher: Dispatching, keys: Keys, settings: GatewaySettings) -> Starlette:
    """Everything but `/healthz` and `/readyz` needs a virtual key."""
    requests = Requests(settings.max_requests)

    def identify(request: Request) -> str:
        return keys.identify(header(request.scope, b"authorization")).key_id

    async def models(request: Request) -> Response:
        identify(request)
        return JSONResponse({"object": "list", "data": [_model(name) for name in dispatcher.models()]})

    async def model(request: Request) -> Response:
        identify(request)
        name = request.path_params["name"]
        if name not in dispatcher.models():
            raise bad_request(f"there is no model {name[:200]}", code="model_not_found", param="model", status=404)
        return JSONResponse(_model(name))

    async def explain(request: Request) -> Response:
        key_id = identify(request)
        body = await read_body(request.scope, request.receive, settings.max_body_mb * 1024 * 1024)
        return JSONResponse(await dispatcher.explain(parse_asked(CHAT, body, key_id)))

    async def status(request: Request) -> Response:
        identify(request)
        running = {"running": requests.running, "recent": requests.recent()}
        return JSONResponse({**dispatcher.status(), "requests": running})

    async def metrics(request: Request) -> Response:
        identify(request)
        return PlainTextResponse(requests.metrics())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        has_routes = bool(dispatcher.models())
        return JSONResponse({"status": "ok" if has_routes else "no routes"}, 200 if has_routes else 503)

    answers = [
        Route(path, AnswerEndpoint(path, dispatcher, keys, settings, requests), methods=["POST"])
        for path in (CHAT, COMPLETIONS, EMBEDDINGS)
    ]
    return Starlette(
        routes=[
            *answers,
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/gateway/explain", explain, methods=["POST"]),
            Route("/gateway/status", status),
            Route("/metrics", metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={RouteFailed: on_route_failed, HTTPException: on_http_exception},
    )


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "clawmarket"}
