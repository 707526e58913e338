"""From a lite-server's answers to facts: heads, account states and transaction chains, with every proof checked.

The trust starts at one masterchain block: its root hash, named by the lite-server. Whether validators signed it is
checked before, by `billing.ton.block_proof`, where the settings have a key block (trust level 0). From there on
nothing is believed: masterchain state -> shard block -> shard state -> account -> last transaction -> the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hmac import compare_digest
from typing import Any

from pytoniq_core import Address, Cell, Slice
from pytoniq_core.tlb.account import Account

from billing.errors import ProofRejectedError, WrongNetworkError
from billing.money import Nanotons
from billing.ton.cells import check_whole, lookup, open_proof, ordinary, parse_cells, proof_step

__all__ = ["AccountState", "AccountStatus", "Block", "Head", "prove_account", "prove_head"]

MERKLE_UPDATE = 4
STATE_TAG = 0x9023AFE2  # ShardStateUnsplit, block.tlb
MASTERCHAIN, BASECHAIN = -1, 0


class AccountStatus(StrEnum):
    """What stands at an address."""

    ABSENT = "absent"
    UNINITIALISED = "uninitialised"
    ACTIVE = "active"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block's name: workchain, sequence number, and the hash of its root cell, 32 bytes."""

    workchain: int
    seqno: int
    root_hash: bytes
    file_hash: bytes
    shard: int = -(1 << 63)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Block:
        """The block a lite-server's answer names.

        Raises:
            ProofRejectedError: the fields are not those of a block.
        """
        with proof_step("block name"):
            return cls(
                workchain=int(fields["workchain"]),
                seqno=int(fields["seqno"]),
                root_hash=bytes.fromhex(fields["root_hash"]),
                file_hash=bytes.fromhex(fields["file_hash"]),
                shard=int(fields["shard"]),
            )

    @classmethod
    def parse(cls, text: str) -> Block:
        """The masterchain block that `number:root hash:file hash` names, both hashes in hex.

        Raises:
            ValueError: the text has another form.
        """
        number, _, hashes = text.partition(":")
        root, _, file = hashes.partition(":")
        try:
            block = cls(
                workchain=MASTERCHAIN, seqno=int(number), root_hash=bytes.fromhex(root), file_hash=bytes.fromhex(file)
            )
        except ValueError:
            block = None
        if block is None or {len(block.root_hash), len(block.file_hash)} != {32} or block.seqno < 1:
            raise ValueError(f"a block is named number:root hash:file hash (64 hex digits each), not {text!r}")
        return block

    def fields(self) -> dict[str, Any]:
        """The block as the lite-server protocol wants it."""
        return {
            "workchain": self.workchain,
            "shard": self.shard,
            "seqno": self.seqno,
            "root_hash": self.root_hash.hex(),
            "file_hash": self.file_hash.hex(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A masterchain block whose state was shown: its number, and its time as unix seconds."""

    seqno: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account as of one masterchain block, proved down to its last cell."""

    address: Address
    head: Head
    status: AccountStatus
    balance: Nanotons
    last_lt: int  # logical time of its last transaction, 0 when absent
    last_hash: bytes  # hash of its last transaction
    code: Cell | None
    data: Cell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The fields of a shard state, and its root cell."""

    workchain: int
    seqno: int
    time: int
    root: Cell


def prove_head(block: Block, proofs: bytes, network_id: int) -> tuple[Head, Cell]:
    """The head of the chain and the masterchain state's cell, from a shard proof.

    1. the first root proves a block with the hash `block` names;
    2. the second proves the state that block leaves behind;
    3. the state is of the masterchain, of this number and of this network.

    Raises:
        ProofRejectedError: the proof does not hold.
        WrongNetworkError: the state is of another network.
    """
    state = _prove_state(proofs, block, network_id, "the masterchain state")
    if state.workchain != MASTERCHAIN:
        raise ProofRejectedError("the masterchain state", f"it is of workchain {state.workchain}")
    return Head(seqno=state.seqno, time=state.time), state.root


def prove_account(block: Block, answer: dict[str, Any], address: Address, network_id: int) -> AccountState:
    """The account's state, from a lite-server's answer to getAccountState for masterchain block `block`.

    1. masterchain block and state, as in `prove_head`;
    2. the shard block is the one the masterchain state lists for this account;
    3. the shard state is the one that block leaves behind, of the same network;
    4. the account is, or is not, in the state's dictionary;
    5. the state cell sent beside it has the hash the dictionary holds, and nothing in it is pruned.

    Raises:
        ProofRejectedError: any of it does not hold.
        WrongNetworkError: the states are of another network.
    """
    if address.wc != BASECHAIN:
        raise ValueError(f"accounts of the basechain can be proved, not of workchain {address.wc}")
    if Block.of(answer["id"]) != block:
        raise ProofRejectedError("the account", "the answer is for another masterchain block than asked")
    head, master = prove_head(block, answer["shard_proof"], network_id)  # (1)
    shard = _shard_of(master, address)  # (2)
    if not compare_digest(shard.root_hash, Block.of(answer["shardblk"]).root_hash):
        raise ProofRejectedError("the shard block", "the masterchain lists another one for this account")
    state = _prove_state(answer["proof"], shard, network_id, "the shard state")  # (3)
    with proof_step("the account"):
        leaf = _account_leaf(state.root, address)  # (4)
        if leaf is None:
            if answer["state"]:
                raise ProofRejectedError("the account", "a state was sent for an account that is not in the chain")
            return _absent(address, head)
        reference, last_hash, last_lt = leaf.load_ref(), leaf.load_bytes(32), leaf.load_uint(64)
        root = parse_cells(answer["state"], roots=1)[0]
        if not compare_digest(root.get_hash(0), reference.get_hash(0)):  # (5)
            raise ProofRejectedError("the account", "the state sent is not the one in the chain")
        return _parse_account(check_whole(root, "the account"), address, head, last_lt, last_hash)


def _prove_state(proofs: bytes, block: Block, network_id: int, what: str) -> _State:
    """The state a block leaves behind, from two Merkle proofs: of the block, and of the state."""
    block_proof, state_proof = parse_cells(proofs, roots=2)
    with proof_step(what):
        block_root = ordinary(open_proof(block_proof, block.root_hash, "the block"), "the block")
        update = block_root.refs[2]
        if update.type_ != MERKLE_UPDATE:
            raise ProofRejectedError("the block", "its state update is not shown")
        root = ordinary(open_proof(state_proof, update.data[33:65], what), what)
        s = root.begin_parse()
        tag, network = s.load_uint(32), s.load_int(32)
        s.skip_bits(2 + 6)
        workchain = s.load_int(32)
        s.skip_bits(64)
        seqno = s.load_uint(32)
        s.skip_bits(32)
        time = s.load_uint(32)
    if tag != STATE_TAG:
        raise ProofRejectedError(what, f"tag {tag:08x} is not that of an unsplit shard state")
    if network != network_id:
        raise WrongNetworkError(network, network_id)
    if workchain != block.workchain or seqno != block.seqno:
        raise ProofRejectedError(what, f"it is {workchain}:{seqno}, the block {block.workchain}:{block.seqno}")
    return _State(workchain=workchain, seqno=seqno, time=time, root=root)


def _shard_of(master: Cell, address: Address) -> Block:
    """The newest shard block the masterchain state lists for the account. Source: TL-B ShardHashes, ShardDescr."""
    with proof_step("the shard list"):
        extra = ordinary(master.refs[3], "the masterchain's extra state").begin_parse()
        extra.skip_bits(16)
        if not extra.load_bit():
            raise ProofRejectedError("the shard list", "it is empty")
        leaf = lookup(extra.load_ref(), address.wc, 32)
        if leaf is None:
            raise ProofRejectedError("the shard list", f"it has no workchain {address.wc}")
        node = ordinary(leaf.load_ref(), "the shard tree").begin_parse()
        for bit in format(int.from_bytes(address.hash_part, "big"), "0256b"):
            if not node.load_bit():
                return _shard_block(node, address.wc)
            node = ordinary(node.refs[int(bit)], "the shard tree").begin_parse()
    raise ProofRejectedError("the shard list", "it is split deeper than accounts are long")


def _shard_block(descr: Slice, workchain: int) -> Block:
    tag = descr.load_uint(4)
    if tag not in (0xA, 0xB):
        raise ProofRejectedError("the shard list", f"tag {tag:x} is not that of a shard description")
    seqno = descr.load_uint(32)
    descr.skip_bits(32 + 64 + 64)
    return Block(
        workchain=workchain, seqno=seqno, root_hash=descr.load_bytes(32), file_hash=descr.load_bytes(32), shard=0
    )


def _account_leaf(state: Cell, address: Address) -> Slice | None:
    """The account's entry in the shard state's dictionary, after its balance extra. Source: TL-B ShardAccounts."""
    accounts = ordinary(state.refs[1], "the account dictionary").begin_parse()
    if not accounts.load_bit():
        return None
    leaf = lookup(accounts.load_ref(), int.from_bytes(address.hash_part, "big"), 256)
    if leaf is None:
        return None
    leaf.skip_bits(5)  # DepthBalanceInfo: split_depth, then the balance
    leaf.load_coins()
    if leaf.load_bit():
        leaf.load_ref()
    return leaf


def _absent(address: Address, head: Head) -> AccountState:
    return AccountState(
        address=address,
        head=head,
        status=AccountStatus.ABSENT,
        balance=Nanotons(0),
        last_lt=0,
        last_hash=bytes(32),
        code=None,
        data=None,
    )


def _parse_account(root: Cell, address: Address, head: Head, last_lt: int, last_hash: bytes) -> AccountState:
    account = Account.deserialize(root.begin_parse())
    if account is None:
        return _absent(address, head)
    if account.addr != address:
        raise ProofRejectedError("the account", f"it is {account.addr}")
    state = account.storage.state
    status = {
        "account_active": AccountStatus.ACTIVE,
        "account_frozen": AccountStatus.FROZEN,
        "account_uninit": AccountStatus.UNINITIALISED,
    }[state.type_]
    active = status is AccountStatus.ACTIVE
    return AccountState(
        address=address,
        head=head,
        status=status,
        balance=Nanotons(account.storage.balance.grams),
        last_lt=last_lt,
        last_hash=last_hash,
        code=state.state_init.code if active else None,
        data=state.state_init.data if active else None,
    )
