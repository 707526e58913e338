"""The operator's HTTP interface: leases, models and hosts. An ASGI app that knows nothing of Ray.

| request | answer |
| --- | --- |
| POST /v1/leases | a lease: signed grant, relay, and for each candidate host a ticket |
| GET /v1/payment | how leases may be paid: the treasury's address, the payment channels that are taken |
| POST /v1/verdicts | a client's verdict on copies of a unit booked, with the receipts that came with it |
| POST /v1/channels/close | a payment channel closed at once, as its client signed |
| POST /v1/statements | what the books say of an account or a payee, with the receipts, as its key signed for |
| GET /v1/models | models of the on-chain registry with their prices |
| GET /v1/hosts | every host with its state, what it proved, or why it was refused |
| GET /v1/claims/{payee} | what a payee may claim from the vault, with its proof; payee is 0:<hex> |

Refusals have OpenAI's error shape. Prompts never come here: a client sends them sealed, through the relay.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from billing.channel_book import AgreedClose
from billing.claim_proof import ClaimProof, parse_address
from billing.errors import (
    BillingError,
    ChainError,
    MalformedRecordError,
)
from billing.grant import Grant, verify_grant
from billing.lease_request import verify_lease_request
from billing.payment import CloseOrder, parse_close_order
from billing.statement import Party, Statement
from billing.statement_lines import encode_statement
from billing.ton.channel_office import ChannelPolicy
from billing.ton.statement_request import verify_statement_request
from billing.verdict import COPIES_MAX, UnitVerdict, verify_verdict
from cluster.errors import (
    ClusterError,
    NoEligibleHostError,
    TooManyVerdictsError,
)
from cluster.fleet import FleetSnapshot, HostRecord
from cluster.lease import candidates_of, check_fresh, plan_lease
from cluster.model import ModelOffer
from cluster.rate_limit import Buckets, Rate
from cluster.ticket import make_ticket
from serve_apps.refusals import answer_http_error, answer_refusal

BODY_SIZE_MAX = 16 << 10
VERDICT_RATE = Rate(burst=1000, period_s=0.01)  # of one account: as fast as the relay takes its requests, by copies
ASKERS_MAX = 4096
BLOCK_SIZE = 64 << 10  # bytes of a statement sent at once


class LeaseDesk(Protocol):
    """What the interface decides from and writes to."""

    @property
    def fleet(self) -> FleetSnapshot:
        """The latest snapshot."""
        ...

    @property
    def relay(self) -> str:
        """Where clients send sealed requests: http://host:port."""
        ...

    @property
    def ticket_key(self) -> bytes:
        """32 bytes shared with the relay."""
        ...

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        """Hold the money by the client's signed order, and return the signed grant.

        A payment beside the order is taken first. Raises BillingError, ChainError, LeaseRequestError or TroubleError
        when that fails.
        """
        ...

    async def judge(self, verdict: bytes, receipts: Sequence[bytes]) -> None:
        """Book a signed verdict with the receipts of its copies; BillingError, ReceiptRefusedError or TroubleError."""
        ...

    async def claim(self, payee: bytes) -> ClaimProof:
        """What a payee (33 bytes) may claim, and the proof; BillingError or TroubleError when there is none now."""
        ...

    @property
    def network_id(self) -> int:
        """The chain's global id: a payee's address follows from its key and this."""
        ...

    async def statement(self, party: Party, *, start: int, end: int) -> Statement:
        """The party's statement; raises StatementError, JournalError or TroubleError when there is none now."""
        ...

    async def payment_terms(self) -> dict[str, Any]:
        """What `GET /v1/payment` answers."""
        ...

    async def close_channel(self, order: CloseOrder) -> AgreedClose:
        """Close a payment channel; raises as `ChannelOffice.close`, or TroubleError."""
        ...


