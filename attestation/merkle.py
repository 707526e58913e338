"""Many challengers' nonces under one hardware quote.

Tree hash and audit path as in RFC 9162, section 2.1 (`attestation.merkle_tree`). The value
that is signed also names the number of leaves, so that an audit path has exactly one reading:
``nonce_root = SHA-256(0x02 || size as u32, big-endian || tree hash)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from attestation import merkle_tree
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
    return _seal(len(nonces), merkle_tree.root_hash(_leaves(nonces)))


def inclusion_proof(nonces: Sequence[bytes], index: int) -> InclusionProof:
    """Return the audit path of ``nonces[index]``."""
    _check_nonces(nonces)
    path = merkle_tree.inclusion_path(_leaves(nonces), index)
    return InclusionProof(index=index, size=len(nonces), path=path)


def inclusion_proofs(nonces: Sequence[bytes]) -> tuple[InclusionProof, ...]:
    """Return the audit path of every nonce, in order; hashes each node once."""
    _check_nonces(nonces)
    paths = merkle_tree.inclusion_paths(_leaves(nonces))
    return tuple(InclusionProof(index=i, size=len(nonces), path=path) for i, path in enumerate(paths))


def root_of(nonce: bytes, proof: InclusionProof) -> bytes:
    """Return the nonce root this nonce and audit path lead to.

    Raises:
        FreshnessError: the path has another length than a leaf at this place has.

    """
    try:
        tree_hash = merkle_tree.root_from_path(
            merkle_tree.leaf_hash(nonce), index=proof.index, size=proof.size, path=proof.path
        )
    except ValueError as error:
        raise FreshnessError(str(error)) from None
    return _seal(proof.size, tree_hash)


def _check_nonces(nonces: Sequence[bytes]) -> None:
    if not 0 < len(nonces) <= BATCH_MAX or any(len(nonce) != NONCE_SIZE for nonce in nonces):
        raise ValueError(f"want 1 to {BATCH_MAX} nonces of {NONCE_SIZE} bytes")


def _leaves(nonces: Sequence[bytes]) -> list[bytes]:
    return [merkle_tree.leaf_hash(nonce) for nonce in nonces]


def _seal(size: int, tree_hash: bytes) -> bytes:
    return hashlib.sha256(b"\x02" + size.to_bytes(4, "big") + tree_hash).digest()
