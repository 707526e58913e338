"""Open hosts of different owners with real enclaves, and an operator that keeps real books about them."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from attestation.collect import NoTee
from attestation.simulate import SimulatedHost, SimulatedVendors
from attestation.verdict import Tier
from billing.books import Books
from billing.errors import BillingError
from billing.grant import Grant
from billing.receipt import parse_receipt
from billing.verdict import verify_verdict
from client.config import ClientConfig
from client.running import ClientParts, open_parts
from client.wallet import Wallet
from enclave.enclave import Enclave
from enclave.engine.base import Ask, Piece
from enclave.engine.echo import EchoEngine
from enclave.service import Limits
from tests.client.support import (
    Clock,
    Operator,
    StaticRegistry,
    make_config,
    make_registry,
    refusal,
    start_enclave,
    write_policy,
)

DEPOSIT = 10**10
FEE = 50  # permille


class LyingEngine(EchoEngine):
    """Answers as fast as any, and something else: each word is the one before, or its own."""

    def __init__(self, lie: str = "lie", share: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._lie, self._share = lie, share

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The echo, its words replaced."""
        lies = self._share()
        async for piece in super().answer(ask):
            yield replace(piece, text=f"{self._lie} ") if lies else piece


def payee_of(number: int) -> bytes:
    return bytes([0]) + bytes([number + 1]) * 32


@dataclass
class OpenOperator(Operator):
    """An operator whose ledger is the real one; receipts come with verdicts, or when `post_all` is called."""

    books: Books = field(kw_only=True)
    clock: Clock = field(default_factory=Clock)
    payees: dict[bytes, bytes] = field(default_factory=dict)  # host id -> payee
    lose_verdicts: int = 0  # so many of the next answers never arrive, though they were booked
    refuse_verdicts: bool = False
    verdicts: list[bytes] = field(default_factory=list)

    @property
    def now(self) -> int:
        return int(self.clock().timestamp())

    def hold(self, grant: Grant) -> Grant:
        ledger = self.books.ledger
        if not ledger.is_client(grant.account):
            self.books.post(ledger.plan_deposit("first", grant.account, DEPOSIT, now=self.now))
        self.books.post(ledger.plan_hold(grant, now=self.now))
        return grant

    async def _verdict(self, request: web.Request) -> web.Response:
        if self.refuse_verdicts:
            return refusal(409, "verdict_refused")
        body = await request.json()
        signed, *receipts = (base64.b64decode(part) for part in (body["verdict"], *body["receipts"]))
        try:
            verdict = verify_verdict(signed, self.public_key)
            for receipt in receipts:
                self.post(receipt)
            self.books.post_verdict(verdict, signed, now=self.now)
        except BillingError as error:
            name = type(error).__name__
            return web.json_response({"error": {"code": "verdict_refused", "message": f"{name}: {error}"}}, status=409)
        self.verdicts.append(signed)
        if self.lose_verdicts:
            self.lose_verdicts -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"unit": verdict.unit.hex()})

    def post(self, signed: bytes) -> None:
        enclave = self.enclave(parse_receipt(signed).host_id)
        assert enclave is not None
        self.books.post_receipt(
            signed,
            receipt_key=enclave.service.keys.receipt_public,
            payee=self.payees[enclave.host_id],
            fee_permille=FEE,
            now=self.now,
        )

    async def post_all(self) -> None:
        """What every host would do by itself: bring all its receipts."""
        for enclave in self.enclaves:
            for stored in enclave._journal.after(0, 10_000):
                self.post(stored.receipt)

    def earned(self, number: int) -> int:
        return self.books.ledger.earned(payee_of(number))


@dataclass
class OpenNetwork:
    operator: OpenOperator
    registry: StaticRegistry
    wallet: Wallet
    config: ClientConfig
    clock: Clock

    @property
    def enclaves(self) -> list[Enclave]:
        return self.operator.enclaves

    @contextlib.asynccontextmanager
    async def parts(self) -> AsyncIterator[ClientParts]:
        opened = open_parts(self.config, self.wallet, self.registry, clock=self.clock, tier=Tier.OPEN)
        async with opened as parts:
            yield parts


@contextlib.asynccontextmanager
async def run_open_network(
    folder: Path,
    vendors: SimulatedVendors,
    attested: list[SimulatedHost],
    engines: Sequence[Callable[[], Any]],
    *,
    owners: Sequence[int] | None = None,
    **changes: Any,
) -> AsyncIterator[OpenNetwork]:
    """A network of open hosts, one for each engine; `owners` are the numbers of their payees, each its own if none."""
    async with contextlib.AsyncExitStack() as stack:
        books = stack.enter_context(Books.open(folder / "books.sqlite"))
        operator = OpenOperator(books=books)
        for number, engine in enumerate(engines):
            payee = payee_of(owners[number] if owners else number)
            limits = Limits(running=32, waiting=64)
            enclave = await start_enclave(
                folder / f"open{number}", NoTee(), operator.public_key, payee, engine=engine, limits=limits
            )
            stack.push_async_callback(enclave.stop, 0.1)
            operator.enclaves.append(enclave)
            operator.payees[enclave.host_id] = payee
        operator.grant_changes["review"] = True
        await stack.enter_async_context(operator.serve())
        write_policy(folder / "policy.yaml", vendors)
        registry = StaticRegistry(make_registry(attested, operator.public_key, operator.url))
        wallet = Wallet.create(folder / "wallet.key")
        config = make_config(folder, **changes)
        yield OpenNetwork(operator=operator, registry=registry, wallet=wallet, config=config, clock=operator.clock)
