"""A persistent augmented dictionary: HashmapAug with a sum of nanotons in every fork.

Putting a key copies the path to it and shares the rest, so old versions stay readable and a block costs as much as the
accounts it touches. Cells are made when asked for, once per node.
Source: block.tlb, `HashmapAug`, `HashmapAugE`; labels as in `Hashmap` (hml_short, hml_long, hml_same).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from billing.ton.devnet.cells import Builder, Cell, Reader, pruned


class Leaf(Protocol):
    """A value the dictionary can hold."""

    @property
    def amount(self) -> int:
        """What the leaf adds to the sums above it, in nanotons."""

    def content(self) -> Cell:
        """The value's bits and references."""


class _Node:
    """An edge and what it ends in: a leaf, or a fork of two edges."""

    __slots__ = ("amount", "cell", "count", "label", "leaf", "left", "length", "remaining", "right")

    def __init__(
        self,
        label: int,
        length: int,
        remaining: int,
        *,
        leaf: Leaf | None = None,
        left: _Node | None = None,
        right: _Node | None = None,
    ) -> None:
        self.label = label
        self.length = length
        self.remaining = remaining
        self.leaf = leaf
        self.left = left
        self.right = right
        self.amount = leaf.amount if leaf else _amount(left) + _amount(right)
        self.count = 1 if leaf else _count(left) + _count(right)
        self.cell: Cell | None = None

    def relabelled(self, label: int, length: int, remaining: int) -> _Node:
        return _Node(label, length, remaining, leaf=self.leaf, left=self.left, right=self.right)


def _amount(node: _Node | None) -> int:
    return node.amount if node else 0


def _count(node: _Node | None) -> int:
    return node.count if node else 0


@dataclass(frozen=True, slots=True)
class AugmentedTrie:
    """An immutable dictionary from keys of `bits` bits to leaves; `extra_zeros` zero bits precede each sum."""

    bits: int
    extra_zeros: int = 0
    root: _Node | None = None

    @property
    def amount(self) -> int:
        """Sum over all leaves, in nanotons."""
        return _amount(self.root)

    @property
    def count(self) -> int:
        """How many keys there are."""
        return self.root.count if self.root else 0

    def __iter__(self) -> Iterator[int]:
        """Yield the keys in order."""
        stack = [(self.root, 0)] if self.root else []
        while stack:
            node, prefix = stack.pop()
            prefix = prefix << node.length | node.label
            if node.left is None or node.right is None:
                yield prefix
            else:
                stack += [(node.right, prefix << 1 | 1), (node.left, prefix << 1)]

    def put(self, key: int, leaf: Leaf) -> AugmentedTrie:
        """Return the dictionary with this key set."""
        return AugmentedTrie(self.bits, self.extra_zeros, _put(self.root, key, self.bits, leaf))

    def remove(self, key: int) -> AugmentedTrie:
        """Return the dictionary without this key, which may be absent."""
        return AugmentedTrie(self.bits, self.extra_zeros, _remove(self.root, key, self.bits))

    def get(self, key: int) -> Leaf | None:
        """Return the leaf at a key, or None."""
        node, left = self.root, self.bits
        while node is not None:
            if node.label != (key & _mask(left)) >> (left - node.length):
                return None
            left -= node.length
            if node.leaf is not None:
                return node.leaf
            left -= 1
            node = node.right if key >> left & 1 else node.left
        return None

    def cell(self) -> Cell:
        """Serialize as HashmapAugE."""
        return self._envelope(None if self.root is None else self._edge(self.root))

    def edge(self) -> Cell:
        """Serialize as HashmapAug, which must not be empty."""
        if self.root is None:
            raise ValueError("an empty dictionary has no edge")
        return self._edge(self.root)

    def proof(self, keys: frozenset[int]) -> Cell:
        """Serialize as HashmapAugE with everything pruned but the paths to these keys (present or absent).

        The references inside the leaves found are pruned as well.
        """
        if self.root is None:
            return self.cell()
        return self._envelope(self._pruned_edge(self.root, keys, self.bits))

    def _envelope(self, edge: Cell | None) -> Cell:
        builder = Builder().uint(0 if edge is None else 1, 1)
        if edge is not None:
            builder.ref(edge)
        return self._extra(builder, self.amount).cell()

    def _extra(self, builder: Builder, amount: int) -> Builder:
        return builder.uint(0, self.extra_zeros).currency(amount)

    def _edge(self, node: _Node) -> Cell:
        if node.cell is None:
            builder = store_label(Builder(), node.label, node.length, node.remaining)
            if node.leaf is not None:
                self._extra(builder, node.amount).content(node.leaf.content())
            elif node.left is not None and node.right is not None:
                self._extra(builder.ref(self._edge(node.left)).ref(self._edge(node.right)), node.amount)
            node.cell = builder.cell()
        return node.cell

    def _pruned_edge(self, node: _Node, keys: frozenset[int], left: int) -> Cell:
        cell = self._edge(node)
        left -= node.length
        wanted = frozenset(key for key in keys if (key >> left) & _mask(node.length) == node.label)
        if node.left is None or node.right is None:
            below = tuple(pruned(ref) for ref in cell.refs)
        else:
            split = {bit: frozenset(key for key in wanted if (key >> (left - 1)) & 1 == bit) for bit in (0, 1)}
            below = tuple(
                self._pruned_edge(child, split[bit], left - 1) if split[bit] else pruned(self._edge(child))
                for bit, child in enumerate((node.left, node.right))
            )
        return Cell(cell.data, cell.bit_length, below)


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _put(node: _Node | None, key: int, remaining: int, leaf: Leaf) -> _Node:
    if node is None:
        return _Node(key, remaining, remaining, leaf=leaf)
    shared = node.length - (node.label ^ (key >> (remaining - node.length))).bit_length()
    below = remaining - shared - 1  # bits left under a fork at the shared prefix
    if shared < node.length:
        rest = node.length - shared - 1
        old = node.relabelled(node.label & _mask(rest), rest, below)
        new = _Node(key & _mask(below), below, below, leaf=leaf)
        left, right = (old, new) if key >> below & 1 else (new, old)
        return _Node(node.label >> (rest + 1), shared, remaining, left=left, right=right)
    if node.leaf is not None:
        return _Node(node.label, node.length, remaining, leaf=leaf)
    first, second = node.left, node.right
    if key >> below & 1:
        second = _put(second, key & _mask(below), below, leaf)
    else:
        first = _put(first, key & _mask(below), below, leaf)
    return _Node(node.label, node.length, remaining, left=first, right=second)


