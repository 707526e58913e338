"""The sidecar: an OpenAI-compatible API on loopback whose every answer comes from an attested host.

POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /v1/models/{id}, GET /v1/receipts[/{id}],
GET /v1/attestation, GET /health. Headers of an answer: x-request-id, x-chrysalis-host (the verified host),
x-chrysalis-receipt (the id under which the receipt is found once the answer has ended).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from billing.money import Nanotons
from client.answer import Answer
from client.asking import Client, Question
from client.comebacks import Comebacks
from client.errors import AnswerError, BadRequestError, ClientError
from client.idempotency import IdempotencyCache, Reply
from client.openai import (
    DONE,
    PATHS,
    ApiRequest,
    error_body,
    error_event,
    error_headers,
    event,
    model_object,
    parse_request,
    receipt_object,
)
from client.receipts import ReceiptStore
from client.registry import Registry
from client.replies import CallerGoneError, PipedResponse, unless_gone
from client.verify import Verifier

KEY_SIZE_MAX = 255
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
RECEIPTS_LISTED = 100

Handler = Callable[[Request], Awaitable[Response]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarOptions:
    """What the sidecar enforces on its callers."""

    price_cap: Nanotons
    body_max: int
    api_key: str = ""


class Sidecar:
    """The API's handlers; `app` is the ASGI application."""

    def __init__(
        self,
        client: Client,
        options: SidecarOptions,
        *,
        registry: Registry,
        verifier: Verifier,
        receipts: ReceiptStore,
        kept: IdempotencyCache,
        comebacks: Comebacks,
        random: Callable[[int], bytes],
    ) -> None:
        self._client, self._options = client, options
        self._registry, self._verifier, self._receipts = registry, verifier, receipts
        self._kept, self._comebacks, self._random = kept, comebacks, random
        routes = [Route(path, self._guard(self._ask), methods=["POST"]) for path in PATHS]
        for path, handler in (
            ("/v1/models", self._list_models),
            ("/v1/models/{name:path}", self._show_model),
            ("/v1/receipts", self._list_receipts),
            ("/v1/receipts/{name}", self._show_receipt),
            ("/v1/attestation", self._show_attestation),
            ("/health", self._show_health),
        ):
            routes.append(Route(path, self._guard(handler), methods=["GET"]))
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: self._answer_no_route})

    # --- every request ------------------------------------------------------------------------------------------

    def _guard(self, handler: Handler) -> Handler:
        """Wrap a handler: who may call, errors in the API's shape, nothing of a request in any log."""

        async def guarded(request: Request) -> Response:
            request.state.id = f"req_{self._random(12).hex()}"
            try:
                self._check_caller(request)
                response = await handler(request)
            except ClientError as error:
                _log.info("request %s: %s %s", request.state.id, error.status, error.code)
                response = self._error_response(error)
            except (CallerGoneError, ClientDisconnect):
                response = Response(status_code=499)
            except Exception as error:  # noqa: BLE001  a trace could quote the prompt, so only its kind is told
                _log.error("request %s failed: %s", request.state.id, type(error).__name__)
                response = self._error_response(_internal_error())
            response.headers["x-request-id"] = request.state.id
            return response

        return guarded

    def _check_caller(self, request: Request) -> None:
        """Refuse web pages (by Host and content type) and, if a key is set, callers without it."""
        if urlsplit(f"//{request.headers.get('host', '')}").hostname not in LOCAL_NAMES:
            raise BadRequestError("call the sidecar by its loopback address", "wrong_host", None, 403)
        if request.method == "POST":
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise BadRequestError("send content-type: application/json", "unsupported_media_type", None, 415)
        if self._options.api_key:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._options.api_key.encode()):
                raise BadRequestError(
                    "the API key is wrong: send the one of the settings", "invalid_api_key", None, 401
                )

    async def _read_body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._options.body_max:
                most = self._options.body_max
                raise BadRequestError(f"the body is over {most} bytes: shorten it", "request_too_large", None, 413)
            parts.append(part)
        return b"".join(parts)

    def _error_response(self, error: ClientError) -> Response:
        headers = error_headers(error, pause_ms=self._comebacks.pause_ms)
        return JSONResponse(error_body(error), status_code=error.status, headers=headers)

    async def _answer_no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = "this path takes another method" if status == 405 else "there is no such path; see the sidecar's page"
        code = "method_not_allowed" if status == 405 else "not_found"
        _log.info("no route for a %s request", request.method)
        return self._error_response(BadRequestError(words, code, None, status))

    # --- questions ----------------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Response:
        body = await self._read_body(request)
        asked = parse_request(body)
        question = Question(
            id=request.state.id,
            endpoint=PATHS[request.url.path],
            model=asked.model,
            body=body,
            price_cap=self._options.price_cap,
        )
        key = request.headers.get("idempotency-key")
        reply = await unless_gone(request.receive, self._reply(key, question, asked))
        return PipedResponse(reply)

    async def _reply(self, key: str | None, question: Question, asked: ApiRequest) -> Reply:
        if key is None:
            return await self._make_reply(question, asked)
        if not 0 < len(key) <= KEY_SIZE_MAX:
            raise BadRequestError(f"an Idempotency-Key has 1 to {KEY_SIZE_MAX} characters", "invalid_idempotency_key")
        named = bytes([question.endpoint]) + question.body
        return await self._kept.reply(key, named, lambda: self._make_reply(question, asked))

    async def _make_reply(self, question: Question, asked: ApiRequest) -> Reply:
        answer = await self._client.ask(question)
        headers = {"x-chrysalis-host": answer.host.host_id.hex(), "x-chrysalis-receipt": answer.request_hash.hex()}
        if asked.stream:
            headers |= {"content-type": "text/event-stream", "cache-control": "no-store"}
            return Reply(status=200, headers=headers, body=_events(answer), close=answer.aclose)
        whole = await _read_whole(answer)
        headers |= {"content-type": "application/json", "cache-control": "no-store"}
        return Reply(status=200, headers=headers, body=_once(whole), close=answer.aclose)

    # --- reading ------------------------------------------------------------------------------------------------

    async def _list_models(self, _: Request) -> Response:
        offers = self._registry.view().models
        return JSONResponse({"object": "list", "data": [model_object(offers[name]) for name in sorted(offers)]})

    async def _show_model(self, request: Request) -> Response:
        return JSONResponse(model_object(self._registry.view().model(request.path_params["name"])))

    async def _list_receipts(self, _: Request) -> Response:
        kept = self._receipts.latest(RECEIPTS_LISTED)
        return JSONResponse({"object": "list", "data": [receipt_object(receipt) for receipt in kept]})

    async def _show_receipt(self, request: Request) -> Response:
        kept = self._receipts.find(request.path_params["name"])
        if kept is None:
            raise BadRequestError(
                "there is no such receipt: it is kept once its answer has ended", "receipt_not_found", None, 404
            )
        return JSONResponse(receipt_object(kept))

    async def _show_attestation(self, _: Request) -> Response:
        view = self._registry.view()
        refusals = [
            {"host_id": refusal.host_id.hex(), "reason": refusal.why, "at": refusal.at.isoformat()}
            for refusal in self._verifier.refusals
        ]
        return JSONResponse(
            {
                "registry": {"seqno": view.seqno, "read_at": view.read_at.isoformat()},
                "required_tier": self._verifier.policy.required_tier.value,
                "hosts": [verdict.to_dict() for verdict in self._verifier.verdicts],
                "refused": refusals,
            }
        )

    async def _show_health(self, _: Request) -> Response:
        self._registry.view()
        return JSONResponse({"status": "ok"})


async def _events(answer: Answer) -> AsyncGenerator[bytes, None]:
    """Yield the answer as server-sent events; a broken one ends in an error event, never in [DONE]."""
    try:
        async with aclosing(aiter(answer)) as payloads:
            async for payload in payloads:
                yield event(payload)
        yield DONE
    except ClientError as error:
        yield error_event(error)
    except Exception as error:  # noqa: BLE001  as above: the kind only
        _log.error("a stream failed: %s", type(error).__name__)
        yield error_event(_internal_error())


async def _read_whole(answer: Answer) -> bytes:
    """Return the one JSON object of an answer that is not streamed, after its receipt held."""
    async with aclosing(aiter(answer)) as payloads:
        parts = [payload async for payload in payloads]
    if len(parts) != 1:
        raise AnswerError(answer.host.host_id.hex(), f"{len(parts)} JSON objects where one belongs")
    return parts[0]


async def _once(whole: bytes) -> AsyncGenerator[bytes, None]:
    yield whole


def _internal_error() -> ClientError:
    return ClientError("the sidecar failed on this request; its log has the kind of failure under the request id")
