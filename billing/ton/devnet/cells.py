"""Cells, built and hashed with as little work as the devnet's hot paths allow.

A cell keeps its data in the padded form that bags of cells and hashes use, so neither direction converts bits. Hashes
are computed when asked for: most cells that pass through (messages, states of accounts nobody reads) never are.
Source of the layouts: TON whitepaper "Telegram Open Network Virtual Machine", 3.1.4 to 3.1.7.
"""

from __future__ import annotations

from hashlib import sha256

from billing.ton.devnet.errors import MalformedCellError

BITS_MAX = 1023
REFS_MAX = 4
PRUNED, LIBRARY, MERKLE_PROOF, MERKLE_UPDATE = 1, 2, 3, 4


class Cell:
    """An immutable cell: padded data, its length in bits, up to four references, ordinary or exotic."""

    __slots__ = ("_depths", "_hashes", "bit_length", "data", "exotic", "mask", "refs")

    def __init__(self, data: bytes, bit_length: int, refs: tuple[Cell, ...] = (), *, exotic: bool = False) -> None:
        self.data = data
        self.bit_length = bit_length
        self.refs = refs
        self.exotic = exotic
        self.mask = self._level_mask() if exotic else _union(refs)
        self._hashes: list[bytes] = []
        self._depths: list[int] = []

    @property
    def kind(self) -> int:
        """0 for an ordinary cell, else the exotic type."""
        return self.data[0] if self.exotic else 0

    def hash(self, level: int = 0) -> bytes:
        """Hash of this cell as seen at a level; level 0 sees through pruned branches."""
        if not self._hashes:
            _compute(self)
        index = (self.mask & ((1 << level) - 1)).bit_count()
        if self.exotic and self.data[0] == PRUNED:
            if index < self.mask.bit_count():
                return self.data[2 + 32 * index : 34 + 32 * index]
            index = 0
        return self._hashes[index]

    def depth(self, level: int = 0) -> int:
        """Depth of the tree below, as seen at a level."""
        if not self._hashes:
            _compute(self)
        index = (self.mask & ((1 << level) - 1)).bit_count()
        if self.exotic and self.data[0] == PRUNED:
            hidden = self.mask.bit_count()
            if index < hidden:
                start = 2 + 32 * hidden + 2 * index
                return int.from_bytes(self.data[start : start + 2], "big")
            index = 0
        return self._depths[index]

    def head(self, mask: int) -> bytes:
        """The two descriptor bytes for a level mask."""
        whole, rest = divmod(self.bit_length, 8)
        return bytes((len(self.refs) + (8 if self.exotic else 0) + 32 * mask, 2 * whole + (1 if rest else 0)))

    def _level_mask(self) -> int:
        kind = self.data[0] if self.data else 0
        if kind == PRUNED:
            mask = self.data[1] if len(self.data) > 1 else 0
            if not 1 <= mask <= 7 or self.refs or len(self.data) != 2 + 34 * mask.bit_count():
                raise MalformedCellError("a pruned branch has level mask, hashes and depths, and no reference")
            return mask
        if kind == LIBRARY:
            return 0
        if len(self.refs) == {MERKLE_PROOF: 1, MERKLE_UPDATE: 2}.get(kind):
            return _union(self.refs) >> 1
        raise MalformedCellError(f"exotic cell of kind {kind} with {len(self.refs)} references")


def _union(refs: tuple[Cell, ...]) -> int:
    mask = 0
    for ref in refs:
        mask |= ref.mask
    return mask


def _compute(root: Cell) -> None:
    """Fill in the hashes of every cell below that lacks them, without recursion (chains may be deep)."""
    stack = [root]
    while stack:
        cell = stack[-1]
        missing = [ref for ref in cell.refs if not ref._hashes]
        if missing:
            stack += missing
        else:
            if not cell._hashes:
                _hash_one(cell)
            stack.pop()


def _hash_one(cell: Cell) -> None:
    kind = cell.data[0] if cell.exotic else 0
    if not cell.mask and kind not in (MERKLE_PROOF, MERKLE_UPDATE):  # the common case: nothing pruned below
        refs = cell.refs
        depths = [ref._depths[0] for ref in refs]
        parts = [cell.head(0), cell.data]
        parts += [depth.to_bytes(2, "big") for depth in depths]
        parts += [ref._hashes[0] for ref in refs]
        cell._hashes = [sha256(b"".join(parts)).digest()]
        cell._depths = [max(depths) + 1 if depths else 0]
        return
    if kind == PRUNED:
        cell._hashes, cell._depths = [sha256(cell.head(cell.mask) + cell.data).digest()], [0]
        return
    shift = 1 if kind in (MERKLE_PROOF, MERKLE_UPDATE) else 0
    hashes: list[bytes] = []
    depths_below: list[int] = []
    for level in (0, *(bit + 1 for bit in range(3) if cell.mask >> bit & 1)):
        body = cell.data if not hashes else hashes[-1]
        below = [ref.depth(level + shift) for ref in cell.refs]
        digest = sha256(cell.head(cell.mask & ((1 << level) - 1)) + body)
        digest.update(b"".join(depth.to_bytes(2, "big") for depth in below))
        digest.update(b"".join(ref.hash(level + shift) for ref in cell.refs))
        hashes.append(digest.digest())
        depths_below.append(max(below) + 1 if below else 0)
    cell._hashes, cell._depths = hashes, depths_below


