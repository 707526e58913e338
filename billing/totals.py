"""Cumulative totals per payee and their Merkle root, the epoch's anchor on the chain.

Tree: `billing.tree` over the payees in byte order. A leaf is payee (33) | earned u128 | paid u128. With a root on the
chain nobody can later show a payee other books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from billing.tree import hash_leaf, root_of, tree_path, tree_root
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
    return tree_root(_leaves(totals))


def totals_path(totals: Sequence[PayeeTotal], payee: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Return (index, sibling hashes from leaf to root) that prove `payee`'s total under `totals_root`.

    Raises:
        KeyError: the payee has no total.
    """
    payees = sorted(total.payee for total in totals)
    if payee not in payees:
        raise KeyError(payee.hex())
    index = payees.index(payee)
    return index, tree_path(_leaves(totals), index)


def totals_hold(total: PayeeTotal, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether `path` proves `total` under `root`, in a tree of `size` payees (RFC 9162 section 2.1.3.2)."""
    return root_of(hash_leaf(total.leaf()), index=index, size=size, path=path) == root


def _leaves(totals: Sequence[PayeeTotal]) -> list[bytes]:
    ordered = sorted(totals, key=lambda total: total.payee)
    if len({total.payee for total in ordered}) != len(ordered):
        raise ValueError("a payee has one total")
    return [hash_leaf(total.leaf()) for total in ordered]
