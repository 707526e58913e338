"""The crash matrix: an operator killed before every durable operation, under every fault of the chain.

    python -m tests.faults.matrix [--runs 20] [--sender highload] [--fault drop] ...

A case: an operator lives until it is killed at a point, and lives again until nothing is left to do; then the chain is
asked. A fault is there from the start, and again after the kill.
Balances of treasury and payees must equal the ledger to the nanoton, and each payee must have been paid exactly once.
The table says how often each kind of point was deadly; a case that does not hold ends the run with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path

from billing.batch import PayoutState
from billing.books import Books
from billing.errors import BillingError
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.deposits import deposit_transfer
from billing.ton.devnet import Devnet, Fault, FaultKind, running_devnet
from billing.ton.settler import Settler
from billing.ton.wallet import pay
from tests.billing.support import PAYEES
from tests.billing.ton.world import (
    CLIENT_KEY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    wallet_of,
)
from tests.faults import victim

SENDERS = ("highload", "vault")
FAULTS = ("none", *(kind.value for kind in FaultKind))
LIVES_MAX = 40
REST_S = 60  # of chain time between two lives; a message that expires takes 180 s
LIFE_S = 60.0
FAULT_COUNT = 3  # spoiled sends or answers


class CaseFailedError(AssertionError):
    """Money was lost, paid twice, or left somewhere."""


@dataclass(kw_only=True)
class Table:
    """How often each kind of point was deadly, by sender and fault."""

    kills: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def text(self, sender: str) -> str:
        faults = [fault for name, fault in self.kills if name == sender]
        kinds = sorted(set().union(*(self.kills[sender, fault] for fault in faults)))
        lines = [f"{sender:26}" + "".join(f"{fault[:11]:>12}" for fault in faults)]
        for kind in kinds:
            lines.append(f"{kind:26}" + "".join(f"{self.kills[sender, fault][kind]:12}" for fault in faults))
        return "\n".join(lines)


async def run_case(folder: Path, *, sender: str, fault: str, deadly: int) -> tuple[bool, list[str]]:
    """One case; whether it was killed, and the points an undisturbed life passes (only for `deadly` -1).

    Raises:
        CaseFailedError: the chain does not show what the ledger says.
    """
    async with running_devnet(folder / "net") as devnet:
        options = await prepare(devnet, folder, sender)
        if fault != "none":
            devnet.node.faults.inject(fault_of(fault), FAULT_COUNT)
        killed = False
        for life in range(LIVES_MAX):
            code = await live({**options, "now": devnet.node.clock.now(), "deadly": -1 if killed else deadly})
            if code == -9:
                killed = True
                if fault != "none":
                    devnet.node.faults.inject(fault_of(fault), FAULT_COUNT)  # who comes back meets it too
            if code == victim.DONE:
                break
            if code not in {-9, victim.REFUSED, victim.WAITING}:
                raise CaseFailedError(f"life {life} ended with {code}")
            await devnet.node.advance(REST_S)
        else:
            raise CaseFailedError(f"not settled after {LIVES_MAX} lives")
        devnet.node.faults.clear()
        await check_paid_once(devnet, folder, sender)
        points = folder / "points.json"
        return killed, json.loads(points.read_text()) if points.exists() else []


def fault_of(fault: str) -> Fault:
    kind = FaultKind(fault)
    return Fault(kind=kind, delay_s=0.2 if kind is FaultKind.DELAY else 0.0)


async def prepare(devnet: Devnet, folder: Path, sender: str) -> dict:
    """A chain with registry, a funded treasury, and a client's deposit on its way into the books."""
    clock = chain_clock(devnet)
    wallet = victim.sender_of(sender, folder)
    await fund(devnet, wallet.address, 10 * TON)
    await fund(devnet, wallet_of(CLIENT_KEY).address, victim.DEPOSIT + TON)
    async with await ChainClient.connect(config_of(devnet), clock=clock) as chain:
        registry = await deploy_registry(devnet, chain, operator_wallet=wallet.address)
        deposit = deposit_transfer(wallet.address, victim.ACCOUNT, Nanotons(victim.DEPOSIT))
        await pay(chain, wallet_of(CLIENT_KEY), CLIENT_KEY, [deposit], now=clock())
    await settle_chain(devnet)
    config = {name: value for name, value in asdict(config_of(devnet, timeout_s=1.0)).items() if name != "second"}
    return {
        "config": config,
        "folder": str(folder),
        "points": str(folder / "points.json"),
        "sender": sender,
        "registry": registry.address.to_str(is_user_friendly=False),
        "begun": devnet.node.clock.now(),
    }


