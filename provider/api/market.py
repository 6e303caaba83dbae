"""The routes that cost nothing: what is offered, vouchers beside running answers, proofs of receipts."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from protocol.headers import VOUCHER_HEADER, RefusalCode, ResponseHeaders, check_version, parse_voucher
from provider.exceptions import Refusal
from provider.service import InferenceService

MAX_SEQ = 2**63 - 1
"""What the ledger can hold; the protocol allows twice as much."""


def market_routes(service: InferenceService) -> APIRouter:
    """The routes beside those that are paid."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def health() -> Response:
        ready = service.backends.is_ready()
        return JSONResponse(
            {"ready": ready, "provider": service.provider, "sandbox": service.sandbox}, 200 if ready else 503
        )

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = dict.fromkeys(offer.model_name for offer in service.offers.current())
        return {"object": "list", "data": [_model(service, name) for name in names]}

    @routes.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in {offer.model_name for offer in service.offers.current()}:
            raise Refusal("model_not_found", "no such model is served here: see /v1/models", status=404, param="model")
        return _model(service, name)

    @routes.get("/v1/offers/{offer_id}/{version}")
    async def offer(offer_id: int, version: int) -> Response:
        found = service.offers.find(offer_id, version)
        if found is None:
            raise Refusal("unknown_offer", "no such offer or version", status=404)
        return Response(found.to_json(), media_type="application/json")

    @routes.post("/v1/leases/{lease_id}/vouchers")
    async def vouchers(lease_id: str, request: Request) -> Response:
        check_version(request.headers.items())
        signed = parse_voucher(request.headers.get(VOUCHER_HEADER))
        if lease_id != "0x" + signed.message.lease_id.hex():
            raise Refusal(RefusalCode.MALFORMED, "the voucher is for another lease than the address")
        exposure = await service.accept_voucher(signed)
        figures = exposure.as_header(signed.message.lease_id, paused=False)
        return Response(status_code=204, headers=ResponseHeaders(exposure=figures).encode())

    @routes.get("/v1/receipts/{lease_id}/{seq}/proof")
    async def proof(lease_id: str, seq: int) -> dict[str, Any]:
        check_seq(seq)
        return await _proof(service, _lease_id(lease_id), seq)

    return routes


def check_seq(seq: int) -> None:
    """Raises Refusal for a number that the ledger cannot hold."""
    if not 0 <= seq <= MAX_SEQ:
        raise Refusal(RefusalCode.MALFORMED, f"seq must be from 0 to {MAX_SEQ}")


def _model(service: InferenceService, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": f"provider-{service.provider}"}


def _lease_id(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise Refusal(RefusalCode.MALFORMED, "a lease id is 0x and 64 hex digits")
    return raw


async def _proof(service: InferenceService, lease_id: bytes, seq: int) -> dict[str, Any]:
    position = await service.write(service.ledger.position, lease_id, seq)
    if position is None:
        raise Refusal("unknown_receipt", "there is no final receipt of this request", status=404)
    anchor = await service.write(lambda: service.ledger.last_anchor(confirmed=True))
    if anchor is None or anchor.signed.message.count <= position:
        raise Refusal("not_anchored", "this receipt is not anchored yet", status=404)
    count = anchor.signed.message.count
    path = await service.write(service.ledger.inclusion_proof, position, count)
    return {
        "provider": service.provider,
        "position": position,
        "count": count,
        "root": "0x" + anchor.signed.message.root.hex(),
        "proof": ["0x" + node.hex() for node in path],
    }