def build_app(desk: LeaseDesk, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> FastAPI:
    """The ASGI app over `desk`."""
    app = FastAPI(title="Chrysalis gateway", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/leases")
    async def create_lease(request: Request) -> JSONResponse:
        body = await _read_object(request)
        return JSONResponse(await grant_lease(desk, body, now=clock()))

    judging = Buckets(VERDICT_RATE, askers_max=ASKERS_MAX)

    @app.post("/v1/verdicts")
    async def judge(request: Request) -> JSONResponse:
        verdict, signed, receipts = read_verdict(await _read_object(request), desk.fleet.operator)
        check_rate(judging, verdict.account, now_s=clock().timestamp())
        await desk.judge(signed, receipts)
        return JSONResponse({"unit": verdict.unit.hex(), "copies": len(verdict.copies)})

    @app.get("/v1/payment")
    async def payment_terms() -> JSONResponse:
        return JSONResponse(await desk.payment_terms())

    @app.post("/v1/channels/close")
    async def close_channel(request: Request) -> JSONResponse:
        order = parse_close_order(await _read_object(request))
        agreed = await desk.close_channel(order)
        return JSONResponse(
            {
                "total": agreed.total,
                "valid_until": agreed.valid_until,
                "client_signature": agreed.client_signature.hex(),
                "operator_signature": agreed.operator_signature.hex(),
            }
        )

    @app.post("/v1/statements")
    async def make_statement(request: Request) -> Response:
        wanted = verify_statement_request(await _read_object(request), operator=desk.fleet.operator)
        check_fresh(wanted.issued_at, now=clock())
        statement = await desk.statement(wanted.party(desk.network_id), start=wanted.start, end=wanted.end)
        return StreamingResponse(_blocks(encode_statement(statement)), media_type="application/jsonl")

    @app.get("/v1/models")
    async def list_models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [describe_model(model) for model in desk.fleet.models]})

    @app.get("/v1/hosts")
    async def list_hosts() -> JSONResponse:
        fleet = desk.fleet
        return JSONResponse(
            {"object": "list", "at": fleet.at.isoformat(), "data": [describe_host(host) for host in fleet.hosts]}
        )

    @app.get("/v1/claims/{payee}")
    async def read_claim(payee: str) -> Response:
        try:
            name = parse_address(payee)
        except ValueError as error:
            raise HTTPException(400, f"{error}: ask for /v1/claims/0:<64 hexadecimal digits>") from None
        return Response((await desk.claim(name)).to_json(), media_type="application/json")

    app.add_exception_handler(HTTPException, answer_http_error)
    for kind in (BillingError, ClusterError, ChainError):
        app.add_exception_handler(kind, answer_refusal)
    return app


async def grant_lease(desk: LeaseDesk, body: Mapping[str, object], *, now: datetime) -> dict[str, Any]:
    """Verify a signed request, choose hosts from the snapshot, hold the money, and write the tickets.

    Raises:
        BillingError: not signed by its account, or without funds.
        ClusterError: stale, an unknown model, or no host that fits.
    """
    fleet = desk.fleet
    request = verify_lease_request(body, operator=fleet.operator)  # (1) who asks
    plan = plan_lease(request, fleet, now=now)  # (2) what may be granted
    signed = await desk.place_hold(plan.grant, body)  # (3) money first; the same request again gets its first grant
    grant = verify_grant(signed, fleet.operator)
    hosts = candidates_of(grant, fleet)
    if not hosts:
        raise NoEligibleHostError(plan.model.name, tuple((h.host_id.hex(), "left the fleet") for h in grant.hosts))
    coefficients = {part.host_id: part.coefficient for part in grant.hosts}
    return {
        "lease": grant.lease.hex(),
        "expires_at": grant.not_after,
        "model": describe_model(plan.model),
        "grant": base64.b64encode(signed).decode(),
        "relay": desk.relay,
        "candidates": [_candidate(host, grant, coefficients, desk.ticket_key) for host in hosts],
    }


def read_verdict(body: Mapping[str, object], operator: bytes) -> tuple[UnitVerdict, bytes, list[bytes]]:
    """The verdict in a request, verified, its bytes, and the receipts beside it, which are not verified yet.

    Raises:
        MalformedRecordError, BadSignatureError: it is none, or its account did not sign it.
    """
    listed = body.get("receipts")
    if set(body) != {"verdict", "receipts"} or not isinstance(listed, list) or len(listed) > COPIES_MAX:
        raise MalformedRecordError(
            "verdict", f"send verdict, and receipts as a list of {COPIES_MAX} at most, in base64"
        )
    signed, *receipts = (_unbase64(each) for each in (body["verdict"], *listed))
    return verify_verdict(signed, operator), signed, receipts


