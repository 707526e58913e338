"""The chain itself: accounts, the message queue, execution, and the cut of blocks. No clock, disk or network here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from billing.ton.devnet.blocks import (
    BASECHAIN,
    MASTERCHAIN,
    BlockId,
    Flow,
    Head,
    Moment,
    Office,
    account_blocks,
    block_id,
    build_block,
    build_state,
    genesis,
    master_block_extra,
    master_state_extra,
    shard_hashes,
)
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import Cell
from billing.ton.devnet.errors import NotAnExternalError
from billing.ton.devnet.external import check_external
from billing.ton.devnet.messages import (
    NO_ACCOUNT,
    Account,
    AccountId,
    Parcel,
    Transaction,
    minted_message,
    parcel,
    parse_account,
    parse_transaction,
)
from billing.ton.devnet.snapshot import Cut, Snapshot
from billing.ton.devnet.trie import AugmentedTrie
from billing.ton.devnet.validators import CATCHAIN_SEQNO, Validators
from billing.ton.emulator import EmulationFailedError, Emulator

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

    def __init__(self, emulator: Emulator, *, validators: Validators, global_id: int, now: int) -> None:
        """Begin at genesis.

        Args:
            emulator: executes transactions; made with the validators' configuration.
            validators: who signs, and the configuration that says so.
            global_id: network id.
            now: unix time of genesis.
        """
        self.global_id = global_id
        self.validators = validators
        self._emulator = emulator
        config = validators.config_after(0)
        self._heads = {wc: genesis(global_id, wc, now, config) for wc in (MASTERCHAIN, BASECHAIN)}
        self._key_heads: list[Head] = []
        self._key_due = True  # the first block is a key block
        self._accounts = {wc: AugmentedTrie(256, 5) for wc in (MASTERCHAIN, BASECHAIN)}
        self._queue: deque[Parcel] = deque()
        self.zero_state = self._heads[MASTERCHAIN].id
        self._round: _Round | None = None

    def restore(
        self,
        *,
        heads: Mapping[int, Head],
        key_blocks: Iterable[Head],
        accounts: Iterable[tuple[AccountId, Account]],
        queue: Iterable[Parcel],
    ) -> None:
        """Continue from stored heads, key blocks (ascending), accounts and queued messages."""
        self._heads = dict(heads)
        self._key_heads, self._key_due = list(key_blocks), False
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
    def heads(self) -> Mapping[int, Head]:
        """The newest block of each workchain."""
        return self._heads

    @property
    def key_blocks(self) -> Sequence[Head]:
        """The masterchain's key blocks, ascending."""
        return self._key_heads

    @property
    def accounts(self) -> int:
        """How many accounts there are on both workchains."""
        return sum(trie.count for trie in self._accounts.values())

    @property
    def pending(self) -> int:
        """Messages waiting for the next block."""
        return len(self._queue)

    def states_hold(self, moment: Moment) -> bool:
        """Say whether the restored accounts give the states that the newest blocks, cut at `moment`, commit to."""
        base = build_state(moment, BASECHAIN, self._accounts[BASECHAIN], None)
        shards = shard_hashes(moment, self._heads[BASECHAIN].id)
        master = self._master_state(moment, shards, self._office(moment.seqno))
        return all(
            self._heads[wc].state.hash() == state.hash() for wc, state in ((BASECHAIN, base), (MASTERCHAIN, master))
        )

    def account(self, name: AccountId) -> Account:
        """The account as it is now; an empty one when it does not exist."""
        trie = self._accounts.get(name.workchain)
        found = trie.get(name.key) if trie else None
        return found if isinstance(found, Account) else NO_ACCOUNT

    def change_validator(self) -> None:
        """Let the next block be a key block that names the next validator."""
        self._key_due = True

    def accept_external(self, boc: bytes, *, now: int) -> Transaction:
        """Execute an external message and everything it sets off, for the next block.

        Raises:
            MessageTooLargeError, MessageTooDeepError, MalformedCellError: see `check_external`.
            NotAnExternalError: another kind of message, or to another workchain.
            ExternalNotAcceptedError: the account did not accept it; nothing changed.
        """
        to = check_external(boc)
        if to.workchain not in self._accounts:
            raise NotAnExternalError(f"a message to workchain {to.workchain}: there are workchain 0 and -1 only")
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
        seqno = self.seqno + 1
        if self._key_due:
            self.validators.add_key_block(seqno)
        moment = Moment(
            global_id=self.global_id,
            seqno=seqno,
            now=current.now,
            start_lt=current.start_lt,
            end_lt=current.next_lt,
            seed=current.seed,
        )
        office = self._office(seqno)
        base_state = build_state(moment, BASECHAIN, self._accounts[BASECHAIN], None)
        base, base_boc, base_id = self._block(moment, BASECHAIN, office, base_state, None)
        shards = shard_hashes(moment, base_id)
        master_state = self._master_state(moment, shards, office)
        master, master_boc, master_id = self._block(
            moment, MASTERCHAIN, office, master_state, master_block_extra(shards, office)
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
        if office.is_key:
            self._key_heads.append(self._heads[MASTERCHAIN])
            self._key_due = False
        self._round = None
        return Cut(
            snapshot=snapshot,
            is_key=office.is_key,
            bocs={MASTERCHAIN: master_boc, BASECHAIN: base_boc},
            transactions=tuple(transaction for transaction, _, _ in current.done),
            changed=current.changed,
            queue=tuple(self._queue),
        )

    def _block(
        self, moment: Moment, workchain: int, office: Office, state: Cell, custom: Cell | None
    ) -> tuple[Cell, bytes, BlockId]:
        current = self._open_round(moment.now)
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
            office=office,
            state=state,
            flow=flow,
            transactions=account_blocks([done for done in current.done if done[0].account.workchain == workchain]),
            custom=custom,
        )
        boc = encode_boc(block)
        return block, boc, block_id(moment, workchain, boc, block)

    def _master_state(self, moment: Moment, shards: Cell, office: Office) -> Cell:
        total = sum(trie.amount for trie in self._accounts.values())
        custom = master_state_extra(moment, shards, office, total)
        return build_state(moment, MASTERCHAIN, self._accounts[MASTERCHAIN], custom)

    def _office(self, seqno: int) -> Office:
        return Office(
            config=self.validators.config_after(seqno),
            is_key=seqno in self.validators.key_blocks,
            last_key=next((head for head in reversed(self._key_heads) if head.id.seqno < seqno), None),
            signers=self.validators.list_hash(seqno),
            catchain=CATCHAIN_SEQNO,
        )

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
