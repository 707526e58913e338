"""From a trusted key block to a later masterchain block: who signs is read from key blocks, signatures are checked.

This is what pytoniq calls trust level 0, and done here because pytoniq 0.1.43 neither compares a link's configuration
with the block it is to come from, nor counts a validator once: any server could bring its own validators.
Source: ton/crypto/block/check-proof.cpp (`BlockProofLink::validate`); block.tlb (`Block`, `BlockInfo`, `McBlockExtra`,
`ValidatorSet`); lite_api.tl (`liteServer.blockLinkForward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pytoniq_core import Cell, Slice

from billing.errors import ProofRejectedError, WrongNetworkError
from billing.ton.cells import leaves, lookup, open_proof, ordinary, parse_cells, proof_step
from billing.ton.proofs import MASTERCHAIN, Block

__all__ = ["Trail", "Validators", "follow_links"]

Validators = Mapping[bytes, tuple[bytes, int]]  # Ed25519 key, 32 bytes, and weight, by short id

STEPS_MAX = 64  # links of one answer that are read; servers send 16
BLOCK_TAG, INFO_TAG, EXTRA_TAG, MASTER_EXTRA_TAG = 0x11EF55AA, 0x9BC7A987, 0x4A33F6FD, 0xCCA5
KEY_TAG = 0x8E81278A  # SigPubKey, an Ed25519 key
CURRENT_VALIDATORS, TEMPORARY_VALIDATORS = 34, 35  # configuration parameters; the second, where it is, counts
_SIGNED_TAG = b"\x70\x6e\x0b\xc5"  # TL ton.blockId
_NODE_TAG = b"\xc6\xb4\x13\x48"  # TL pub.ed25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """How far an answer leads: the last block it proves, and the newest key block among those it proves."""

    reached: Block
    key_block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    is_key: bool
    previous_key: int  # number of the newest key block before
    root: Cell


def follow_links(
    key_block: Block,
    target: Block,
    answer: Mapping[str, Any],
    network_id: int,
    *,
    known: dict[bytes, Validators] | None = None,
) -> Trail:
    """Follow a lite-server's answer to getBlockProof from a trusted key block towards `target`.

    Of every link:
    1. it starts where the one before ended, and leads on, not beyond the target;
    2. its configuration is that of the block it starts from, which is a key block;
    3. the header of the block it leads to is genuine: number, network, and the key block it stands behind;
    4. validators with more than two thirds of the weight signed that block, each counted once.

    Args:
        known: the validators that key blocks name, by root hash, as far as they were proved before; added to here, so
            that a key block's configuration is read once.

    Raises:
        ProofRejectedError: any of it does not hold.
        WrongNetworkError: a block is of another network.
    """
    at, newest_key = key_block, key_block
    known = {} if known is None else known
    if not 1 <= len(answer["steps"]) <= STEPS_MAX:
        raise ProofRejectedError("the block proof", f"{len(answer['steps'])} links, expected 1 to {STEPS_MAX}")
    for step in answer["steps"]:
        if "config_proof" not in step:
            raise ProofRejectedError("the block proof", "it leads back, where only later blocks are asked for")
        start, to = Block.of(step["from"]), Block.of(step["to"])
        if start != at or to.workchain != MASTERCHAIN or not at.seqno < to.seqno <= target.seqno:  # (1)
            raise ProofRejectedError("the block proof", f"a link from {start.seqno} to {to.seqno} at block {at.seqno}")
        validators = known.get(start.root_hash)
        if validators is None:
            validators = known[start.root_hash] = _validators(step["config_proof"], start, network_id)  # (2)
        header = _header(step["dest_proof"], to, network_id)  # (3)
        if header.previous_key != start.seqno:
            raise ProofRejectedError("the block proof", f"block {to.seqno} follows key block {header.previous_key}")
        _check_signatures(validators, step["signatures"], to)  # (4)
        at = to
        if header.is_key:
            newest_key = to
    if at.seqno == target.seqno and at != target:
        raise ProofRejectedError("the block proof", f"it leads to another block {target.seqno} than the one named")
    return Trail(reached=at, key_block=newest_key)


def _header(proof: bytes, block: Block, network_id: int) -> _Header:
    root = ordinary(open_proof(parse_cells(proof, roots=1)[0], block.root_hash, "the block"), "the block")
    with proof_step("the block header"):
        s = root.begin_parse()
        tag, network = s.load_uint(32), s.load_int(32)
        info = ordinary(root.refs[0], "the block header").begin_parse()
        info_tag = info.load_uint(32)
        info.skip_bits(32 + 6)  # version; masterchain, merge and split flags
        is_key = bool(info.load_bit())
        info.skip_bits(1 + 8)
        seqno = info.load_uint(32)
        info.skip_bits(32 + 2 + 6)
        workchain = info.load_int(32)
        info.skip_bits(64 + 32 + 64 + 64 + 32 + 32 + 32)  # shard, time, logical times, who signs, oldest reference
        previous_key = info.load_uint(32)
    if (tag, info_tag) != (BLOCK_TAG, INFO_TAG):
        raise ProofRejectedError("the block header", f"tags {tag:08x} and {info_tag:08x} are not those of a block")
    if network != network_id:
        raise WrongNetworkError(network, network_id)
    if (workchain, seqno) != (block.workchain, block.seqno):
        raise ProofRejectedError("the block header", f"it is of {workchain}:{seqno}, not {block.seqno}")
    return _Header(is_key=is_key, previous_key=previous_key, root=root)


def _validators(proof: bytes, key_block: Block, network_id: int) -> Validators:
    """The validators a key block names: public key and weight by short id."""
    header = _header(proof, key_block, network_id)
    with proof_step("the validators"):
        extra = ordinary(header.root.refs[3], "the block's extra")
        custom = ordinary(extra.refs[3], "the key block's extra").begin_parse()
        tag, has_config = custom.load_uint(16), custom.load_bit()
        if tag != MASTER_EXTRA_TAG or extra.begin_parse().load_uint(32) != EXTRA_TAG or not has_config:
            raise ProofRejectedError("the validators", f"block {key_block.seqno} is no key block")
        config = _config(custom)
        leaf = lookup(config, TEMPORARY_VALIDATORS, 32) or lookup(config, CURRENT_VALIDATORS, 32)
        if leaf is None:
            raise ProofRejectedError("the validators", f"key block {key_block.seqno} names none")
        return _parse_set(ordinary(leaf.load_ref(), "the validators").begin_parse())


def _config(custom: Slice) -> Cell:
    """The configuration dictionary, behind the rest of McBlockExtra."""
    for _ in range(2):  # shard hashes; shard fees
        if custom.load_bit():
            custom.load_ref()
    for _ in range(2):  # sums of fees and of what was created
        custom.load_coins()
        if custom.load_bit():
            custom.load_ref()
    custom.load_ref()  # signatures of the previous block
    custom.skip_bits(256)  # address of the configuration contract
    config: Cell = custom.load_ref()
    return config


def _parse_set(s: Slice) -> Validators:
    tag = s.load_uint(8)
    if tag not in (0x11, 0x12):
        raise ProofRejectedError("the validators", f"tag {tag:02x} is not that of a validator set")
    s.skip_bits(32 + 32 + 16)  # in office from and until; how many
    main = s.load_uint(16)  # so many of them sign the masterchain
    if tag == 0x12:
        s.skip_bits(64)  # the weight of all
        root = s.load_ref() if s.load_bit() else None
    else:
        root = s.to_cell()
    if root is None:
        raise ProofRejectedError("the validators", "the set is empty")
    found: dict[bytes, tuple[bytes, int]] = {}
    for index, leaf in leaves(root, 16):
        if index >= main:
            break
        kind, key_tag = leaf.load_uint(8), leaf.load_uint(32)
        if kind not in (0x53, 0x73) or key_tag != KEY_TAG:
            raise ProofRejectedError("the validators", f"tags {kind:02x} and {key_tag:08x} are not those of one")
        key = leaf.load_bytes(32)
        found[sha256(_NODE_TAG + key).digest()] = (key, leaf.load_uint(64))
    return found


def _check_signatures(validators: Validators, signatures: Mapping[str, Any], to: Block) -> None:
    if "candidate" in signatures:
        raise ProofRejectedError("the signatures", "they are of the kind 'simplex', which is not supported yet")
    signed = _SIGNED_TAG + to.root_hash + to.file_hash
    weights: dict[bytes, int] = {}  # a validator that signed twice counts once
    for signature in signatures["signatures"]:
        node = bytes.fromhex(signature["node_id_short"])
        if node not in validators:
            raise ProofRejectedError("the signatures", f"{node.hex()} is no validator of block {to.seqno}")
        key, weight = validators[node]
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature["signature"], signed)
        except (InvalidSignature, ValueError) as error:
            raise ProofRejectedError("the signatures", f"that of {node.hex()} is not of block {to.seqno}") from error
        weights[node] = weight
    total = sum(weight for _, weight in validators.values())
    if 3 * sum(weights.values()) <= 2 * total:
        raise ProofRejectedError("the signatures", f"weight {sum(weights.values())} of {total} signed block {to.seqno}")
