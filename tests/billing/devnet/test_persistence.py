"""The chain outlives its process: killed at any moment, it comes back with every block it announced."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytoniq import LiteClient
from pytoniq_core import Address

from billing.errors import BillingError, ChainError
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import AccountId, DevnetAdmin, DevnetNode, running_devnet
from billing.ton.devnet.errors import CorruptStoreError, StoreBusyError, StoreFailedError
from billing.ton.devnet.messages import minted_message
from billing.ton.proofs import AccountState
from tests.billing.devnet.support import PAYEE, TON, client_of

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def process(folder: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """A devnet in a process of its own, and what it printed when ready."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing.ton.devnet", "--port", "0", "--state", str(folder), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert running.stdout is not None
        line = await asyncio.wait_for(running.stdout.readline(), 20)
        yield running, SimpleNamespace(**json.loads(line))
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def payments(net: Any) -> int:
    """How many payments of one TON arrived; rounded up, for storage costs a nanoton every few seconds."""
    async with client_of(net) as client:
        return -(-int((await client.get_account_state(PAYEE)).balance) // TON)


async def test_a_killed_devnet_comes_back_with_its_key_its_clock_and_every_block(tmp_path: Path) -> None:
    async with process(tmp_path / "net") as (first, net):
        admin = DevnetAdmin(net.admin)
        minted = await admin.faucet(PAYEE, 5 * TON)
        now = await admin.advance(1000)
        before = await admin.status()
        first.send_signal(signal.SIGKILL)
        await first.wait()
    async with process(tmp_path / "net") as (_, again):
        assert (again.public_key, again.network_id) == (net.public_key, -777)
        status = await DevnetAdmin(again.admin).status()
        assert status.seqno == before.seqno + 1
        assert status.now >= now
        async with client_of(again) as client:
            assert (await client.get_account_state(PAYEE)).balance == 5 * TON
            found = (await client.get_transactions(PAYEE, 16))[0]
            assert (found.lt, found.cell.hash) == (minted.lt, minted.hash)


async def test_a_devnet_killed_while_it_works_loses_no_announced_payment(tmp_path: Path) -> None:
    announced = 0
    for round_ in range(3):
        async with process(tmp_path / "net", "--block-interval", "0.2") as (running, net):
            arrived = await payments(net)
            assert arrived in (announced, announced + 1)
            announced = arrived
            asyncio.get_running_loop().call_later(0.05 + 0.03 * round_, running.kill)
            try:
                while True:
                    await DevnetAdmin(net.admin).faucet(PAYEE, TON)
                    announced += 1
            except Exception:  # the process was killed under our hands, which breaks in many ways
                pass
            await running.wait()
    assert announced > 0
    async with process(tmp_path / "net") as (_, net):
        assert await payments(net) in (announced, announced + 1)


async def test_no_block_or_transaction_a_client_saw_is_lost_by_a_kill(tmp_path: Path) -> None:
    """Each round ends with SIGKILL while payments run; then all that was ever proved must still be there."""
    dice = random.Random(7)
    seen: dict[int, bytes] = {}  # masterchain blocks whose signatures a client checked: root hash by number
    last: AccountState | None = None
    for _ in range(4):
        async with process(tmp_path / "net", "--block-interval", "0.1") as (running, net):
            fields = ("host", "port", "public_key", "network_id", "init_block")
            config = ChainConfig(**{name: getattr(net, name) for name in fields}, timeout_s=5)
            async with await ChainClient.connect(config) as chain:
                await check_nothing_is_lost(chain, net, seen, last)
                asyncio.get_running_loop().call_later(0.2 + 0.4 * dice.random(), running.kill)
                minting = asyncio.create_task(mint_until_killed(net))
                with suppress(BillingError, ChainError):
                    while True:
                        last = await chain.account(Address(PAYEE))
                        assert chain._signed is not None
                        seen[chain._signed.seqno] = chain._signed.root_hash
                await minting
    assert len(seen) >= 4
    assert last is not None
    assert last.balance > TON


async def mint_until_killed(net: Any) -> None:
    with suppress(BillingError, OSError, ValueError):
        while True:
            await DevnetAdmin(net.admin).faucet(PAYEE, TON)


async def check_nothing_is_lost(
    chain: ChainClient, net: Any, seen: dict[int, bytes], last: AccountState | None
) -> None:
    async with client_of(net) as client:
        for seqno, root_hash in seen.items():
            name, _ = await client.lookup_block(-1, -(1 << 63), seqno=seqno)
            assert name.root_hash == root_hash
    if last is not None:
        now = await chain.account(last.address)
        history = {(done.lt, done.hash) for done in await chain.transactions(now, after_lt=last.last_lt - 1)}
        assert (last.last_lt, last.last_hash) in history
        assert now.balance >= last.balance - 1000  # storage


@pytest.mark.parametrize("statement", range(9))
async def test_a_kill_before_any_statement_of_a_block_leaves_all_of_it_or_nothing(
    tmp_path: Path, statement: int
) -> None:
    doomed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.billing.devnet.doomed", str(tmp_path), str(statement)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await doomed.communicate()
    assert doomed.returncode == -signal.SIGKILL
    again = DevnetNode.open(tmp_path)  # checks the accounts against the states of the last block
    paid, blocks = again.chain.account(AccountId.parse(PAYEE)).amount, again.newest.seqno
    await again.close()
    assert (paid, blocks) in {(0, 2), (TON, 3)}
    if said:
        assert (paid, blocks) == (TON, 3)


async def test_messages_still_queued_at_the_kill_run_after_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = DevnetNode.open(tmp_path)
    node.chain._queue.append(minted_message(AccountId.parse(PAYEE), TON, lt=1, now=node.clock.now()))
    monkeypatch.setattr("billing.ton.devnet.chain.BLOCK_TRANSACTIONS_MAX", 0)  # this block has no room left
    node.cut()
    assert node.chain.pending == 1
    await node.close()
    monkeypatch.undo()
    again = DevnetNode.open(tmp_path)
    assert again.chain.account(AccountId.parse(PAYEE)).amount == TON
    await again.close()


async def test_a_second_devnet_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with running_devnet(tmp_path):
        with pytest.raises(StoreBusyError, match="stop that one, or choose another"):
            DevnetNode.open(tmp_path)


async def test_a_folder_whose_accounts_were_edited_is_refused(tmp_path: Path) -> None:
    async with running_devnet(tmp_path) as net:
        await net.node.faucet(AccountId.parse(PAYEE), TON)
    database = sqlite3.connect(tmp_path / "chain.sqlite")
    database.execute("delete from accounts")
    database.commit()
    database.close()
    with pytest.raises(CorruptStoreError, match="accounts are not those of the last block"):
        DevnetNode.open(tmp_path)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(CorruptStoreError, match="delete the folder"):
        DevnetNode.open(tmp_path)


async def test_a_disk_that_takes_no_block_stops_the_devnet(tmp_path: Path) -> None:
    async with running_devnet(tmp_path, block_interval_s=0.05) as net:
        net.node.store._database.execute("pragma query_only = on")
        with pytest.raises(StoreFailedError, match="make room, then start the devnet again"):
            await net.node.faucet(AccountId.parse(PAYEE), TON)
        with pytest.raises(StoreFailedError):
            await net.node.faucet(AccountId.parse(PAYEE), TON)
        await asyncio.wait({net.heartbeat}, timeout=5)
        assert isinstance(net.heartbeat.exception(), StoreFailedError)


async def test_a_taken_port_is_said_in_one_line_and_nothing_stays_behind(tmp_path: Path) -> None:
    async with running_devnet(tmp_path / "first") as net:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "billing.ton.devnet", "--port", str(net.port), "--state", str(tmp_path / "second")),
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        _, errors = await second.communicate()
    assert second.returncode == 2
    assert b"address already in use" in errors
    assert errors.count(b"\n") == 1


