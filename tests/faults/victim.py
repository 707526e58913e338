"""One life of an operator's books, ended by SIGKILL before a chosen durable operation.

Every operation that leaves something behind is a point, found by the interpreter itself, not listed by hand: each SQL
statement of any SQLite database (trace callback), each file opened for writing, renamed or removed below the folder
(audit hook), and each send to the chain. After the last point of an operation the next operation's point follows, so
the states between two points are all there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytoniq_core import Address

from billing.books import Books
from billing.errors import BillingError, ChainError
from billing.journal import Journal
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.settlement import SettlementPolicy
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.sender import Sender
from billing.ton.settler import Settler
from tests.billing.support import ACCOUNT, HOST_KEY, PAYEES, TARIFF, make_grant, make_receipt, public
from tests.billing.ton.world import TON, TREASURY_KEY, treasury, vault_sender

PAIRS = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(0), max_age_s=0, batch_max=2)  # two batches of three
DEAR = replace(TARIFF, prompt_price=2 * 10**13, completion_price=6 * 10**13)
SLICE = 5 * TON
FEE_PERMILLE = 50
DEPOSIT = 3 * SLICE + TON
SETTLE_S = 2.0  # of wall time; what waits longer waits for the chain's clock, which the parent moves
DONE, REFUSED, WAITING = 0, 3, 4


@dataclass(kw_only=True)
class Fate:
    """Counts the points, and kills the process before one of them (-1: never)."""

    deadly: int
    folder: str
    passed: list[str] = field(default_factory=list)
    subject: str = "books"  # what is being written

    def point(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) - 1 == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Make points of all that this process will write."""
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            database = connect(*args, **kwargs)
            database.set_trace_callback(self.on_statement)
            return database

        sqlite3.connect = traced
        sys.addaudithook(self.on_audit)

    def on_statement(self, sql: str) -> None:
        verb = sql.split(maxsplit=1)[0].upper()
        if verb in {"BEGIN", "INSERT", "COMMIT"}:
            self.point(f"{self.subject} {verb.lower()}")

    def on_audit(self, event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR):
            if args[0].startswith(self.folder):
                self.point(f"write {Path(args[0]).suffix}")
        elif event in {"os.rename", "os.remove"} and str(args[0]).startswith(self.folder):
            self.point(event.removeprefix("os."))


def label_writes(fate: Fate) -> None:
    """Tell writes of the ledger from those of the outbox, by their records."""
    append = Journal.append

    def labelled(self: Journal, *payloads: bytes) -> int:
        kinds = {"outbox" if payload.startswith(b'{"batch"') else "ledger" for payload in payloads}
        fate.subject = "+".join(sorted(kinds))
        return append(self, *payloads)

    Journal.append = labelled  # type: ignore[method-assign]


class MortalClient(ChainClient):
    """A client whose sends are points."""

    fate: Fate

    async def send(self, boc: bytes) -> None:
        self.fate.point("send")
        await super().send(boc)
        self.fate.point("sent")


def sender_of(kind: str, folder: Path) -> Sender:
    return treasury(120) if kind == "highload" else vault_sender(folder / "roots", timeout_s=120)


def main(options: dict[str, Any]) -> None:
    """Live. Ends with a code of this module, or by the signal."""
    folder = Path(options["folder"])
    fate = Fate(deadly=options["deadly"], folder=str(folder))
    fate.watch()
    label_writes(fate)
    code = DONE
    try:
        asyncio.run(live(options, folder, fate))
    except (TimeoutError, ChainError):
        code = WAITING
    except BillingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = REFUSED
    if options["deadly"] < 0:
        Path(options["points"]).write_text(json.dumps(fate.passed))
    os._exit(code)


async def live(options: dict[str, Any], folder: Path, fate: Fate) -> None:
    """Deposits, holds, receipts, releases, batches: all of it again in each life, which must change nothing done."""
    offset = options["now"] - int(time.time())

    def clock() -> datetime:
        return datetime.fromtimestamp(int(time.time()) + offset, UTC)

    async with await MortalClient.connect(ChainConfig(**options["config"]), clock=clock) as chain:
        chain.fate = fate
        with Books.open(folder / "books") as books:
            settler = Settler(
                chain=chain,
                books=books,
                wallet=sender_of(options["sender"], folder),
                key=TREASURY_KEY,
                registry=Address(options["registry"]),
                clock=clock,
            )
            await settler.tick()
            earn(books, begun=options["begun"], now=int(clock().timestamp()))
            await settler.settle(timeout_s=SETTLE_S)
            if books.ledger.payables():
                await settler.plan(PAIRS)
            await settler.settle(timeout_s=SETTLE_S)


def earn(books: Books, *, begun: int, now: int) -> None:
    """One lease, three receipts in one write, and the release of what is left."""
    grant = make_grant(slices=(SLICE,) * 3, tariff=DEAR, not_after=begun + 600)
    books.post(books.ledger.plan_hold(grant, now=begun))
    with books.together():
        for host, payee in enumerate(PAYEES):
            receipt = replace(make_receipt(grant, host, host=host), issued_at=begun)
            books.post_receipt(sign(receipt), receipt_key=public(2), payee=payee, fee_permille=FEE_PERMILLE, now=begun)
    books.post(books.ledger.plan_release(grant.lease, now=max(now, begun + 800), grace_s=0))


def sign(receipt: Receipt) -> bytes:

    return sign_receipt(receipt, HOST_KEY)


def earned() -> list[int]:
    """What each of `PAYEES` has to have in the end, nanotons."""
    grant = make_grant(slices=(SLICE,) * 3, tariff=DEAR)
    prices = [make_receipt(grant, host, host=host).price for host in range(3)]
    return [price - price * FEE_PERMILLE // 1000 for price in prices]


__all__ = ["ACCOUNT", "DEPOSIT", "DONE", "REFUSED", "WAITING", "earned", "main", "sender_of"]
