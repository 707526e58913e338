"""Bags of cells: the serialized form of cell trees, with any number of roots.

Source: ton/crypto/tl/boc.tlb, `serialized_boc#b5ee9c72`.
"""

from __future__ import annotations

from typing import NamedTuple

from billing.ton.devnet.cells import REFS_MAX, Cell
from billing.ton.devnet.errors import MalformedCellError

_MAGIC = b"\xb5\xee\x9c\x72"


class _Header(NamedTuple):
    has_index: bool
    ref_size: int
    offset_size: int
    cells: int
    roots: tuple[int, ...]
    start: int  # of the first cell


def parse_boc(data: bytes) -> tuple[Cell, ...]:
    """Read the roots of a bag of cells.

    The checksum, where there is one, is left to the emulator, which reads every message again.

    Raises:
        MalformedCellError: the bytes are not a bag of cells.
    """
    try:
        header = _parse_header(data)
        return _parse_cells(data, header)
    except IndexError:
        raise MalformedCellError("a bag of cells ended early") from None


def parse_one(data: bytes) -> Cell:
    """Read a bag of cells with exactly one root."""
    roots = parse_boc(data)
    if len(roots) != 1:
        raise MalformedCellError(f"a bag of cells with {len(roots)} roots where one belongs")
    return roots[0]


def _parse_header(data: bytes) -> _Header:
    if data[:4] != _MAGIC:
        raise MalformedCellError("not a bag of cells: the first four bytes are not b5ee9c72")
    ref_size, offset_size = data[4] & 7, data[5]
    if not 1 <= ref_size <= 4 or not 1 <= offset_size <= 8:
        raise MalformedCellError("a bag of cells with impossible field sizes")
    position = 6

    def take(size: int) -> int:
        nonlocal position
        position += size
        if position > len(data):
            raise MalformedCellError("a bag of cells ended early")
        return int.from_bytes(data[position - size : position], "big")

    cells, roots, absent = take(ref_size), take(ref_size), take(ref_size)
    take(offset_size)  # total size, implied by the cells
    if not 1 <= roots <= cells <= len(data) // 2 or absent:
        raise MalformedCellError(f"a bag of {cells} cells with {roots} roots and {absent} absent cells")
    indices = tuple(take(ref_size) for _ in range(roots))
    has_index = bool(data[4] & 0x80)
    return _Header(
        has_index, ref_size, offset_size, cells, indices, position + (cells * offset_size if has_index else 0)
    )


def _parse_cells(data: bytes, header: _Header) -> tuple[Cell, ...]:
    raw: list[tuple[bytes, int, bool, list[int]]] = []
    position, size, count = header.start, header.ref_size, header.cells
    for index in range(count):
        first, second = data[position], data[position + 1]
        refs, length = first & 7, (second + 1) >> 1
        if refs > REFS_MAX or first & 16:
            raise MalformedCellError("a cell with too many references or with stored hashes")
        start = position + 2
        content = data[start : start + length]
        end = start + length
        position = end + refs * size
        if position > len(data):
            raise MalformedCellError("a bag of cells ended early")
        if size == 1:
            below = list(data[end:position])
        else:
            below = [int.from_bytes(data[at : at + size], "big") for at in range(end, position, size)]
        if below and (min(below) <= index or max(below) >= count):
            raise MalformedCellError("a cell refers to itself, to an earlier cell or to none")
        raw.append((content, _bit_length(content, second), bool(first & 8), below))
    built: list[Cell | None] = [None] * count
    for index in range(count - 1, -1, -1):
        content, bits, exotic, below = raw[index]
        built[index] = Cell(content, bits, tuple(built[ref] for ref in below), exotic=exotic)  # type: ignore[misc]  # refs come later in the bag, so they are built
    return tuple(_root(built, index) for index in header.roots)


def _bit_length(content: bytes, second: int) -> int:
    if not second & 1:
        return 8 * len(content)
    last = content[-1]
    if not last:
        raise MalformedCellError("a cell whose last byte lacks its end mark")
    return 8 * len(content) - (last & -last).bit_length()


def _root(built: list[Cell | None], index: int) -> Cell:
    root = built[index]
    if root is None:
        raise MalformedCellError("a root that is not in the bag")
    return root


def encode_boc(*roots: Cell) -> bytes:
    """Serialize cells; a cell object that occurs several times is stored once."""
    order: list[Cell] = []
    seen: set[int] = set()
    for root in roots:
        _visit(root, order, seen)
    order.reverse()
    places = {id(cell): place for place, cell in enumerate(order)}
    size = max(1, (len(order).bit_length() + 7) // 8)
    body = bytearray()
    for cell in order:
        body += cell.head(cell.mask)
        body += cell.data
        for ref in cell.refs:
            body += places[id(ref)].to_bytes(size, "big")
    offset = max(1, (len(body).bit_length() + 7) // 8)
    head = bytearray(_MAGIC)
    head += bytes((size, offset))
    head += len(order).to_bytes(size, "big") + len(roots).to_bytes(size, "big") + bytes(size)
    head += len(body).to_bytes(offset, "big")
    for root in roots:
        head += places[id(root)].to_bytes(size, "big")
    return bytes(head + body)


def _visit(root: Cell, order: list[Cell], seen: set[int]) -> None:
    """Append the cells below a root so that each comes after all it refers to."""
    if id(root) in seen:
        return
    seen.add(id(root))
    stack = [(root, 0)]
    while stack:
        cell, done = stack.pop()
        refs = cell.refs
        while done < len(refs) and id(refs[done]) in seen:
            done += 1
        if done < len(refs):
            stack.append((cell, done + 1))
            seen.add(id(refs[done]))
            stack.append((refs[done], 0))
        else:
            order.append(cell)