async def live(options: dict) -> int:
    """A life in a process of its own; its exit code, -9 when it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.victim"])
    process = context.Process(target=victim.main, args=(options,), daemon=True)
    process.start()
    try:
        await asyncio.to_thread(process.join, LIFE_S)
        if process.exitcode is None:
            raise CaseFailedError(f"a life did not end within {LIFE_S} s")
        return process.exitcode
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


async def settle_chain(devnet: Devnet) -> None:
    await devnet.node.tick()
    while devnet.node.chain.pending:
        await asyncio.sleep(0.005)


async def check_paid_once(devnet: Devnet, folder: Path, sender: str) -> None:
    await asyncio.sleep(0.25 if devnet.node.faults.waiting else 0)
    await settle_chain(devnet)
    clock = chain_clock(devnet)
    async with await ChainClient.connect(config_of(devnet), clock=clock) as chain:
        with Books.open(folder / "books") as books:
            wallet = victim.sender_of(sender, folder)
            report = await Settler(chain=chain, books=books, wallet=wallet, key=TREASURY_KEY, clock=clock).tick()
            state = await chain.account(wallet.address)
            paid = [p.payee for b in books.batches().values() for p in b.payouts if p.state is PayoutState.PAID]
            found = {
                "open batches": report.open,
                "chain less books": report.reconciliation.difference,
                "treasury less ledger": state.balance - books.ledger.treasury(),
                "imbalance": books.ledger.imbalance(),
                "payees": await balances(chain, PAYEES),
                "earned less paid": [total.earned - total.paid for total in books.ledger.totals()],
                "payouts": sorted(paid),
            }
    expected = {
        "open batches": 0,
        "chain less books": 0,
        "treasury less ledger": 0,
        "imbalance": 0,
        "payees": victim.earned(),
        "earned less paid": [0, 0, 0],
        "payouts": sorted(PAYEES),
    }
    if found != expected:
        raise CaseFailedError(f"found {found}, expected {expected}")


def choose(points: Sequence[str], runs: int, *, fault: str) -> Iterator[int]:
    """Every point once, each kind of point `runs` times at least; under a fault that many in all, spread evenly."""
    if fault != "none":
        step = max(1, len(points) // runs)
        spread = range(FAULTS.index(fault) % step, len(points), step)
        yield from islice(cycle(spread), max(runs, len(spread)))
        return
    for kind in sorted(set(points)):
        places = [i for i, name in enumerate(points) if name == kind]
        yield from islice(cycle(places), max(runs, len(places)))


async def run_cell(table: Table, base: Path, *, sender: str, fault: str, runs: int) -> None:
    """All cases of one sender under one fault."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        _, points = await run_case(Path(folder), sender=sender, fault=fault, deadly=-1)
    kills = table.kills.setdefault((sender, fault), Counter())
    for deadly in choose(points, runs, fault=fault):
        with tempfile.TemporaryDirectory(dir=base) as folder:
            try:
                killed, _ = await run_case(Path(folder), sender=sender, fault=fault, deadly=deadly)
            except (CaseFailedError, BillingError, TimeoutError) as error:
                table.failures.append(f"{sender}, {fault}, point {deadly} ({points[deadly]}): {error}")
                continue
        kills[points[deadly] if killed else "not reached"] += 1


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument(
        "--runs", type=int, default=20, help="kills at each kind of point, and under each fault, at least"
    )
    arguments.add_argument("--sender", choices=SENDERS, action="append")
    arguments.add_argument("--fault", choices=FAULTS, action="append")
    options = arguments.parse_args()
    table, begun = Table(), time.monotonic()
    with tempfile.TemporaryDirectory() as base:
        for sender in options.sender or SENDERS:
            for fault in options.fault or FAULTS:
                asyncio.run(run_cell(table, Path(base), sender=sender, fault=fault, runs=options.runs))
                print(f"{sender}, {fault}: {table.kills[sender, fault].total()} cases", file=sys.stderr, flush=True)
            print(table.text(sender) + "\n", flush=True)
    cases = sum(counter.total() for counter in table.kills.values())
    seconds = time.monotonic() - begun
    print(f"{cases} cases held, {len(table.failures)} did not; {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    for failure in table.failures:
        print(failure)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
