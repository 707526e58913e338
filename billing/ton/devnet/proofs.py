"""Merkle proofs over a snapshot: small, and with everything kept that clients parse."""

from __future__ import annotations

from collections.abc import Collection

from billing.ton.devnet.blocks import MASTERCHAIN
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import Cell, Reader, merkle_proof, pruned
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.snapshot import Snapshot
from billing.ton.devnet.trie import load_label

_ABOUT_VALIDATORS = (28, 34)  # configuration parameters: how many sign, and who


def _keep(cell: Cell, kept: dict[int, Cell]) -> Cell:
    """Prune every reference of a cell but those given a replacement."""
    refs = tuple(kept[index] if index in kept else pruned(ref) for index, ref in enumerate(cell.refs))
    return Cell(cell.data, cell.bit_length, refs)


def header_proof(block: Cell) -> Cell:
    """Prove a block's header and its state update."""
    return merkle_proof(_keep(block, {0: block.refs[0], 2: block.refs[2]}))


def config_in_block_proof(block: Cell) -> Cell:
    """Prove the configuration in a key block: its dictionary whole, of its parameters those about validators."""
    extra = block.refs[3]
    custom = extra.refs[3]
    config = _config_keys(custom.refs[2])
    proved = _keep(extra, {3: _keep(custom, {0: custom.refs[0], 1: custom.refs[1], 2: config})})
    return merkle_proof(_keep(block, {0: block.refs[0], 2: block.refs[2], 3: proved}))


def shards_in_block_proof(block: Cell) -> Cell:
    """Prove the shard blocks that a masterchain block lists."""
    extra = block.refs[3]
    return merkle_proof(_keep(block, {0: block.refs[0], 2: block.refs[2], 3: _keep(extra, {3: extra.refs[3]})}))


def _config_keys(root: Cell) -> Cell:
    """Prune every parameter of a configuration dictionary but those that say who signs."""

    def visit(cell: Cell, prefix: int, remaining: int) -> Cell:
        label, length = load_label(Reader(cell), remaining)
        prefix, remaining = prefix << length | label, remaining - length
        if not remaining:
            return cell if prefix in _ABOUT_VALIDATORS else _keep(cell, {})
        below = tuple(visit(ref, prefix << 1 | bit, remaining - 1) for bit, ref in enumerate(cell.refs))
        return Cell(cell.data, cell.bit_length, below)

    return visit(root, 0, 32)


def transactions_proof(block: Cell, hashes: Collection[bytes]) -> Cell:
    """Prove a block's account blocks, with the transactions of these hashes pruned to just their hash."""
    extra = block.refs[3]
    proved = _keep(extra, {2: _prune_at(extra.refs[2], frozenset(hashes))})
    return merkle_proof(_keep(block, {0: block.refs[0], 2: block.refs[2], 3: proved}))


def _prune_at(cell: Cell, hashes: frozenset[bytes]) -> Cell:
    if cell.hash() in hashes:
        return pruned(cell)
    return Cell(cell.data, cell.bit_length, tuple(_prune_at(ref, hashes) for ref in cell.refs), exotic=cell.exotic)


def master_state_proof(snapshot: Snapshot, *, with_config: bool = False) -> Cell:
    """Prove the shard descriptions in the masterchain state, and the configuration if asked for."""
    state = snapshot.states[MASTERCHAIN]
    extra = state.refs[3]
    kept = {0: extra.refs[0], 2: extra.refs[2]}
    if with_config:
        kept[1] = extra.refs[1]
    return merkle_proof(_keep(state, {3: _keep(extra, kept)}))


def shard_proof(snapshot: Snapshot) -> bytes:
    """Prove that the masterchain block commits to the basechain block."""
    return encode_boc(header_proof(snapshot.blocks[MASTERCHAIN]), master_state_proof(snapshot))


def account_proof(snapshot: Snapshot, account: AccountId) -> bytes:
    """Prove an account, or its absence, against the block of its workchain."""
    block, state = snapshot.blocks[account.workchain], snapshot.states[account.workchain]
    accounts = snapshot.accounts[account.workchain].proof(frozenset((account.key,)))
    proved = merkle_proof(_keep(state, {1: accounts}))
    return encode_boc(header_proof(block), proved)


def config_proof(snapshot: Snapshot) -> tuple[bytes, bytes]:
    """Prove the masterchain state against its block, and the whole configuration against that state."""
    block = encode_boc(header_proof(snapshot.blocks[MASTERCHAIN]))
    return block, encode_boc(master_state_proof(snapshot, with_config=True))
