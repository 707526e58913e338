"""Cumulative totals per payee and their Merkle root, the epoch's anchor on the chain.

Tree: RFC 9162 section 2.1 (SHA-256, prefix 0 for leaves, 1 for nodes) over the payees in byte order. A leaf is
payee (33) | earned u128 | paid u128. With a root on the chain nobody can later show a payee other books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from billing.wire import check_size, check_uint


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeTotal:
    """All a payee ever earned and was paid, nanotons."""

    payee: bytes  # 33
    earned: int
    paid: int

    def __post_init__(self) -> None:
        check_size("payee", self.payee, 33)
        check_uint("earned", self.earned, 128)
        check_uint("paid", self.paid, 128)

    def leaf(self) -> bytes:
        """Return the leaf's bytes."""
        return self.payee + self.earned.to_bytes(16, "big") + self.paid.to_bytes(16, "big")


def totals_root(totals: Sequence[PayeeTotal]) -> bytes:
    """Return the Merkle root, 32 bytes; order of `totals` does not matter, payees must differ."""
    return _root(_leaves(totals))


def totals_path(totals: Sequence[PayeeTotal], payee: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Return (index, sibling hashes from leaf to root) that prove `payee`'s total under `totals_root`.

    Raises:
        KeyError: the payee has no total.
    """
    payees = sorted(total.payee for total in totals)
    if payee not in payees:
        raise KeyError(payee.hex())
    index = payees.index(payee)
    return index, _path(_leaves(totals), index)


def totals_hold(total: PayeeTotal, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether `path` proves `total` under `root`, in a tree of `size` payees (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, value = index, size - 1, _hash_leaf(total.leaf())
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            value = _hash_node(sibling, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = _hash_node(value, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and value == root


def _leaves(totals: Sequence[PayeeTotal]) -> list[bytes]:
    ordered = sorted(totals, key=lambda total: total.payee)
    if len({total.payee for total in ordered}) != len(ordered):
        raise ValueError("a payee has one total")
    return [_hash_leaf(total.leaf()) for total in ordered]


def _hash_leaf(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def _hash_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return _hash_node(_root(hashes[:middle]), _root(hashes[middle:]))


def _path(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    if len(hashes) == 1:
        return ()
    middle = _split(len(hashes))
    if index < middle:
        return (*_path(hashes[:middle], index), _root(hashes[middle:]))
    return (*_path(hashes[middle:], index - middle), _root(hashes[:middle]))
