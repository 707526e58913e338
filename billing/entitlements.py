"""What each payee may claim from the vault, and the Merkle root an order anchors.

Tree: `billing.tree` over the payees in byte order. A leaf is payee (33) | index u32 | entitled u64. Entitled is what
the payee is owed outside of batches when the root is anchored; under one root it is paid once, which the contract marks
at the leaf's index.

Bytes kept and published for each anchor: magic | count u32 | leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise

from billing.errors import MalformedRecordError
from billing.tree import hash_leaf, tree_path, tree_root, tree_sides
from billing.wire import check_size, check_uint

__all__ = ["Entitlements", "PathStep"]

MAGIC = b"CHRYENT1"
LEAF_BYTES = 33 + 8
PAYEES_MAX = 1 << 20  # 43 MB of leaves; a larger file is not read
PathStep = tuple[bool, bytes]  # whether the sibling is on the left, and its hash (32)


@dataclass(frozen=True, kw_only=True)
class Entitlements:
    """Nanotons by payee (33 bytes); payees with nothing are left out. Frozen: change nothing in `amounts`."""

    amounts: Mapping[bytes, int]

    def __post_init__(self) -> None:
        for payee, amount in self.amounts.items():
            check_size("payee", payee, 33)
            check_uint("entitled", amount, 63)
            if amount == 0:
                raise ValueError("a payee with nothing has no leaf")

    @cached_property
    def root(self) -> bytes:
        """The Merkle root, 32 bytes; SHA-256 of nothing when nobody is entitled to anything, which no leaf leads to."""
        return tree_root(self._hashes)

    def path(self, payee: bytes) -> tuple[PathStep, ...]:
        """The siblings that lead from the payee's leaf to the root.

        Raises:
            KeyError: the payee is entitled to nothing.
        """
        index = self.index(payee)
        siblings = tree_path(self._hashes, index)
        return tuple(zip(tree_sides(index, len(self._payees)), siblings, strict=True))

    def index(self, payee: bytes) -> int:
        """The place of the payee's leaf.

        Raises:
            KeyError: the payee is entitled to nothing.
        """
        if payee not in self._places:
            raise KeyError(payee.hex())
        return self._places[payee]

    def encode(self) -> bytes:
        """The leaves as bytes, from which anybody computes the root and every path."""
        leaves = b"".join(payee + self.amounts[payee].to_bytes(8, "big") for payee in self._payees)
        return MAGIC + len(self._payees).to_bytes(4, "big") + leaves

    @classmethod
    def parse(cls, data: bytes) -> Entitlements:
        """The entitlements of `encode`'s bytes.

        Raises:
            MalformedRecordError: the bytes are not of this layout, or payees do not ascend.
        """
        count = int.from_bytes(data[8:12], "big")
        if data[:8] != MAGIC or count > PAYEES_MAX or len(data) != 12 + count * LEAF_BYTES:
            raise MalformedRecordError("entitlements", f"{len(data)} bytes that do not fit their head")
        leaves = [data[i : i + LEAF_BYTES] for i in range(12, len(data), LEAF_BYTES)]
        payees = [leaf[:33] for leaf in leaves]
        if any(first >= second for first, second in pairwise(payees)):
            raise MalformedRecordError("entitlements", "payees do not ascend")
        try:
            return cls(amounts={leaf[:33]: int.from_bytes(leaf[33:], "big") for leaf in leaves})
        except ValueError as error:
            raise MalformedRecordError("entitlements", str(error)) from error

    @cached_property
    def _payees(self) -> list[bytes]:
        return sorted(self.amounts)

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {payee: i for i, payee in enumerate(self._payees)}

    @cached_property
    def _hashes(self) -> list[bytes]:
        return [hash_leaf(_leaf(payee, i, self.amounts[payee])) for i, payee in enumerate(self._payees)]


def climb(payee: bytes, index: int, entitled: int, path: tuple[PathStep, ...]) -> bytes:
    """The root a leaf leads to along a path, computed as the contract does."""
    value = hash_leaf(_leaf(payee, index, entitled))
    for left, sibling in path:
        value = sha256(b"\x01" + (sibling + value if left else value + sibling)).digest()
    return value


def _leaf(payee: bytes, index: int, entitled: int) -> bytes:
    return payee + index.to_bytes(4, "big") + entitled.to_bytes(8, "big")
