"""An offer as providers show it at `/v1/offers/{offer_id}/{version}`: its numeric terms and the document they name."""

from __future__ import annotations

import json
from typing import Any

from protocol.documents import DocumentType, check_document, check_terms_document
from protocol.exceptions import InvalidDocument, ProtocolError
from protocol.typed_data import Terms

MAX_OFFER_BYTES = 64 * 1024


def terms_to_json(terms: Terms) -> dict[str, Any]:
    """Terms as JSON values: bytes as 0x-hex."""
    return {name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in terms.as_dict().items()}


def terms_from_json(content: dict[str, Any]) -> Terms:
    """The reverse of `terms_to_json`. Raises InvalidField, KeyError, ValueError."""
    return Terms.from_dict({**content, "docHash": bytes.fromhex(str(content["docHash"]).removeprefix("0x"))})


def parse_offer(text: bytes) -> tuple[Terms, dict[str, Any]]:
    """Terms and document, which belong together; whose they are shows by the terms' digest. Raises InvalidDocument."""
    try:
        content = json.loads(text)
        terms = terms_from_json(content["terms"])
        document = content["document"]
        check_document(DocumentType.TERMS, document)
        check_terms_document(terms, document)
    except (KeyError, TypeError, ValueError, RecursionError, ProtocolError) as error:
        raise InvalidDocument(f"malformed offer: {error}") from error
    return terms, document
