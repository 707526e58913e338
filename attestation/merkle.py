"""Many challengers' nonces under one hardware quote.

Tree hash and audit path as in RFC 9162, section 2.1 (SHA-256, leaf prefix 0, node prefix 1). The value
that is signed also names the number of leaves, so that an audit path has exactly one reading:
``nonce_root = SHA-256(0x02 || size as u32, big-endian || tree hash)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from attestation.errors import FreshnessError

NONCE_SIZE = 32
BATCH_MAX = 1 << 16  # nonces under one quote; the enclave's window closes long before
_PATH_MAX = 16
_HASH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """Where one nonce stands in the signed tree.

    Attributes:
        index: position of the nonce, from 0.
        size: number of nonces in the tree.
        path: sibling hashes from the leaf upwards, 32 bytes each; empty for a single nonce.
    """

    index: int
    size: int
    path: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.size <= BATCH_MAX:
            raise ValueError(f"leaf {self.index} of {self.size}: want 0 <= index < size <= {BATCH_MAX}")
        if len(self.path) > _PATH_MAX or any(len(node) != _HASH_SIZE for node in self.path):
            raise ValueError(f"audit path: want at most {_PATH_MAX} hashes of {_HASH_SIZE} bytes")


def nonce_root(nonces: Sequence[bytes]) -> bytes:
    """Return the 32-byte value a transcript carries for these nonces (32 bytes each, at least one)."""
    _check_nonces(nonces)
    return _seal(len(nonces), _tree_hash(nonces))


def inclusion_proof(nonces: Sequence[bytes], index: int) -> InclusionProof:
    """Return the audit path of ``nonces[index]``."""
    _check_nonces(nonces)
    return InclusionProof(index=index, size=len(nonces), path=tuple(_audit_path(nonces, index)))


def inclusion_proofs(nonces: Sequence[bytes]) -> tuple[InclusionProof, ...]:
    """Return the audit path of every nonce, in order; hashes each node once."""
    _check_nonces(nonces)
    _, paths = _tree_with_paths(nonces)
    return tuple(InclusionProof(index=i, size=len(nonces), path=tuple(path)) for i, path in enumerate(paths))


def root_of(nonce: bytes, proof: InclusionProof) -> bytes:
    """Return the nonce root this nonce and audit path lead to.

    Raises:
        FreshnessError: the path has another length than a leaf at this place has.

    Source: RFC 9162, section 2.1.3.2.
    """
    position, last, node = proof.index, proof.size - 1, _leaf(nonce)
    for sibling in proof.path:
        if last == 0:
            raise FreshnessError(f"audit path of {len(proof.path)} hashes is too long for {proof.size} nonces")
        if position & 1 or position == last:
            node = _node(sibling, node)
            while position & 1 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            node = _node(node, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise FreshnessError(f"audit path of {len(proof.path)} hashes is too short for {proof.size} nonces")
    return _seal(proof.size, node)


def _check_nonces(nonces: Sequence[bytes]) -> None:
    if not 0 < len(nonces) <= BATCH_MAX or any(len(nonce) != NONCE_SIZE for nonce in nonces):
        raise ValueError(f"want 1 to {BATCH_MAX} nonces of {NONCE_SIZE} bytes")


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _tree_hash(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return _leaf(leaves[0])
    middle = _split(len(leaves))
    return _node(_tree_hash(leaves[:middle]), _tree_hash(leaves[middle:]))


def _audit_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*_audit_path(leaves[:middle], index), _tree_hash(leaves[middle:])]
    return [*_audit_path(leaves[middle:], index - middle), _tree_hash(leaves[:middle])]


def _tree_with_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    if len(leaves) == 1:
        return _leaf(leaves[0]), [[]]
    middle = _split(len(leaves))
    left, left_paths = _tree_with_paths(leaves[:middle])
    right, right_paths = _tree_with_paths(leaves[middle:])
    for path in left_paths:
        path.append(right)
    for path in right_paths:
        path.append(left)
    return _node(left, right), left_paths + right_paths


def _leaf(value: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + value).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _seal(size: int, tree_hash: bytes) -> bytes:
    return hashlib.sha256(b"\x02" + size.to_bytes(4, "big") + tree_hash).digest()
