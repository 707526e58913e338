"""Receipts posted to the ledger per second: in memory, in groups to the journal, and verified too.

    python bench/ledger.py [--rounds 5] [--receipts 20000] [--postgres postgresql://user@/books?host=/run/postgresql]

A post is plan and apply of one receipt's entry: terms, price, slice and cover checked, three accounts changed. `memory`
writes nothing. `group N` writes N entries in one transaction, which the disk has confirmed (SQLite, WAL, full
synchronisation, in the temporary folder) before the next group begins; so these are durable. `verify` is parsing and
the host's signature alone, of receipts with a signature each and of receipts that 64 share one. `cashier` is the whole
path of the billing actor: 512 receipts a call, verified, counted, posted, durable. `start` opens books that have that
many records. Wall time is what this machine gave, CPU time what the process used of it.
"""

import argparse
import asyncio
import os
import platform
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.books import Books
from billing.durable_file import replace_file
from billing.grant import Grant, HostSlice
from billing.journal_place import PostgresPlace
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.receipt import Receipt, encode_receipt, sign_receipt, sign_receipts, verify_receipt
from billing.settlement import SettlementPolicy
from billing.tariff import Tariff, Usage, price
from billing.wire import KnownSignatures
from cluster.address_book import HostKey
from cluster.cashier import Cashier

NOW = int(time.time())
HOST = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
HOST_KEY = HOST.public_key().public_bytes_raw()
OPERATOR = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
ACCOUNT = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32).public_key().public_bytes_raw()
HOST_ID, PAYEE, MODEL, LEASE = b"host-one", b"\x00" + b"p" * 32, b"m" * 32, b"l" * 16
FEE, SHARED, CALL = 50, 64, 512
MEMORY_BOUND, DURABLE_BOUND = 20_000, 5_000  # posts a second that were asked for
GRANT = Grant(
    lease=LEASE,
    account=ACCOUNT,
    operator=OPERATOR.public_key().public_bytes_raw(),
    model_root=MODEL,
    tariff=Tariff(prompt_price=2 * 10**8, cached_price=10**8, completion_price=6 * 10**8, reasoning_price=9 * 10**8),
    hosts=(HostSlice(host_id=HOST_ID, slice=Nanotons(10**15), coefficient=1000),),
    not_after=NOW + 3600,
)


