"""Builds states and blocks: every field a client may check is real, what no client reads is empty.

Empty are the message descriptions and the message queue (messages live in the devnet's own queue) and the list of old
masterchain blocks: an old block is proved by its signatures instead.
Source: block.tlb (`Block`, `BlockInfo`, `ValueFlow`, `BlockExtra`, `ShardStateUnsplit`, `McStateExtra`, `ShardDescr`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import EMPTY, Builder, Cell, merkle_update
from billing.ton.devnet.messages import AccountId, Transaction
from billing.ton.devnet.trie import AugmentedTrie, store_label

MASTERCHAIN, BASECHAIN = -1, 0
WHOLE_SHARD = 1 << 63  # the only shard of its workchain
_CONFIG_ADDRESS = b"\x55" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockId:
    """A block's full name; the shard is always the whole workchain."""

    workchain: int
    seqno: int
    root_hash: bytes
    file_hash: bytes

    def settings_text(self) -> str:
        """The block as clients' settings name a key block: number:root hash:file hash."""
        return f"{self.seqno}:{self.root_hash.hex()}:{self.file_hash.hex()}"

    def __str__(self) -> str:
        return f"({self.workchain},8000000000000000,{self.seqno}):{self.root_hash.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest block of a workchain: what the next one refers to."""

    id: BlockId
    end_lt: int
    state: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What both blocks of one cut share."""

    global_id: int
    seqno: int
    now: int
    start_lt: int
    end_lt: int
    seed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """Who signs a cut: the configuration after it, the newest key block before it, the short hash of its signers."""

    config: Cell
    is_key: bool  # this masterchain block carries the configuration itself
    last_key: Head | None
    signers: int
    catchain: int

    @property
    def last_key_seqno(self) -> int:
        """Number of the newest key block before; 0 when there is none."""
        return self.last_key.id.seqno if self.last_key else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Nanotons through one workchain in one block."""

    before: int = 0
    after: int = 0
    imported: int = 0
    exported: int = 0

    @property
    def fees(self) -> int:
        """What validators kept."""
        return self.before + self.imported - self.after - self.exported


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBlock:
    """The transactions of one account in one block, with the hashes of its state before and after."""

    account: AccountId
    transactions: AugmentedTrie
    before: bytes
    after: bytes

    @property
    def amount(self) -> int:
        """Fees of all transactions."""
        return self.transactions.amount

    def content(self) -> Cell:
        """Serialize as AccountBlock."""
        update = Builder().uint(0x72, 8).octets(self.before).octets(self.after).cell()
        return Builder().uint(5, 4).octets(self.account.id).content(self.transactions.edge()).ref(update).cell()


def account_blocks(done: Sequence[tuple[Transaction, bytes, bytes]]) -> AugmentedTrie:
    """Group executed transactions, each with the account's state hash before and after it, by account."""
    grouped: dict[AccountId, tuple[AugmentedTrie, bytes, bytes]] = {}
    for transaction, before, after in done:
        trie, first, _ = grouped.get(transaction.account, (AugmentedTrie(64), before, b""))
        grouped[transaction.account] = (trie.put(transaction.lt, transaction), first, after)
    blocks = AugmentedTrie(256)
    for account, (trie, first, last) in grouped.items():
        blocks = blocks.put(account.key, AccountBlock(account=account, transactions=trie, before=first, after=last))
    return blocks


def build_state(moment: Moment, workchain: int, accounts: AugmentedTrie, custom: Cell | None) -> Cell:
    """Serialize ShardStateUnsplit; `custom` is McStateExtra on the masterchain."""
    state = Builder().uint(0x9023AFE2, 32).sint(moment.global_id, 32)
    _shard_ident(state, workchain).uint(moment.seqno, 32).uint(0, 32).uint(moment.now, 32).uint(moment.end_lt, 64)
    state.uint(0, 32).ref(EMPTY).uint(0, 1).ref(accounts.cell())
    totals = Builder().uint(0, 64).uint(0, 64).currency(accounts.amount).currency(0).uint(0, 1).uint(0, 1)
    state.ref(totals.cell())
    if custom is None:
        return state.uint(0, 1).cell()
    return state.uint(1, 1).ref(custom).cell()


def build_block(
    moment: Moment,
    workchain: int,
    *,
    previous: Head,
    master: Head,
    office: Office,
    state: Cell,
    flow: Flow,
    transactions: AugmentedTrie,
    custom: Cell | None = None,
) -> Cell:
    """Serialize Block; `custom` is McBlockExtra on the masterchain."""
    block = Builder().uint(0x11EF55AA, 32).sint(moment.global_id, 32)
    block.ref(_info(moment, workchain, previous, master, office))
    block.ref(_value_flow(flow))
    block.ref(merkle_update(previous.state, state))
    return block.ref(_extra(moment, transactions, custom)).cell()


def block_id(moment: Moment, workchain: int, boc: bytes, block: Cell) -> BlockId:
    """Name a block by the hash of its root cell and of its file."""
    return BlockId(workchain=workchain, seqno=moment.seqno, root_hash=block.hash(), file_hash=sha256(boc).digest())