async def test_a_devnet_ends_cleanly_when_told_to(tmp_path: Path) -> None:
    async with process(tmp_path / "net") as (running, net), client_of(net) as client:
        assert client.last_mc_block.seqno >= 1
        running.terminate()
        assert await asyncio.wait_for(running.wait(), 10) == 0
    assert not (tmp_path / "net" / "admin.sock").exists()


async def test_a_devnet_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'billing.ton.devnet', '--state', {str(tmp_path / 'net')!r}, "
        "'--parent-death'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", starter),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    parent.kill()
    await parent.communicate()
    for _ in range(200):
        if not alive(child):
            return
        await asyncio.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the devnet outlived its parent")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_a_client_cut_off_by_a_restart_connects_again(tmp_path: Path) -> None:
    async with process(tmp_path / "net") as (running, net), client_of(net) as client:
        running.kill()
        await running.wait()
        with pytest.raises(Exception):  # noqa: B017  # any error but an answer
            await client.get_account_state(PAYEE)
    async with process(tmp_path / "net") as (_, net), client_of(net) as client:
        assert isinstance(client, LiteClient)
        assert (await client.get_account_state(PAYEE)).balance == 0


async def test_a_large_block_is_read_back_after_a_restart(tmp_path: Path) -> None:
    node = DevnetNode.open(tmp_path)
    for number in range(1000):
        node.chain.mint(AccountId(0, number.to_bytes(32, "big")), TON, now=node.clock.now())
    full = node.cut()
    await node.close()
    async with running_devnet(tmp_path) as net:
        assert net.node.newest.seqno == full.seqno + 1
        async with client_of(net) as client:
            _, header = await client.lookup_block(0, -(1 << 63), seqno=full.seqno)
            assert header.info.seqno == full.seqno
            assert (await client.get_account_state("0:" + (999).to_bytes(32, "big").hex())).balance == TON