class Builder:
    """Collects bits and references, most significant bit first."""

    __slots__ = ("_length", "_refs", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._length = 0
        self._refs: list[Cell] = []

    def uint(self, value: int, bits: int) -> Builder:
        """Append an unsigned integer of so many bits."""
        if value < 0 or value >> bits:
            raise ValueError(f"{value} does not fit {bits} bits")
        self._value = self._value << bits | value
        self._length += bits
        return self

    def sint(self, value: int, bits: int) -> Builder:
        """Append a signed integer of so many bits."""
        return self.uint(value & ((1 << bits) - 1), bits)

    def octets(self, value: bytes) -> Builder:
        """Append whole bytes."""
        self._value = self._value << 8 * len(value) | int.from_bytes(value, "big")
        self._length += 8 * len(value)
        return self

    def coins(self, value: int) -> Builder:
        """Append an amount (VarUInteger 16)."""
        size = (value.bit_length() + 7) // 8
        return self.uint(size, 4).uint(value, 8 * size)

    def currency(self, value: int) -> Builder:
        """Append a CurrencyCollection without extra currencies."""
        return self.coins(value).uint(0, 1)

    def ref(self, cell: Cell) -> Builder:
        """Append a reference."""
        self._refs.append(cell)
        return self

    def content(self, cell: Cell) -> Builder:
        """Append the bits and references of a cell."""
        self._value = self._value << cell.bit_length | _value(cell)
        self._length += cell.bit_length
        self._refs += cell.refs
        return self

    def cell(self, *, exotic: bool = False) -> Cell:
        """Finish."""
        if self._length > BITS_MAX or len(self._refs) > REFS_MAX:
            raise ValueError(f"{self._length} bits and {len(self._refs)} references do not fit one cell")
        padding = -self._length % 8
        value = self._value << padding | (1 << (padding - 1) if padding else 0)
        data = value.to_bytes((self._length + padding) // 8, "big")
        return Cell(data, self._length, tuple(self._refs), exotic=exotic)


def _value(cell: Cell) -> int:
    return int.from_bytes(cell.data, "big") >> (-cell.bit_length % 8)


class Reader:
    """Reads a cell front to back; running out of bits or references is a `MalformedCellError`."""

    __slots__ = ("_left", "_refs", "_value", "bits_total")

    def __init__(self, cell: Cell) -> None:
        self._value = _value(cell)
        self._left = self.bits_total = cell.bit_length
        self._refs = list(reversed(cell.refs))

    def uint(self, bits: int) -> int:
        """Take an unsigned integer."""
        self._left -= bits
        if self._left < 0:
            raise MalformedCellError(f"a cell of {self.bits_total} bits ended early")
        return (self._value >> self._left) & ((1 << bits) - 1)

    def sint(self, bits: int) -> int:
        """Take a signed integer."""
        value = self.uint(bits)
        return value - (1 << bits) if value >> (bits - 1) else value

    def octets(self, size: int) -> bytes:
        """Take whole bytes."""
        return self.uint(8 * size).to_bytes(size, "big")

    def coins(self) -> int:
        """Take an amount (VarUInteger 16)."""
        return self.uint(8 * self.uint(4))

    def ref(self) -> Cell:
        """Take the next reference."""
        if not self._refs:
            raise MalformedCellError("a reference is missing")
        return self._refs.pop()

    @property
    def bits_left(self) -> int:
        """Bits not yet taken."""
        return self._left

    def rest(self) -> Cell:
        """What was not yet taken, as a cell of its own."""
        builder = Builder().uint(self._value & ((1 << self._left) - 1), self._left)
        for ref in reversed(self._refs):
            builder.ref(ref)
        return builder.cell()


EMPTY = Builder().cell()


def pruned(cell: Cell) -> Cell:
    """Stand in for a cell by its hash and depth (level 1)."""
    if cell.exotic and cell.data[0] == PRUNED:
        return cell
    return Cell(bytes((PRUNED, 1)) + cell.hash() + cell.depth().to_bytes(2, "big"), 288, exotic=True)


def merkle_proof(body: Cell) -> Cell:
    """Wrap a partly pruned tree into a Merkle proof of its original root."""
    data = bytes((MERKLE_PROOF,)) + body.hash() + body.depth().to_bytes(2, "big")
    return Cell(data, 280, (body,), exotic=True)


def merkle_update(old: Cell, new: Cell) -> Cell:
    """State an update from one root to another, both pruned."""
    data = bytes((MERKLE_UPDATE,)) + old.hash() + new.hash()
    data += old.depth().to_bytes(2, "big") + new.depth().to_bytes(2, "big")
    return Cell(data, 552, (pruned(old), pruned(new)), exotic=True)
