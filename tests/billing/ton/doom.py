"""Kills a settler at a chosen point: before or after any write to the journal, before or after any send.

Run as a program it is the victim of a real SIGKILL: `python -m tests.billing.ton.doom CONFIG.json`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytoniq_core import Address

from billing.books import Books
from billing.journal import Journal
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.sender import Sender
from billing.ton.settler import Settler
from tests.billing.ton.world import TREASURY_KEY, treasury

PAIRS = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(0), max_age_s=0, batch_max=2)


class Killed(BaseException):
    """The process ended here; nothing may catch it."""


def die() -> None:
    raise Killed


@dataclass(kw_only=True)
class Fate:
    """Counts the points passed, and ends the process at one of them (-1: never)."""

    deadly: int
    strike: Callable[[], None] = die
    passed: list[str] = field(default_factory=list)

    def point(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) - 1 == self.deadly:
            self.strike()


class MortalJournal(Journal):
    """A journal whose owner may die around each write."""

    fate = Fate(deadly=-1)

    def append(self, *payloads: bytes) -> int:
        self.fate.point("before a write")
        seq = super().append(*payloads)
        self.fate.point("after a write")
        return seq


class MortalClient(ChainClient):
    """A client whose owner may die around each send."""

    fate = Fate(deadly=-1)

    async def send(self, boc: bytes) -> None:
        self.fate.point("before a send")
        await super().send(boc)
        self.fate.point("after a send")


def open_mortal(path: Path, fate: Fate) -> Journal:
    journal = MortalJournal.open(path)
    journal.fate = fate
    return journal


async def live(
    chain: ChainClient, journal: Journal, registry: Address | None, *, wallet: Sender | None = None, **options: object
) -> None:
    """One life: catch up with what is open, pay everybody due, until done or dead."""
    books = Books(journal)
    settler = Settler(
        chain=chain,
        books=books,
        wallet=wallet or treasury(),
        key=TREASURY_KEY,
        registry=registry,
        **options,  # type: ignore[arg-type]
    )
    await settler.settle(timeout_s=20)
    if books.ledger.payables():
        await settler.plan(PAIRS)
    await settler.settle(timeout_s=20)


async def main() -> None:
    options = json.loads(Path(sys.argv[1]).read_text())
    fate = Fate(deadly=options["deadly"], strike=lambda: os.kill(os.getpid(), signal.SIGKILL))
    async with await MortalClient.connect(ChainConfig(**options["config"])) as chain:
        chain.fate = fate
        with open_mortal(Path(options["books"]), fate) as journal:
            await live(chain, journal, None)
    print(json.dumps(fate.passed))


if __name__ == "__main__":
    asyncio.run(main())
