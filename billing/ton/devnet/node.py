"""One running chain: clock, store, faults and the newest states, around the pure `Chain`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from billing.errors import BillingError, MessageRejectedError
from billing.ton.config import slim_config
from billing.ton.devnet.adnl import ConnectionLostError
from billing.ton.devnet.blocks import BlockId
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.clock import Clock
from billing.ton.devnet.errors import StoreFailedError, UnknownBlockError
from billing.ton.devnet.faults import Fault, FaultKind, FaultPlan
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.snapshot import Snapshot
from billing.ton.devnet.store import Store
from billing.ton.emulator import Emulator

NETWORK_ID = -777
SNAPSHOTS_KEPT = 256  # blocks whose account states can be asked for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """What the faucet did: the account's transaction and the block it is in."""

    lt: int
    hash: bytes
    seqno: int


class DevnetNode:
    """A chain that remembers, tells time and can be made to misbehave. Belongs to one event loop."""

    def __init__(self, store: Store, chain: Chain, emulator: Emulator, clock: Clock, seed: bytes) -> None:
        self.store = store
        self.chain = chain
        self.emulator = emulator
        self.clock = clock
        self.key_seed = seed
        self.faults = FaultPlan()
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()
        self._changed = asyncio.Condition()
        self._failure: StoreFailedError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, folder: Path) -> DevnetNode:
        """Open or create the chain in a folder, and cut a block to serve from.

        Raises:
            StoreBusyError: another devnet runs on the folder.
            CorruptStoreError: the folder is damaged.
            EmulatorUnavailableError: no emulator for this machine.
        """
        config = slim_config(NETWORK_ID)
        emulator = Emulator(config)
        store = Store.open(folder)
        try:
            seed = store.get("key seed") or secrets.token_bytes(32)
            store.put("key seed", seed)
            clock = Clock(int(store.get("clock offset") or 0))
            genesis = int(store.get("genesis") or clock.now())
            store.put("genesis", str(genesis).encode())
            chain = Chain(emulator, config=config, global_id=NETWORK_ID, now=genesis)
            heads = store.heads()
            if heads is not None:
                chain.restore(heads=heads, accounts=store.accounts(), queue=store.queue())
                store.check_accounts(chain.accounts_hash())
            node = cls(store, chain, emulator, clock, seed)
            node.cut()
        except BaseException:
            store.close()
            raise
        return node

    async def close(self) -> None:
        """Stop what is pending and release the folder."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.store.close()
        self.emulator.close()

    @property
    def newest(self) -> Snapshot:
        """The snapshot of the newest block."""
        return next(reversed(self._snapshots.values()))

    def snapshot(self, name: BlockId) -> Snapshot:
        """Return the snapshot a masterchain or basechain block belongs to.

        Raises:
            UnknownBlockError: no such block, or its state is no longer kept.
        """
        found = self._snapshots.get(name.seqno)
        if found is None or found.ids.get(name.workchain) != name:
            raise UnknownBlockError(
                f"block {name} is not in db: states of the last {SNAPSHOTS_KEPT} blocks are kept, newest is "
                f"{self.newest.seqno}"
            )
        return found

    def cut(self) -> Snapshot:
        """Cut a block, store it, then let it be seen.

        Raises:
            StoreFailedError: the disk did not take it. The node is finished: memory is ahead of the disk.
        """
        self._check_alive()
        cut = self.chain.cut(now=self.clock.now())
        try:
            self.store.save(cut, self.chain.accounts_hash())
        except StoreFailedError as error:
            self._failure = error
            raise
        self._snapshots[cut.snapshot.seqno] = cut.snapshot
        while len(self._snapshots) > SNAPSHOTS_KEPT:
            self._snapshots.popitem(last=False)
        return cut.snapshot

    async def announce(self) -> None:
        """Wake those who wait for the newest block."""
        async with self._changed:
            self._changed.notify_all()

    async def tick(self) -> None:
        """Cut a block because time passed, and go on while messages are queued."""
        self.cut()
        while self.chain.pending:
            self.cut()
            await asyncio.sleep(0)
        await self.announce()

    async def wait_for(self, seqno: int, timeout_s: float) -> bool:
        """Wait until a block of this number exists; False when time ran out first."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.newest.seqno >= seqno)
        except TimeoutError:
            return False
        return True

    async def send(self, body: bytes) -> None:
        """Take an external message as a lite-server does, faults included.

        Raises:
            BillingError: refused; `ExternalNotAcceptedError`, `MessageTooLargeError` and their like say why.
            ConnectionLostError: executed, but the answer is to be lost.
        """
        fault = self.faults.next_send()
        kind = fault.kind if fault else None
        if fault is not None:
            _log.info("fault %s hits a message of %d bytes", fault.kind, len(body))
        if kind is FaultKind.DROP:
            return
        if kind is FaultKind.REJECT:
            raise MessageRejectedError("rejected by an injected fault")
        if fault is not None and kind is FaultKind.DELAY:
            self._start(self._deliver_later(body, fault))
            return
        await self._deliver(body)
        if kind is FaultKind.DUPLICATE:
            self._start(self._deliver_again(body))
        if kind is FaultKind.LOSE_ANSWER:
            raise ConnectionLostError("answer lost by an injected fault")

    async def faucet(self, to: AccountId, amount: int) -> Minted:
        """Mint nanotons to an account, in a block of their own."""
        self._check_alive()
        done = self.chain.mint(to, amount, now=self.clock.now())
        snapshot = self.cut()
        await self.announce()
        return Minted(lt=done.lt, hash=done.cell.hash(), seqno=snapshot.seqno)

    async def advance(self, seconds: int) -> int:
        """Move the clock forward, cut a block at the new time, and return that time."""
        now = self.clock.advance(seconds)
        self.store.put("clock offset", str(self.clock.offset_s).encode())
        await self.tick()
        return now

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _deliver(self, body: bytes) -> None:
        self._check_alive()
        self.chain.accept_external(body, now=self.clock.now())
        await self.tick()

    async def _deliver_later(self, body: bytes, fault: Fault) -> None:
        await asyncio.sleep(fault.delay_s)
        await self._deliver_again(body)

    async def _deliver_again(self, body: bytes) -> None:
        try:
            await self._deliver(body)
        except BillingError as error:  # nobody waits for this outcome: say it in the log
            _log.info("message delivered out of turn was refused: %s", error)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
