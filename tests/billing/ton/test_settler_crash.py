"""The settlement outbox, killed between any two states: every payee is paid exactly once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest
from pytoniq_core import Address

from billing.books import Books
from billing.entries import payee_account
from billing.ton.devnet import Devnet, Fault, FaultKind, running_devnet
from billing.ton.settler import Settler
from tests.billing.ton.doom import Fate, Killed, MortalClient, live, open_mortal
from tests.billing.ton.world import (
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    owe,
    payees,
    treasury,
)

PAYEES = payees(3)  # two batches
DEBTS = {payee: TON + i for i, payee in enumerate(PAYEES)}
ROOT = Path(__file__).parents[3]


async def prepare(devnet: Devnet, books_path: Path) -> None:
    """A treasury with money, and books that know it and owe part of it."""
    await fund(devnet, treasury().address, 1000 * TON)
    async with await MortalClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
        with Books.open(books_path) as books:
            settler = Settler(chain=chain, books=books, wallet=treasury(), key=TREASURY_KEY, clock=chain_clock(devnet))
            await settler.tick()
            owe(books, DEBTS, at=devnet.node.clock.now())


async def live_once(devnet: Devnet, books_path: Path, fate: Fate, registry: Address | None) -> bool:
    """One life of a settler; False when it was killed."""
    async with await MortalClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
        chain.fate = fate
        with open_mortal(books_path, fate) as journal:
            try:
                await live(chain, journal, registry, clock=chain_clock(devnet))
            except Killed:
                return False
    return True


async def check_paid_once(devnet: Devnet, books_path: Path) -> None:
    async with await MortalClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
        with Books.open(books_path) as books:
            settler = Settler(chain=chain, books=books, wallet=treasury(), key=TREASURY_KEY, clock=chain_clock(devnet))
            report = await settler.tick()
            assert report.open == 0
            assert report.reconciliation.difference == 0
            assert report.reconciliation.in_flight == 0
            assert report.reconciliation.chain == books.ledger.treasury()
            assert books.ledger.imbalance() == 0
            assert not any(books.ledger.balance(payee_account(payee)) for payee in PAYEES)
            assert {t.payee: t.paid for t in books.ledger.totals()} == {}  # nobody earned by receipt in this test
            assert await balances(chain, PAYEES) == list(DEBTS.values())


def fates(second: int | None) -> Iterator[tuple[int, int]]:
    for deadly in count():
        yield deadly, -1 if second is None else second


async def run_matrix(folder: Path, *, second: int | None, registry: bool, fault: FaultKind | None) -> list[str]:
    """Kill at point 0, 1, 2... of the first life (and at `second` of the next one) until a life passes them all."""
    for deadly, next_deadly in fates(second):
        state = folder / f"{deadly}"
        async with running_devnet(state / "net") as devnet:
            await prepare(devnet, state / "books")
            address = None
            if registry:
                async with await MortalClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
                    address = (await deploy_registry(devnet, chain)).address
            if fault is not None:
                devnet.node.faults.inject(Fault(kind=fault))
            fate = Fate(deadly=deadly)
            survived = await live_once(devnet, state / "books", fate, address)
            if not survived:
                for again in (next_deadly, -1):
                    await devnet.node.advance(11)
                    await live_once(devnet, state / "books", Fate(deadly=again), address)
            await check_paid_once(devnet, state / "books")
        if survived:
            return fate.passed
    raise AssertionError("unreachable")


@pytest.mark.timeout(600)  # thirty-five lives and as many second ones; a quarter of a minute on an idle machine
async def test_killed_at_every_write_and_send_each_payee_is_paid_exactly_once(tmp_path: Path) -> None:
    passed = await run_matrix(tmp_path, second=None, registry=True, fault=None)
    assert passed.count("before a send") == 2
    assert passed.count("after a write") >= 11  # two plans, and for each batch: signed, sent, accepted, confirmed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("second", [1, 4])
async def test_killed_twice_each_payee_is_paid_exactly_once(tmp_path: Path, second: int) -> None:
    await run_matrix(tmp_path, second=second, registry=False, fault=None)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [FaultKind.LOSE_ANSWER, FaultKind.DUPLICATE])
async def test_killed_while_the_network_misbehaves_each_payee_is_paid_exactly_once(
    tmp_path: Path, fault: FaultKind
) -> None:
    await run_matrix(tmp_path, second=None, registry=False, fault=fault)


@pytest.mark.parametrize("deadly", [1, 4, 5, 6, 9])
async def test_a_settler_process_ended_by_sigkill_leaves_nothing_to_pay_twice(tmp_path: Path, deadly: int) -> None:
    async with running_devnet(tmp_path / "net") as devnet:
        await prepare(devnet, tmp_path / "books")
        for fatal in (deadly, -1):
            options = {"config": asdict(config_of(devnet)), "books": str(tmp_path / "books"), "deadly": fatal}
            (tmp_path / "options.json").write_text(json.dumps(options))
            victim = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.billing.ton.doom",
                str(tmp_path / "options.json"),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, errors = await victim.communicate()
            assert victim.returncode == (-9 if fatal >= 0 else 0), errors.decode()
        assert json.loads(out)
        await check_paid_once(devnet, tmp_path / "books")
