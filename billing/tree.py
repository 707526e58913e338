"""Merkle trees as in RFC 9162 section 2.1: SHA-256, prefix 0 for leaves, 1 for nodes.

Built from below: neighbours are joined, one left over goes up as it is. That is the RFC's tree, which it defines by
splitting at the largest power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def hash_leaf(leaf: bytes) -> bytes:
    """Return the hash of a leaf's bytes."""
    return sha256(b"\x00" + leaf).digest()


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, 32 bytes; SHA-256 of nothing for none."""
    return _levels(hashes)[-1][0] if hashes else sha256(b"").digest()


def tree_paths(hashes: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """Return the root over at least one leaf hash, and of every leaf its sibling hashes from below to the root."""
    levels = _levels(hashes)
    return levels[-1][0], [_path(levels, index) for index in range(len(hashes))]


def tree_path(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the sibling hashes of one leaf, from below to the root."""
    return _path(_levels(hashes), index)


def tree_sides(index: int, size: int) -> tuple[bool, ...]:
    """Return for each hash of `tree_path`, in a tree of `size` leaves, whether that sibling is on the left."""
    sides = []
    while size > 1:
        if index ^ 1 < size:
            sides.append(bool(index & 1))
        index, size = index >> 1, size + 1 >> 1
    return tuple(sides)


def root_of(leaf_hash: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that `path` leads to in a tree of `size` leaves; None if no such tree has a path of that length.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    node, last, value = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            value = _hash_node(sibling, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = _hash_node(value, sibling)
        node, last = node >> 1, last >> 1
    return value if last == 0 else None


def _hash_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _levels(hashes: Sequence[bytes]) -> list[list[bytes]]:
    levels = [list(hashes)]
    while len(below := levels[-1]) > 1:
        above = [_hash_node(left, right) for left, right in zip(below[::2], below[1::2], strict=False)]
        levels.append(above + below[len(above) * 2 :])
    return levels


def _path(levels: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    path = []
    for level in levels[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index >>= 1
    return tuple(path)
