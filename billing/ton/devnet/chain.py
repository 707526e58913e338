"""The chain itself: accounts, the message queue, execution, and the cut of blocks. No clock, disk or network here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from billing.ton.devnet.blocks import (
    BASECHAIN,
    MASTERCHAIN,
    BlockId,
    Flow,
    Head,
    Moment,
    account_blocks,
    block_id,
    build_block,
    build_state,
    genesis,
    master_block_extra,
    master_state_extra,
    shard_hashes,
)
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import Cell
from billing.ton.devnet.errors import MessageTooLargeError, NotAnExternalError
from billing.ton.devnet.messages import (
    NO_ACCOUNT,
    Account,
    AccountId,
    Parcel,
    Transaction,
    external_destination,
    minted_message,
    parcel,
    parse_account,
    parse_transaction,
)
from billing.ton.devnet.snapshot import Cut, Snapshot
from billing.ton.devnet.trie import AugmentedTrie
from billing.ton.emulator import EmulationFailedError, Emulator

EXTERNAL_SIZE_MAX = 65_535  # bytes, as validators enforce
BLOCK_TRANSACTIONS_MAX = 4096  # the rest waits in the queue for the next block
_LT_ROUND = 1_000_000  # every block starts on such a logical time
_LT_STEP = 1000  # room for a transaction and its 255 messages

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Round:
    """What happened since the last cut."""

    now: int
    start_lt: int
    seed: bytes
    before: dict[int, int]  # nanotons in each workchain
    done: list[tuple[Transaction, bytes, bytes]] = field(default_factory=list)
    changed: dict[AccountId, Account] = field(default_factory=dict)
    imported: dict[int, int] = field(default_factory=lambda: {MASTERCHAIN: 0, BASECHAIN: 0})
    exported: dict[int, int] = field(default_factory=lambda: {MASTERCHAIN: 0, BASECHAIN: 0})

    @property
    def next_lt(self) -> int:
        return self.start_lt + _LT_STEP * (len(self.done) + 1)


class Chain:
    """A masterchain and a basechain of one shard each, executed by the real TVM."""

    def __init__(self, emulator: Emulator, *, config: bytes, global_id: int, now: int) -> None:
        """Begin at genesis.

        Args:
            emulator: executes transactions; made with the same configuration.
            config: configuration dictionary as a bag of cells.
            global_id: network id.
            now: unix time of genesis.
        """
        self.global_id = global_id
        self.config = parse_one(config)
        self._emulator = emulator
        self._heads = {wc: genesis(global_id, wc, now, self.config) for wc in (MASTERCHAIN, BASECHAIN)}
        self._accounts = {wc: AugmentedTrie(256, 5) for wc in (MASTERCHAIN, BASECHAIN)}
        self._queue: deque[Parcel] = deque()
        self.zero_state = self._heads[MASTERCHAIN].id
        self._round: _Round | None = None

    def restore(
        self, *, heads: Mapping[int, Head], accounts: Iterable[tuple[AccountId, Account]], queue: Iterable[Parcel]
    ) -> None:
        """Continue from stored heads, accounts and queued messages."""
        self._heads = dict(heads)
        tries = {wc: AugmentedTrie(256, 5) for wc in (MASTERCHAIN, BASECHAIN)}
        for name, account in accounts:
            tries[name.workchain] = tries[name.workchain].put(name.key, account)
        self._accounts = tries
        self._queue = deque(queue)

    @property
    def seqno(self) -> int:
        """Number of the newest block."""
        return self._heads[MASTERCHAIN].id.seqno

    @property
    def pending(self) -> int:
        """Messages waiting for the next block."""
        return len(self._queue)

    def accounts_hash(self) -> bytes:
        """Hash over all accounts of both workchains, to compare after a restart."""
        return sha256(b"".join(self._accounts[wc].cell().hash() for wc in (MASTERCHAIN, BASECHAIN))).digest()

    def account(self, name: AccountId) -> Account:
        """The account as it is now; an empty one when it does not exist."""
        trie = self._accounts.get(name.workchain)
        found = trie.get(name.key) if trie else None
        return found if isinstance(found, Account) else NO_ACCOUNT

    def accept_external(self, boc: bytes, *, now: int) -> Transaction:
        """Execute an external message and everything it sets off, for the next block.

        Raises:
            MessageTooLargeError: over the size limit.
            MalformedCellError: not a bag of cells, or not a message.
            NotAnExternalError: another kind of message, or to another chain.
            ExternalNotAcceptedError: the account did not accept it; nothing changed.
        """
        if len(boc) > EXTERNAL_SIZE_MAX:
            raise MessageTooLargeError(len(boc), EXTERNAL_SIZE_MAX)
        to = external_destination(parse_one(boc))
        if to is None or to.workchain not in self._accounts:
            raise NotAnExternalError("only inbound external messages to workchain 0 or -1 enter here")
        transaction = self._execute(to, boc, self._open_round(now))
        self._drain(now)
        return transaction

    def mint(self, to: AccountId, amount: int, *, now: int) -> Transaction:
        """Bring fresh nanotons to an account by a message from the masterchain's zero address.

        Raises:
            ValueError: an amount that is not positive, or an account of another chain.
        """
        if amount <= 0 or to.workchain not in self._accounts:
            raise ValueError(f"cannot bring {amount} nanotons to {to}: amount above 0, workchain 0 or -1")
        current = self._open_round(now)
        message = minted_message(to, amount, lt=current.start_lt, now=now)
        current.imported[to.workchain] += message.amount
        transaction = self._execute(to, message.boc, current)
        self._drain(now)
        return transaction

    def cut(self, *, now: int) -> Cut:
        """Close the round: build both blocks over what happened (possibly nothing)."""
        current = self._open_round(now)
        self._drain(now)
        moment = Moment(
            global_id=self.global_id,
            seqno=self.seqno + 1,
            now=current.now,
            start_lt=current.start_lt,
            end_lt=current.next_lt,
            seed=current.seed,
        )
        base_state = build_state(moment, BASECHAIN, self._accounts[BASECHAIN], None)
        base, base_boc, base_id = self._block(moment, BASECHAIN, current, base_state, None)
        shards = shard_hashes(moment, base_id)
        total = sum(trie.amount for trie in self._accounts.values())
        custom = master_state_extra(moment, shards, self.config, total)
        master_state = build_state(moment, MASTERCHAIN, self._accounts[MASTERCHAIN], custom)
        master, master_boc, master_id = self._block(
            moment, MASTERCHAIN, current, master_state, master_block_extra(shards)
        )
        snapshot = Snapshot(
            moment=moment,
            ids={MASTERCHAIN: master_id, BASECHAIN: base_id},
            blocks={MASTERCHAIN: master, BASECHAIN: base},
            states={MASTERCHAIN: master_state, BASECHAIN: base_state},
            accounts=dict(self._accounts),
            shards=shards,
        )
        for wc, name in snapshot.ids.items():
            self._heads[wc] = Head(id=name, end_lt=moment.end_lt, state=snapshot.states[wc])
        self._round = None
        return Cut(
            snapshot=snapshot,
            bocs={MASTERCHAIN: master_boc, BASECHAIN: base_boc},
            transactions=tuple(transaction for transaction, _, _ in current.done),
            changed=current.changed,
            queue=tuple(self._queue),
        )

    def _block(
        self, moment: Moment, workchain: int, current: _Round, state: Cell, custom: Cell | None
    ) -> tuple[Cell, bytes, BlockId]:
        flow = Flow(
            before=current.before[workchain],
            after=self._accounts[workchain].amount,
            imported=current.imported[workchain],
            exported=current.exported[workchain],
        )
        block = build_block(
            moment,
            workchain,
            previous=self._heads[workchain],
            master=self._heads[MASTERCHAIN],
            state=state,
            flow=flow,
            transactions=account_blocks([done for done in current.done if done[0].account.workchain == workchain]),
            custom=custom,
        )
        boc = encode_boc(block)
        return block, boc, block_id(moment, workchain, boc, block)

    def _open_round(self, now: int) -> _Round:
        if self._round is None:
            head = self._heads[MASTERCHAIN]
            self._round = _Round(
                now=now,
                start_lt=(head.end_lt // _LT_ROUND + 1) * _LT_ROUND,
                seed=sha256(head.id.root_hash + head.id.seqno.to_bytes(4, "big")).digest(),
                before={wc: trie.amount for wc, trie in self._accounts.items()},
            )
        self._round.now = max(self._round.now, now)
        return self._round

    def _drain(self, now: int) -> None:
        current = self._open_round(now)
        while self._queue and len(current.done) < BLOCK_TRANSACTIONS_MAX:
            message = self._queue.popleft()
            if message.to.workchain not in self._accounts:
                _log.warning("message to %s dropped: no such workchain", message.to)
                continue
            current.imported[message.to.workchain] += message.amount
            try:
                self._execute(message.to, message.boc, current)
            except EmulationFailedError as error:
                _log.warning("message to %s dropped: %s", message.to, error)

    def _execute(self, to: AccountId, boc: bytes, current: _Round) -> Transaction:
        before = self.account(to)
        execution = self._emulator.execute(
            shard_account=before.boc, message=boc, now=current.now, lt=current.next_lt, seed=current.seed
        )
        transaction = parse_transaction(to.workchain, execution.transaction)
        after = parse_account(execution.shard_account)
        trie = self._accounts[to.workchain]
        self._accounts[to.workchain] = trie.put(to.key, after) if after.exists else trie.remove(to.key)
        current.done.append((transaction, before.state.hash(), after.state.hash()))
        current.changed[to] = after
        for message in transaction.outgoing:
            sent = parcel(message)
            if sent is not None:
                current.exported[to.workchain] += sent.amount
                self._queue.append(sent)
        return transaction
