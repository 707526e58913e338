"""Payouts settled per second through the whole outbox, and their chain fees.

    python bench/settlement.py [--rounds 5] [--payouts 1280]

The devnet runs in a process of its own. A round gives every payee a new address and something to earn, then plans,
signs, journals, sends, finds, inspects and books all batches until a proved transaction confirms the last payout; the
journal is SQLite with full synchronisation, on the disk of the temporary folder.
"""

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.batch import BATCH_MAX
from billing.books import Books
from billing.entries import CHAIN_FEES, OPERATOR_CAPITAL, Entry, EntryKind, Posting, payee_account
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.cells import address_of
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import DevnetAdmin
from billing.ton.highload import treasury_wallet
from billing.ton.settler import Settler

TON = 1_000_000_000
FEE_BOUND, RATE_BOUND = 1_000_000, 300  # nanoton a payout at 128 a batch; payouts a second
POLICY = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(0), max_age_s=0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--payouts", type=int, default=1280)
    options = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "billing.ton.devnet", "--state", f"{folder}/net", "--parent-death"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as devnet:
            try:
                ready = json.loads(devnet.stdout.readline())
                asyncio.run(run(ready, Path(folder), options))
            finally:
                devnet.terminate()


async def run(ready: dict, folder: Path, options: argparse.Namespace) -> None:
    config = ChainConfig(**{name: ready[name] for name in ("host", "port", "public_key", "network_id")})
    admin, key = DevnetAdmin(ready["admin"]), Ed25519PrivateKey.generate()
    wallet = treasury_wallet(key.public_key().public_bytes_raw(), config.network_id)
    start = time.perf_counter()
    async with await ChainClient.connect(config) as chain:
        print(f"connected, head proved: {time.perf_counter() - start:.3f} s (bound 0.2)\n")
        with Books.open(folder / "books") as books:
            settler = Settler(chain=chain, books=books, wallet=wallet, key=key)
            await admin.faucet(wallet.address.to_str(is_user_friendly=False), 1_000_000 * TON)
            await round_of(settler, books, ["deploy"])
            await measure_rate(settler, chain, books, options)
            await measure_fees(settler, books)


async def measure_rate(settler: Settler, chain: ChainClient, books: Books, options: argparse.Namespace) -> None:
    rates = []
    for number in range(options.rounds):
        names = [f"round {number} payee {i}" for i in range(options.payouts)]
        seconds, _ = await round_of(settler, books, names)
        rates.append(options.payouts / seconds)
        state = await chain.account(address_of(payee_of_name(names[-1])))
        assert state.balance == TON, state
    print(
        f"{options.payouts} payouts in batches of {BATCH_MAX}, {options.rounds} rounds: median "
        f"{statistics.median(rates):.0f}/s, min {min(rates):.0f}, max {max(rates):.0f} (bound {RATE_BOUND})"
    )


async def measure_fees(settler: Settler, books: Books) -> None:
    print(f"\n{'payouts a batch':>16} {'fee a payout, TON':>18}")
    for count in (1, 4, 16, 64, BATCH_MAX):
        fees = []
        for attempt in range(3):
            names = [f"fee {count} {attempt} {i}" for i in range(count)]
            _, fee = await round_of(settler, books, names)
            fees.append(fee / count)
        note = f"  (bound {FEE_BOUND / TON:.4f})" if count == BATCH_MAX else ""
        print(f"{count:16} {statistics.median(fees) / TON:18.6f}{note}")


async def round_of(settler: Settler, books: Books, names: list[str]) -> tuple[float, int]:
    """Seconds from planning to the last confirmed payout, and what the chain took."""
    await settler.tick()
    owe(books, names)
    fees = -books.ledger.balance(CHAIN_FEES)
    start = time.perf_counter()
    await settler.plan(POLICY)
    report = await settler.settle(poll_s=0.01)
    seconds = time.perf_counter() - start
    assert report.reconciliation.difference == 0, report
    assert books.ledger.imbalance() == 0
    return seconds, -books.ledger.balance(CHAIN_FEES) - fees


def owe(books: Books, names: list[str]) -> None:
    for i in range(0, len(names), 500):
        part = [Posting(account=payee_account(payee_of_name(name)), amount=TON) for name in names[i : i + 500]]
        source = Posting(account=OPERATOR_CAPITAL, amount=-TON * len(part))
        entry = Entry(id=f"bench:{names[i]}", kind=EntryKind.FUNDING, postings=(*part, source), at=int(time.time()))
        books.commit(entry)


def payee_of_name(name: str) -> bytes:
    return b"\x00" + sha256(name.encode()).digest()


def machine() -> str:
    names = ("pytoniq", "pytoniq-core", "pytvm", "cryptography")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    python = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{cpu}, {len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}; {python}; {versions}"


if __name__ == "__main__":
    main()