class Admissions:
    """The one host, admitted."""

    async def keys(self, _hosts: object) -> dict[bytes, HostKey]:
        return {HOST_ID: HostKey(host_id=HOST_ID, receipt=HOST_KEY, payee=PAYEE)}

    async def fee_permille(self) -> int:
        return FEE


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--receipts", type=int, default=20_000)
    arguments.add_argument("--postgres", help="an empty database for the durable figures in PostgreSQL")
    options = arguments.parse_args()
    print(machine())
    receipts = [make_receipt(number) for number in range(options.receipts)]
    alone = [sign_receipt(receipt, HOST) for receipt in receipts[:2000]]
    shared = [
        signed
        for at in range(0, len(receipts), SHARED)
        for signed in sign_receipts([encode_receipt(receipt) for receipt in receipts[at : at + SHARED]], HOST)
    ]
    pairs = list(zip(receipts, shared, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        journals = (Path(folder) / f"books{number}" for number in range(10**6))
        report("posts, memory", options, len(pairs), lambda: post_in_memory(pairs), MEMORY_BOUND)
        for group in (CALL, 64, 8):
            name = f"posts, group {group}, durable"
            bound = MEMORY_BOUND if group == CALL else DURABLE_BOUND if group == 64 else 0
            count = min(len(pairs), group * 200)
            report(name, options, count, lambda g=group, n=count: post_to(next(journals), pairs[:n], g), bound)
        report("posts, each durable alone", options, 300, lambda: post_to(next(journals), pairs[:300], 1))
        report("verify, signature each", options, len(alone), lambda: verify(alone))
        report(f"verify, {SHARED} a signature", options, len(shared), lambda: verify(shared))
        report(
            f"cashier, {SHARED} a signature", options, len(shared), lambda: take(next(journals), shared), DURABLE_BOUND
        )
        report("cashier, signature each", options, len(alone), lambda: take(next(journals), alone), DURABLE_BOUND)
        whole = next(journals)
        post_to(whole, pairs, CALL)()
        report("start, all records read", options, len(pairs), lambda: start(whole))
        if checkpoint := keep_checkpoint(whole):
            size = checkpoint.stat().st_size / len(pairs)
            report(f"start, checkpoint, {size:.0f} B each", options, len(pairs), lambda: start(whole, checkpoint))
    if options.postgres:
        place = PostgresPlace(url=options.postgres)
        posted = iter(range(0, len(pairs), CALL * 4))
        name, count = f"PostgreSQL, group {CALL}, durable", CALL * 4
        options.rounds = min(options.rounds, len(pairs) // count)
        report(name, options, count, lambda: post_to(place, pairs[(at := next(posted)) : at + count], CALL))


def make_receipt(number: int) -> Receipt:
    usage = Usage(prompt_tokens=100 + number % 50, completion_tokens=80, cached_tokens=64, reasoning_tokens=7)
    return Receipt(
        request_hash=sha256(b"%d" % number).digest(),
        account=ACCOUNT,
        lease=LEASE,
        host_id=HOST_ID,
        model_root=MODEL,
        usage=usage,
        price=price(usage, GRANT.tariff, coefficient=1000),
        response_hash=bytes(32),
        transcript=bytes(48),
        payee=PAYEE,
        issued_at=NOW,
    )


def post_in_memory(pairs: list[tuple[Receipt, bytes]]) -> Callable[[], None]:
    ledger = Ledger()
    ledger.apply(ledger.plan_deposit("1", ACCOUNT, 10**16, now=NOW))
    ledger.apply(ledger.plan_hold(GRANT, now=NOW))

    def run() -> None:
        for receipt, signed in pairs:
            ledger.apply(ledger.plan_receipt(receipt, signed=signed, fee_permille=FEE, now=NOW))

    return run


def post_to(place: Path | PostgresPlace, pairs: list[tuple[Receipt, bytes]], group: int) -> Callable[[], None]:
    books = Books.open(place)
    books.post(books.ledger.plan_deposit("1", ACCOUNT, 10**16, now=NOW))
    books.post(books.ledger.plan_hold(GRANT, now=NOW))

    def run() -> None:
        for at in range(0, len(pairs), group):
            with books.together():
                for receipt, signed in pairs[at : at + group]:
                    books.post(books.ledger.plan_receipt(receipt, signed=signed, fee_permille=FEE, now=NOW))
        books.close()

    return run


def keep_checkpoint(place: Path) -> Path | None:
    """The checkpoint of books; None, and a line, where they are too short for one."""
    path = place.with_suffix(".checkpoint")
    with Books.open(place) as books:
        encoded = books.due_checkpoint()
    if encoded is None:
        print("start, checkpoint: books of so few records get none")
        return None
    replace_file(path, encoded)
    return path


def start(place: Path, checkpoint: Path | None = None) -> Callable[[], None]:
    def run() -> None:
        cashier(place, checkpoint).close()

    return run


def cashier(place: Path, checkpoint: Path | None = None) -> Cashier:
    """What the billing actor opens."""
    policy = SettlementPolicy(threshold=Nanotons(1))
    return Cashier(journal=place, checkpoint=checkpoint, operator_key=OPERATOR, admissions=Admissions(), policy=policy)


def verify(receipts: list[bytes]) -> Callable[[], None]:
    known = KnownSignatures()

    def run() -> None:
        for signed in receipts:
            verify_receipt(signed, HOST_KEY, known=known)

    return run


def take(journal: Path, receipts: list[bytes]) -> Callable[[], None]:
    taking = cashier(journal)
    taking.books.post(taking.books.ledger.plan_deposit("1", ACCOUNT, 10**16, now=NOW))
    taking.books.post(taking.books.ledger.plan_hold(GRANT, now=NOW))

    async def run() -> None:
        for at in range(0, len(receipts), CALL):
            if not all(posted.accepted for posted in await taking.post(receipts[at : at + CALL])):
                raise SystemExit("a receipt was refused")

    def whole() -> None:
        asyncio.run(run())
        taking.close()

    return whole


def report(
    name: str, options: argparse.Namespace, count: int, prepare: Callable[[], Callable[[], None]], bound: int = 0
) -> None:
    """Print posts a second, median and spread over the rounds, by the wall and by the CPU."""
    walls, cpus = [], []
    for _ in range(options.rounds):
        run = prepare()
        wall, cpu = time.perf_counter(), _cpu_s()
        run()
        walls.append(count / (time.perf_counter() - wall))
        cpus.append(count / (_cpu_s() - cpu))
    asked = f", asked {bound:,}" if bound else ""
    print(f"{name:32} wall {_spread(walls)}   CPU {_spread(cpus)}{asked}", flush=True)


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):8,.0f}/s ({min(rates):,.0f}-{max(rates):,.0f})"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def machine() -> str:
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


if __name__ == "__main__":
    main()
