"""Payouts settled per second through the whole outbox, and their chain fees, from both kinds of treasury.

    python bench/settlement.py [--rounds 5] [--payouts 1280] [--receipts 100000] [--payees 1000]

The devnet runs in a process of its own. A round gives every payee a new address and something to earn, then plans,
signs, journals, sends, finds, inspects and books all batches until a proved transaction confirms the last payout; the
journal is SQLite with full synchronisation, on the disk of the temporary folder. The last round is of signed receipts:
verified and posted 512 in a write, then settled. CPU is this process's; the devnet has its own.
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
from pytoniq_core import Address

from billing.books import Books
from billing.entries import CHAIN_FEES, OPERATOR_CAPITAL, Entry, EntryKind, Posting, client_account, payee_account
from billing.grant import Grant, HostSlice
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.settlement import SettlementPolicy
from billing.tariff import Tariff, Usage, price
from billing.ton.cells import address_of
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import DevnetAdmin
from billing.ton.highload import treasury_wallet
from billing.ton.sender import Sender
from billing.ton.settler import Settler
from billing.ton.vault import vault_init
from billing.ton.vault_sender import EntitlementFiles, VaultSender

TON = 1_000_000_000
FEE_BOUNDS = {"highload": 1_000_000, "vault": 700_000}  # nanoton a payout in batches of 64 and more
RATE_BOUND, SETTLED_BOUND_S = 300, 20  # payouts a second; 100,000 receipts of 1,000 payees into confirmed batches
POST_MAX = 512  # receipts in one write, as hosts post them
TARIFF = Tariff(prompt_price=5_000_000_000, completion_price=10_000_000_000)
HOST_KEY = Ed25519PrivateKey.from_private_bytes(b"h" * 32)
HOST_PUBLIC = HOST_KEY.public_key().public_bytes_raw()
POLICY = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(0), max_age_s=0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--payouts", type=int, default=1280)
    arguments.add_argument("--receipts", type=int, default=100_000)
    arguments.add_argument("--payees", type=int, default=1000)
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
    admin = DevnetAdmin(ready["admin"])
    start = time.perf_counter()
    async with await ChainClient.connect(config) as chain:
        print(f"connected, head proved: {time.perf_counter() - start:.3f} s (bound 0.2)")
        for kind in ("highload", "vault"):
            key = Ed25519PrivateKey.generate()
            treasury = treasury_of(kind, key, config.network_id, folder / kind)
            print(f"\n{kind}, batches of at most {treasury.payouts_max}")
            with Books.open(folder / f"{kind}.books") as books:
                settler = Settler(chain=chain, books=books, wallet=treasury, key=key)
                await admin.faucet(treasury.address.to_str(is_user_friendly=False), 1_000_000 * TON)
                await round_of(settler, books, [f"{kind} deploy"])
                await measure_rate(settler, chain, books, options, kind)
                await measure_fees(settler, books, kind, treasury.payouts_max)
                await measure_receipts(settler, chain, books, options)


def treasury_of(kind: str, key: Ed25519PrivateKey, network_id: int, folder: Path) -> Sender:
    public_key = key.public_key().public_bytes_raw()
    if kind == "highload":
        return treasury_wallet(public_key, network_id)
    init = vault_init(network_id=network_id, owner=Address((0, b"o" * 32)), public_key=public_key)
    return VaultSender(init=init, files=EntitlementFiles(folder=folder))


async def measure_receipts(settler: Settler, chain: ChainClient, books: Books, options: argparse.Namespace) -> None:
    """From signed receipts to money in every payee's account."""
    names = [payee_of_name(f"{id(settler)} host {i}") for i in range(options.payees)]
    receipts = signed_receipts(books, names, each=options.receipts // options.payees)
    begun, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(receipts), POST_MAX):
        with books.together():
            for signed, payee in receipts[first : first + POST_MAX]:
                books.post_receipt(signed, receipt_key=HOST_PUBLIC, payee=payee, fee_permille=50, now=int(time.time()))
    posted, cpu_posted = time.perf_counter(), time.process_time()
    await settler.plan(POLICY)
    report = await settler.settle(timeout_s=300, poll_s=0.01)
    done, cpu_done = time.perf_counter(), time.process_time()
    assert report.reconciliation.difference == 0, report
    await asyncio.sleep(0.5)
    owed = {total.payee: total.earned for total in books.ledger.totals()}
    for name in names[:: max(1, len(names) // 50)]:
        assert (await chain.account(address_of(name))).balance == owed[name]
    print(
        f"{len(receipts)} receipts of {len(names)} payees: posted in {posted - begun:.1f} s "
        f"({cpu_posted - cpu:.1f} CPU), settled and confirmed in {done - posted:.1f} s "
        f"({cpu_done - cpu_posted:.1f} CPU; bound {SETTLED_BOUND_S})"
    )


def signed_receipts(books: Books, payees: list[bytes], *, each: int) -> list[tuple[bytes, bytes]]:
    """Open a lease for each payee's host, which signs for `each` answers; the receipts with their payees."""
    now, signed = int(time.time()), []
    operator = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    usage = Usage(prompt_tokens=1000, completion_tokens=500)
    for number, payee in enumerate(payees):
        client, host, lease = (sha256(word + payee).digest() for word in (b"client", b"host", b"lease"))
        grant = Grant(
            lease=lease[:16],
            account=client,
            operator=operator,
            model_root=b"m" * 32,
            tariff=TARIFF,
            hosts=(HostSlice(host_id=host[:8], slice=Nanotons(each * TON), coefficient=1000),),
            not_after=now + 3600,
        )
        source = Posting(account=OPERATOR_CAPITAL, amount=-grant.amount)
        books.commit(
            Entry(
                id=f"bench:{lease.hex()}",
                kind=EntryKind.FUNDING,
                postings=(Posting(account=client_account(client), amount=grant.amount), source),
                at=now,
            )
        )
        books.post(books.ledger.plan_hold(grant, now=now))
        for answer in range(each):
            receipt = Receipt(
                request_hash=sha256(b"%d %d" % (number, answer) + payee).digest(),
                account=client,
                lease=grant.lease,
                host_id=host[:8],
                model_root=grant.model_root,
                usage=usage,
                price=price(usage, TARIFF, coefficient=1000),
                response_hash=b"r" * 32,
                transcript=b"t" * 48,
                payee=payee,
                issued_at=now,
            )
            signed.append((sign_receipt(receipt, HOST_KEY), payee))
    return signed


async def measure_rate(
    settler: Settler, chain: ChainClient, books: Books, options: argparse.Namespace, kind: str
) -> None:
    rates = []
    for number in range(options.rounds):
        names = [f"{kind} round {number} payee {i}" for i in range(options.payouts)]
        seconds, _ = await round_of(settler, books, names)
        rates.append(options.payouts / seconds)
        state = await chain.account(address_of(payee_of_name(names[-1])))
        assert state.balance == TON, state
    print(
        f"{options.payouts} payouts, {options.rounds} rounds: median "
        f"{statistics.median(rates):.0f}/s, min {min(rates):.0f}, max {max(rates):.0f} (bound {RATE_BOUND})"
    )


async def measure_fees(settler: Settler, books: Books, kind: str, largest: int) -> None:
    print(f"\n{'payouts a batch':>16} {'fee a payout, TON':>18}")
    for count in (1, 4, 16, 64, largest):
        fees = []
        for attempt in range(3):
            names = [f"{kind} fee {count} {attempt} {i}" for i in range(count)]
            _, fee = await round_of(settler, books, names)
            fees.append(fee / count)
        note = f"  (bound {FEE_BOUNDS[kind] / TON:.4f})" if count >= 64 else ""
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
