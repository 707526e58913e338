"""One running chain: clock, store, faults and the newest states, around the pure `Chain`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from billing.errors import BillingError, MessageRejectedError
from billing.ton.devnet.adnl import ConnectionLostError
from billing.ton.devnet.blocks import BlockId
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.clock import Clock
from billing.ton.devnet.errors import StoreFailedError, UnknownBlockError
from billing.ton.devnet.faults import Fault, FaultKind, FaultPlan, Target
from billing.ton.devnet.fork import ACCOUNTS_MAX, Fork, build_fork
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.snapshot import Snapshot
from billing.ton.devnet.store import Store
from billing.ton.devnet.validators import Validators
from billing.ton.emulator import Emulator

NETWORK_ID = -777
SNAPSHOTS_KEPT = 256  # blocks whose account states can be asked for
FORKS_KEPT = 16  # invented blocks that the last lies were about
_MAINNET = -239  # the network a devnet pretends to be when asked to

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
        self._forks: deque[Fork] = deque(maxlen=FORKS_KEPT)
        self._held: list[bytes] = []  # messages that wait for another one to pass them
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
        store = Store.open(folder)
        try:
            seed = _secret(store, "key seed")
            clock = Clock.from_json(store.get("clock"))
            genesis = int(store.get("genesis") or clock.now())
            store.put("genesis", str(genesis).encode())
            keys = store.key_blocks()
            validators = Validators(
                _secret(store, "validator seed"),
                global_id=NETWORK_ID,
                since=genesis,
                key_blocks=(key.id.seqno for key in keys),
            )
            emulator = Emulator(validators.config_boc())
            chain = Chain(emulator, validators=validators, global_id=NETWORK_ID, now=genesis)
            heads, moment = store.heads(), store.moment(NETWORK_ID)
            if heads is not None and moment is not None:
                chain.restore(heads=heads, key_blocks=keys, accounts=store.accounts(), queue=store.queue())
                store.check(chain.states_hold(moment))
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

    @property
    def oldest(self) -> Snapshot:
        """The oldest snapshot that is kept."""
        return next(iter(self._snapshots.values()))

    @property
    def init_block(self) -> BlockId:
        """The first key block: where clients start that check signatures."""
        return self.chain.key_blocks[0].id

    def invent(self, kind: FaultKind) -> Snapshot:
        """Make up the next block, of another network or with made-up accounts; it is served when asked for."""
        known = (AccountId(0, key.to_bytes(32, "big")) for key in self.newest.accounts[0])
        fork = build_fork(
            self.emulator,
            heads=self.chain.heads,
            key_blocks=self.chain.key_blocks,
            accounts=islice(known, ACCOUNTS_MAX),
            global_id=_MAINNET if kind is FaultKind.FOREIGN_NETWORK else NETWORK_ID,
            now=self.clock.now(),
        )
        self._forks.append(fork)
        return fork.snapshot

    def fork_of(self, name: BlockId) -> Fork | None:
        """The fork this masterchain or basechain block was made up for, if it was."""
        return next((fork for fork in self._forks if name in fork.snapshot.ids.values()), None)

    def snapshot(self, name: BlockId) -> Snapshot:
        """Return the snapshot a masterchain or basechain block belongs to.

        Raises:
            UnknownBlockError: no such block, or its state is no longer kept.
        """
        fork = self.fork_of(name)
        if fork is not None:
            return fork.snapshot
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
            self.store.save(cut)
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
        fault = self.faults.take(Target.SEND)
        kind = fault.kind if fault else None
        if fault is not None:
            _log.info("fault %s hits a message of %d bytes", fault.kind, len(body))
        if kind is FaultKind.DROP:
            return
        if kind is FaultKind.REJECT:
            raise MessageRejectedError("rejected by an injected fault")
        if kind is FaultKind.REORDER:
            self._held.append(body)
            return
        if fault is not None and kind is FaultKind.DELAY:
            self._start(self._deliver_later(body, fault))
            return
        try:
            await self._deliver(body)
        finally:
            await self._deliver_held()
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
        return await self._moved(self.clock.advance(seconds))

    async def set_time(self, moment: int) -> int:
        """Move the clock forward to a unix time, cut a block then, and return the time."""
        return await self._moved(self.clock.set(moment))

    async def freeze(self) -> int:
        """Let time stand still, in blocks as well; returns it."""
        return await self._moved(self.clock.freeze())

    async def thaw(self) -> int:
        """Let time run on from where it stood; returns it."""
        return await self._moved(self.clock.thaw())

    async def change_validator(self) -> int:
        """Cut a key block that hands over to a new validator key; returns its number."""
        self._check_alive()
        self.chain.change_validator()
        snapshot = self.cut()
        await self.tick()
        return snapshot.seqno

    async def _moved(self, now: int) -> int:
        self.store.put("clock", self.clock.to_json())
        await self.tick()
        return now

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _deliver(self, body: bytes) -> None:
        self._check_alive()
        self.chain.accept_external(body, now=self.clock.now())
        await self.tick()

    async def _deliver_held(self) -> None:
        held, self._held = self._held, []
        for body in held:
            await self._deliver_again(body)

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


def _secret(store: Store, name: str) -> bytes:
    """Read a seed of 32 bytes from the store, made once."""
    seed = store.get(name) or secrets.token_bytes(32)
    store.put(name, seed)
    return seed