def check_rate(buckets: Buckets, account: bytes, *, now_s: float) -> None:
    """Raise TooManyVerdictsError when an account sends more verdicts than VERDICT_RATE allows."""
    if wait_s := buckets.take(account.hex(), now_s=now_s):
        raise TooManyVerdictsError(wait_s)


def _unbase64(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except ValueError:
        raise MalformedRecordError("verdict", "it is not base64") from None


def describe_payment(treasury: str, channels: ChannelPolicy) -> dict[str, Any]:
    """How leases may be paid, as JSON. The keys and the wallet in a channel's terms are the registry's."""
    taken = {"delay_min_s": channels.delay_min_s} if channels.accept else None
    return {"treasury": treasury, "channel": taken}


def describe_model(model: ModelOffer) -> dict[str, Any]:
    """A model as JSON; prices are nanotons per million tokens."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "chrysalis",
        "root": model.root.hex(),
        "context_length": model.context,
        "tariff": {
            "prompt": model.tariff.prompt_price,
            "cached": model.tariff.cached_price,
            "completion": model.tariff.completion_price,
            "reasoning": model.tariff.reasoning_price,
        },
    }


def describe_host(host: HostRecord) -> dict[str, Any]:
    """A host as JSON: what it proved, or why it was refused."""
    described: dict[str, Any] = {
        "host_id": host.host_id.hex() if host.host_id else None,
        "name": host.hints.name,
        "state": str(host.state),
        "reason": host.reason,
        "since": host.since.isoformat(),
        "coefficient": host.hints.coefficient,
        "node_id": host.node_id,
        "running": host.load.running,
        "waiting": host.load.waiting,
        "served": host.load.served,
        "output_tokens": host.load.output_tokens,
        "loaded": sorted(root.hex() for root in host.load.models),
        "error": host.error or None,
    }
    capability = host.capability
    if capability is not None:
        described |= {
            "tier": str(capability.tier),
            "tee": str(capability.tee) if capability.tee else None,
            "trust_domains": list(capability.trust_domains),
            "tcb_status": capability.tcb_status,
            "gpus": [{"model": gpu.model, "driver": gpu.driver, "cc": str(gpu.cc)} for gpu in capability.gpus],
            "models": sorted(root.hex() for root in capability.models),
            "verified_at": capability.verified_at.isoformat(),
            "not_after": capability.not_after.isoformat(),
        }
    return described


def _candidate(host: HostRecord, grant: Grant, coefficients: Mapping[bytes, int], ticket_key: bytes) -> dict[str, Any]:
    if host.host_id is None or host.capability is None:
        raise ValueError("a candidate has proved itself")
    return {
        "host_id": host.host_id.hex(),
        "ticket": make_ticket(
            ticket_key, host_id=host.host_id, account=grant.account, lease=grant.lease, expires=grant.not_after
        ),
        "relay_path": f"/h/{host.host_id.hex()}",
        "direct": host.address,
        "tier": str(host.capability.tier),
        "tee": str(host.capability.tee) if host.capability.tee else None,
        "gpus": [gpu.model for gpu in host.capability.gpus],
        "coefficient": coefficients[host.host_id],
    }


async def _blocks(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Gather lines into blocks worth sending, and let others in between."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= BLOCK_SIZE:
            yield bytes(block)
            block.clear()
            await asyncio.sleep(0)
    yield bytes(block)


async def _read_object(request: Request) -> Mapping[str, object]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_SIZE_MAX:
            raise HTTPException(413, f"the body has more than {BODY_SIZE_MAX} bytes: a lease request is smaller")
    if not body:
        raise HTTPException(400, "the body is empty: send a signed lease request as a JSON object")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON: send a signed lease request as a JSON object") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body is not a JSON object: send a signed lease request")
    return value
