"""The OpenAI API's shapes: requests in, errors and server-sent events out. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attestation.frames import Endpoint
from billing.receipt import Receipt
from client.errors import BadRequestError, ClientError
from client.receipts import KeptReceipt
from client.registry import ModelOffer

DONE = b"data: [DONE]\n\n"
MODEL_SIZE_MAX = 128
PATHS = {"/v1/chat/completions": Endpoint.CHAT_COMPLETIONS, "/v1/completions": Endpoint.COMPLETIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """What the sidecar itself needs to know of a request; the rest is for the enclave to judge."""

    model: str
    stream: bool
    body: bytes


def parse_request(body: bytes) -> ApiRequest:
    """Read a request body.

    Raises:
        BadRequestError: not a JSON object, or model or stream is not what it must be.
    """
    fields = load_object(body)
    model, stream = fields.get("model"), fields.get("stream")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_SIZE_MAX:
        raise BadRequestError("model must be the name of a model, see /v1/models", "invalid_value", "model")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequestError("stream must be true or false", "invalid_value", "stream")
    return ApiRequest(model=model, stream=bool(stream), body=body)


def load_object(data: bytes) -> dict[str, Any]:
    """Read one JSON object: unique keys, finite numbers.

    Raises:
        BadRequestError: it is not one.
    """
    if not data:
        raise BadRequestError("the body is empty: send a JSON object", "invalid_json")
    try:
        fields = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError):
        raise BadRequestError("the body is not valid JSON: send one JSON object in UTF-8", "invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequestError("the body is not a JSON object", "invalid_json")
    return fields


def error_body(error: ClientError) -> dict[str, Any]:
    """Return the error object that every OpenAI client understands."""
    return {
        "error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code},
    }


def error_headers(error: ClientError, *, pause_ms: Callable[[int], int]) -> dict[str, str]:
    """Return the headers that tell the SDK whether and when to try again by itself.

    `pause_ms` gives the time to wait from the least that makes sense after this error, both milliseconds.
    """
    headers = {"x-should-retry": "true" if error.should_retry else "false"}
    if error.retry_after_ms is not None:
        headers["retry-after-ms"] = str(pause_ms(error.retry_after_ms))
    return headers


def event(payload: bytes) -> bytes:
    """Return one server-sent event. The payload is JSON; a line break in it is white space, never a second event."""
    return b"data: " + payload.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"


def error_event(error: ClientError) -> bytes:
    """Return the event that ends a broken stream; no [DONE] follows it."""
    return event(json.dumps(error_body(error)).encode())


def model_object(offer: ModelOffer) -> dict[str, Any]:
    """Return a row of /v1/models; prices are nanotons per million tokens."""
    return {
        "id": offer.name,
        "object": "model",
        "created": 0,
        "owned_by": "chrysalis",
        "context_length": offer.context,
        "root": offer.root.hex(),
        "pricing": {
            "unit": "nanoton per million tokens",
            "prompt": offer.tariff.prompt_price,
            "cached": offer.tariff.cached_price,
            "completion": offer.tariff.completion_price,
            "reasoning": offer.tariff.reasoning_price,
        },
    }


def receipt_object(kept: KeptReceipt) -> dict[str, Any]:
    """Return a kept receipt for people and programs; `signed` is the record itself, in hex."""
    receipt: Receipt = kept.receipt
    return {
        "object": "receipt",
        "id": receipt.request_hash.hex(),
        "request_id": kept.request_id,
        "model": kept.model,
        "host_id": receipt.host_id.hex(),
        "lease": receipt.lease.hex(),
        "account": receipt.account.hex(),
        "usage": {
            "prompt_tokens": receipt.usage.prompt_tokens,
            "completion_tokens": receipt.usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": receipt.usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": receipt.usage.reasoning_tokens},
        },
        "price_nanotons": receipt.price,
        "payee": receipt.payee.hex(),
        "response_hash": receipt.response_hash.hex(),
        "transcript": receipt.transcript.hex(),
        "issued_at": receipt.issued_at,
        "receipt_key": kept.receipt_key.hex(),
        "signed": kept.signed.hex(),
    }


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_doubles(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields
