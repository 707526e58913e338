"""The Merkle tree of RFC 9162, section 2.1: SHA-256, leaf prefix 0, node prefix 1.

Everything here works on leaf hashes (`leaf_hash`), 32 bytes each. A proof that has not the one length it must have
for its place is a ValueError; whoever asked gives it the name it has there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(value: bytes) -> bytes:
    """Return the hash of one leaf's bytes."""
    return hashlib.sha256(b"\x00" + value).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the root over these leaf hashes; that of the empty tree is the hash of nothing."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        paired = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) & ~1 :]  # an odd last one rises as it is: the same tree as by splitting
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the siblings of leaf `index`, from the leaf upwards (section 2.1.3.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"leaf {index} of {len(leaves)}")
    path: list[bytes] = []
    begin, end = 0, len(leaves)
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(root_hash(leaves[middle:end]))
            end = middle
        else:
            path.append(root_hash(leaves[begin:middle]))
            begin = middle
    return tuple(reversed(path))


def inclusion_paths(leaves: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Return the path of every leaf, in order; hashes each node once."""
    _, paths = _tree_with_paths(leaves)
    return tuple(tuple(path) for path in paths)


def root_from_path(leaf: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that this leaf hash at this place and its path lead to (section 2.1.3.2).

    Raises:
        ValueError: no such place, or the path has another length than a leaf there has.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of {size}: want 0 <= index < size")
    position, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError(f"audit path of {len(path)} hashes is too long for {size} leaves")
        if position & 1 or position == last:
            node = _node(sibling, node)
            while position & 1 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            node = _node(node, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ValueError(f"audit path of {len(path)} hashes is too short for {size} leaves")
    return node


def consistency_path(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """Return the proof that the tree of the first `old_size` leaves is the beginning of this one (section 2.1.4.1).

    It is empty when both are of one size.
    """
    if not 0 < old_size <= len(leaves):
        raise ValueError(f"no proof from size {old_size} to {len(leaves)}: want 0 < old <= new")
    path: list[bytes] = []
    begin, end, whole = 0, len(leaves), True
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(root_hash(leaves[middle:end]))
            end = middle
        else:
            path.append(root_hash(leaves[begin:middle]))
            begin, whole = middle, False
    if not whole:
        path.append(root_hash(leaves[begin:end]))
    return tuple(reversed(path))


def roots_from_consistency(
    *, old_size: int, new_size: int, old_root: bytes, path: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Return the old and the new root that a consistency proof leads to (section 2.1.4.2).

    The proof holds when both equal the roots that were signed. `old_root` is needed where the old tree is a whole
    subtree of the new one: there the proof leaves it out.

    Raises:
        ValueError: sizes that have no proof, or a proof of another length.
    """
    if not 0 < old_size <= new_size:
        raise ValueError(f"no proof from size {old_size} to {new_size}: want 0 < old <= new")
    if old_size == new_size:
        if path:
            raise ValueError("a proof between trees of one size is empty")
        return old_root, old_root
    hashes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not hashes or not path:
        raise ValueError(f"consistency proof from {old_size} to {new_size} is too short")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ValueError(f"consistency proof from {old_size} to {new_size} is too long")
        if position & 1 or position == last:
            old, new = _node(sibling, old), _node(sibling, new)
            while position & 1 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            new = _node(new, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ValueError(f"consistency proof from {old_size} to {new_size} is too short")
    return old, new


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _tree_with_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    if len(leaves) == 1:
        return leaves[0], [[]]
    middle = _split(len(leaves))
    left, left_paths = _tree_with_paths(leaves[:middle])
    right, right_paths = _tree_with_paths(leaves[middle:])
    for path in left_paths:
        path.append(right)
    for path in right_paths:
        path.append(left)
    return _node(left, right), left_paths + right_paths


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