def shard_hashes(moment: Moment, shard: BlockId) -> Cell:
    """The edge of the dictionary from workchain to its tree of shards: one workchain, one shard."""
    descriptor = Builder().uint(0xB, 4).uint(shard.seqno, 32).uint(moment.seqno, 32)
    descriptor.uint(moment.start_lt, 64).uint(moment.end_lt, 64).octets(shard.root_hash).octets(shard.file_hash)
    descriptor.uint(0, 5).uint(0, 3).uint(0, 32).uint(WHOLE_SHARD, 64).uint(0, 32).uint(moment.now, 32)
    descriptor.uint(0, 1).currency(0).currency(0)  # no split or merge planned, fees and creation in the block itself
    leaf = Builder().uint(0, 1).content(descriptor.cell()).cell()  # bt_leaf
    return store_label(Builder(), BASECHAIN, 32, 32).ref(leaf).cell()


def master_state_extra(moment: Moment, shards: Cell, office: Office, total: int) -> Cell:
    """Serialize McStateExtra."""
    extra = Builder().uint(0xCC26, 16).uint(1, 1).ref(shards).octets(_CONFIG_ADDRESS).ref(office.config)
    info = Builder().uint(0, 16).uint(office.signers, 32).uint(office.catchain, 32).uint(0, 1)  # flags, validator info
    info.uint(0, 1).uint(0, 1).uint(moment.end_lt, 64)  # no old blocks, with their (key, largest lt)
    info.uint(office.is_key, 1).uint(1 if office.last_key else 0, 1)
    if office.last_key is not None:
        info.content(_reference(office.last_key))
    return extra.ref(info.cell()).currency(total).cell()


def master_block_extra(shards: Cell, office: Office) -> Cell:
    """Serialize McBlockExtra; a key block's has the whole configuration."""
    extra = Builder().uint(0xCCA5, 16).uint(office.is_key, 1).uint(1, 1).ref(shards)
    extra.uint(0, 1).currency(0).currency(0)  # no shard fees
    extra.ref(Builder().uint(0, 3).cell())
    if office.is_key:
        extra.octets(_CONFIG_ADDRESS).ref(office.config)
    return extra.cell()


def genesis(global_id: int, workchain: int, now: int, config: Cell) -> Head:
    """The head before the first block: a state without accounts."""
    moment = Moment(global_id=global_id, seqno=0, now=now, start_lt=0, end_lt=0, seed=bytes(32))
    nowhere = BlockId(workchain=BASECHAIN, seqno=0, root_hash=bytes(32), file_hash=bytes(32))
    custom = None
    if workchain == MASTERCHAIN:
        office = Office(config=config, is_key=False, last_key=None, signers=0, catchain=0)
        custom = master_state_extra(moment, shard_hashes(moment, nowhere), office, 0)
    state = build_state(moment, workchain, AugmentedTrie(256, 5), custom)
    name = BlockId(workchain=workchain, seqno=0, root_hash=state.hash(), file_hash=sha256(encode_boc(state)).digest())
    return Head(id=name, end_lt=0, state=state)


def _shard_ident(builder: Builder, workchain: int) -> Builder:
    return builder.uint(0, 2).uint(0, 6).sint(workchain, 32).uint(0, 64)


def _reference(head: Head) -> Cell:
    reference = Builder().uint(head.end_lt, 64).uint(head.id.seqno, 32)
    return reference.octets(head.id.root_hash).octets(head.id.file_hash).cell()


def _info(moment: Moment, workchain: int, previous: Head, master: Head, office: Office) -> Cell:
    info = Builder().uint(0x9BC7A987, 32).uint(0, 32).uint(0 if workchain == MASTERCHAIN else 1, 1)
    info.uint(0, 5).uint(office.is_key and workchain == MASTERCHAIN, 1).uint(0, 1)  # no splits or merges
    info.uint(0, 8).uint(moment.seqno, 32).uint(0, 32)
    _shard_ident(info, workchain).uint(moment.now, 32).uint(moment.start_lt, 64).uint(moment.end_lt, 64)
    info.uint(office.signers, 32).uint(office.catchain, 32)
    info.uint(0, 32).uint(office.last_key_seqno, 32)  # oldest masterchain block referred to, newest key block
    if workchain != MASTERCHAIN:
        info.ref(_reference(master))
    return info.ref(_reference(previous)).cell()


def _value_flow(flow: Flow) -> Cell:
    inside = Builder().currency(flow.before).currency(flow.after).currency(flow.imported).currency(flow.exported)
    outside = Builder().currency(0).currency(0).currency(0).currency(0)
    return Builder().uint(0xB8E48DFB, 32).ref(inside.cell()).currency(flow.fees).ref(outside.cell()).cell()


def _extra(moment: Moment, transactions: AugmentedTrie, custom: Cell | None) -> Cell:
    no_imports = Builder().uint(0, 1).coins(0).currency(0).cell()
    no_exports = Builder().uint(0, 1).currency(0).cell()
    extra = Builder().uint(0x4A33F6FD, 32).ref(no_imports).ref(no_exports).ref(transactions.cell())
    extra.octets(moment.seed).octets(bytes(32))
    if custom is None:
        return extra.uint(0, 1).cell()
    return extra.uint(1, 1).ref(custom).cell()
