"""What the devnet costs: connecting, proved account states, payouts, and a block over ten thousand accounts.

    python bench/devnet.py [--rounds 5] [--batches 10] [--accounts 10000]

The devnet of the first figures is a process of its own; the client, which checks every proof in Python, shares the
machine with it. Proved reads are the chain client's at trust level 0: newest block, its signatures when it is new, and
the account down to its last cell. Where a figure is CPU time, both processes are counted: it does not depend on who
else uses the machine. Payouts are counted from signing until the client has seen the block that holds the last of them.
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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
from nacl.signing import SigningKey
from pytoniq import LiteClient
from pytoniq.contract.wallets.highload_v3 import HIGHLOAD_V3_WALLET_CODE, HighloadWalletV3
from pytoniq_core import Address, Builder, Cell
from pytoniq_core.tlb.account import StateInit

from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import AccountId, DevnetAdmin, DevnetNode

TON = 10**9
BATCH, PAYOUT = 128, TON // 10
SUBWALLET, TIMEOUT_S = 0x10AD, 3600
PAYEE = "0:" + "07" * 32
READS = 400


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batches", type=int, default=10, help="of 128 payouts, a round")
    arguments.add_argument("--accounts", type=int, default=10_000)
    options = arguments.parse_args()
    print(machine())
    print(f"\n{'figure':56} {'median':>10} {'min':>10} {'max':>10}   bound")
    with tempfile.TemporaryDirectory() as folder, devnet_process(folder) as ready:
        asyncio.run(over_the_wire(ready, options))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(cut_over_many_accounts(Path(folder), options))


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("pytoniq", "pytoniq-core", "pytvm"))
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {versions}"
    )


def row(name: str, figures: list[float], bound: str) -> None:
    print(f"{name:56} {statistics.median(figures):10.4f} {min(figures):10.4f} {max(figures):10.4f}   {bound}")


@contextmanager
def devnet_process(folder: str) -> Iterator[dict]:
    command = [sys.executable, "-m", "billing.ton.devnet", "--state", f"{folder}/net", "--parent-death"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield json.loads(process.stdout.readline()) | {"pid": process.pid}
        finally:
            process.terminate()


async def over_the_wire(ready: dict, options: argparse.Namespace) -> None:
    admin = DevnetAdmin(ready["admin"])
    await admin.faucet(PAYEE, TON)
    server = psutil.Process(ready["pid"])
    config = ChainConfig(**{name: ready[name] for name in ("host", "port", "public_key", "network_id", "init_block")})
    connects, alone, together, costs = [], [], [], []
    for _ in range(options.rounds):
        started = time.perf_counter()
        chain = await ChainClient.connect(config)
        connects.append(time.perf_counter() - started)
        cpu = cpu_time(server)
        alone.append(READS / await reads(chain, at_once=1))
        costs.append(1000 * (cpu_time(server) - cpu) / READS)
        together.append(READS / await reads(chain, at_once=8))
        await chain.close()
    row("chain client connected, head signed, s", connects, "< 0.2")
    row("proved account reads, one at a time, 1/s", alone, ">= 200")
    row("proved account reads, eight at a time, 1/s", together, ">= 200")
    row("CPU of a proved read, both processes, ms", costs, "< 5")
    await payouts(ready, admin, options)


async def reads(chain: ChainClient, *, at_once: int) -> float:
    """Read one account READS times, so many queries in flight; returns seconds."""

    async def share() -> None:
        for _ in range(READS // at_once):
            await chain.account(Address(PAYEE))

    started = time.perf_counter()
    await asyncio.gather(*(share() for _ in range(at_once)))
    return time.perf_counter() - started


def cpu_time(server: psutil.Process) -> float:
    """Seconds of CPU that the server and this process have used."""
    return sum(server.cpu_times()[:2]) + time.process_time()


async def payouts(ready: dict, admin: DevnetAdmin, options: argparse.Namespace) -> None:
    client = LiteClient(ready["host"], ready["port"], ready["public_key"], trust_level=1)
    await client.connect()
    wallet = Highload(SigningKey(b"\x01" * 32))
    await admin.faucet(wallet.address.to_str(), options.rounds * options.batches * BATCH * TON)
    await client.raw_send_message(wallet.batch(1))  # deploys the wallet, and warms everything up
    rates, fees = [], []
    for _ in range(options.rounds):
        seqno = (await admin.status()).seqno
        before = await proved_balance(client, wallet.address, seqno)
        started = time.perf_counter()
        for _ in range(options.batches):
            await client.raw_send_message(wallet.batch(BATCH))
        after = await proved_balance(client, wallet.address, (await admin.status()).seqno)
        count = options.batches * BATCH
        rates.append(count / (time.perf_counter() - started))
        fees.append((before - after - count * PAYOUT) / count)
    await client.close()
    row("payouts signed, sent, stored and seen, 1/s", rates, ">= 300")
    row(f"chain fee of a payout, {BATCH} a batch, nanoton", fees, "<= 1000000")


async def proved_balance(client: LiteClient, address: Address, seqno: int) -> int:
    while client.last_mc_block.seqno < seqno:
        await asyncio.sleep(0.001)
    account, _ = await client.raw_get_account_state(address)
    return account.storage.balance.grams


class Highload:
    """A highload wallet v3 that signs batches of payouts to fresh addresses."""

    def __init__(self, key: SigningKey) -> None:
        self._key = bytes(key) + bytes(key.verify_key)
        data = HighloadWalletV3.create_data_cell(bytes(key.verify_key), SUBWALLET, timeout=TIMEOUT_S)
        self._init = StateInit(code=HIGHLOAD_V3_WALLET_CODE, data=data)
        self.address = Address((0, self._init.serialize().hash))
        self._queries = 0

    def batch(self, count: int) -> bytes:
        wallet = HighloadWalletV3.__new__(HighloadWalletV3)  # its constructors ask the chain first
        wallet.__dict__["address"] = self.address
        orders = [
            wallet.create_wallet_internal_message(
                Address((0, os.urandom(32))), send_mode=3, value=PAYOUT, body=Cell.empty(), bounce=False
            )
            for _ in range(count)
        ]
        self._queries += 1
        body = wallet.raw_create_transfer_msg(
            self._key, SUBWALLET, orders, query_id=self._queries, timeout=TIMEOUT_S, created_at=int(time.time()) - 5
        )
        message = Builder().store_uint(0b1000, 4).store_address(self.address).store_coins(0)
        if self._queries == 1:
            message.store_uint(0b11, 2).store_ref(self._init.serialize())
        else:
            message.store_bit(0)
        return message.store_bit(1).store_ref(body).end_cell().to_boc()


async def cut_over_many_accounts(folder: Path, options: argparse.Namespace) -> None:
    node = DevnetNode.open(folder)
    for number in range(options.accounts):
        node.chain.mint(AccountId(0, os.urandom(32)), TON, now=node.clock.now())
        if number % 1000 == 999:
            node.cut()
    node.cut()
    for touched in (1, 100):
        cuts, cpu = [], []
        for _ in range(options.rounds * 20):
            for _ in range(touched):
                node.chain.mint(AccountId(0, os.urandom(32)), TON, now=node.clock.now())
            started, used = time.perf_counter(), time.process_time()
            node.cut()
            cuts.append(1000 * (time.perf_counter() - started))
            cpu.append(1000 * (time.process_time() - used))
        what = f"{options.accounts} accounts, {touched} touched"
        row(f"block cut and stored, {what}, ms", cuts, "<= 5" if touched == 1 else "")
        row(f"CPU of it, {what}, ms", cpu, "<= 5" if touched == 1 else "")
    await node.close()
    started = time.perf_counter()
    node = DevnetNode.open(folder)
    row(f"start over {options.accounts} stored accounts, s", [time.perf_counter() - started], "")
    await node.close()


if __name__ == "__main__":
    main()