def _remove(node: _Node | None, key: int, remaining: int) -> _Node | None:
    if node is None or node.label != key >> (remaining - node.length):
        return node
    if node.leaf is not None:
        return None
    below = remaining - node.length - 1
    left, right = node.left, node.right
    if key >> below & 1:
        right = _remove(right, key & _mask(below), below)
    else:
        left = _remove(left, key & _mask(below), below)
    survivor, bit = (left, 0) if right is None else (right, 1)
    if left is not None and right is not None:
        return _Node(node.label, node.length, remaining, left=left, right=right)
    if survivor is None:
        return None
    label = ((node.label << 1 | bit) << survivor.length) | survivor.label
    return survivor.relabelled(label, node.length + 1 + survivor.length, remaining)


def store_label(builder: Builder, label: int, length: int, remaining: int) -> Builder:
    """Append the shortest form of an edge label, as canonical dictionaries must."""
    width = remaining.bit_length()
    long, short = 2 + width + length, 2 * length + 2
    uniform = length > 0 and label in (0, _mask(length))
    if uniform and 3 + width < min(short, long):
        return builder.uint(3, 2).uint(label & 1, 1).uint(length, width)
    if short <= long:
        return builder.uint(_mask(length) << 1, length + 2).uint(label, length)
    return builder.uint(2, 2).uint(length, width).uint(label, length)


def load_label(reader: Reader, remaining: int) -> tuple[int, int]:
    """Read an edge label; returns its bits and their number."""
    width = remaining.bit_length()
    if not reader.uint(1):
        length = 0
        while reader.uint(1):
            length += 1
        return reader.uint(length), length
    if not reader.uint(1):
        length = reader.uint(width)
        return reader.uint(length), length
    bit, length = reader.uint(1), reader.uint(width)
    return (_mask(length) if bit else 0), length


def read_refs(root: Cell, bits: int) -> list[Cell]:
    """List the referenced values of a plain `Hashmap bits ^X`, in key order."""
    found: list[Cell] = []
    stack = [(root, bits)]
    while stack:
        cell, remaining = stack.pop()
        reader = Reader(cell)
        remaining -= load_label(reader, remaining)[1]
        if remaining <= 0:
            found.append(reader.ref())
        else:
            left, right = reader.ref(), reader.ref()
            stack += [(right, remaining - 1), (left, remaining - 1)]
    return found
