"""Reading cells an untrusted server sent: bags of cells, Merkle proofs and dictionaries.

Everything here raises `ProofRejectedError` and nothing else when the bytes do not say what they must. pytoniq-core
parses the cells and computes their hashes; which cells may stand where is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hmac import compare_digest
from typing import Any

from pytoniq_core import Address, Cell, Slice

from billing.errors import ProofRejectedError

__all__ = [
    "MESSAGE_BYTES_MAX",
    "address_of",
    "check_whole",
    "leaves",
    "load_label",
    "lookup",
    "open_proof",
    "ordinary",
    "parse_cells",
    "payee_of",
    "proof_step",
]

ORDINARY, MERKLE_PROOF, LIBRARY = -1, 3, 2  # cell types, TVM section 3.1.7
BOC_BYTES_MAX = 8 << 20  # four times the largest block; a larger answer is not worth parsing
CELLS_MAX = 65_536  # the network's own limit for one account
MESSAGE_BYTES_MAX = 65_535  # the network's limit for an external message


@contextmanager
def proof_step(step: str) -> Iterator[None]:
    """Turn whatever the cell library raises on bad bytes into `ProofRejectedError`, naming the step."""
    try:
        yield
    except ProofRejectedError:
        raise
    except Exception as error:  # pytoniq-core raises bare Exception on malformed cells
        raise ProofRejectedError(step, f"{type(error).__name__}: {error}") from error


def parse_cells(data: bytes, *, roots: int | None = None) -> list[Cell]:
    """The root cells of a bag of cells; checks how many there are when `roots` is given."""
    if len(data) > BOC_BYTES_MAX:
        raise ProofRejectedError("the answer", f"{len(data)} bytes, at most {BOC_BYTES_MAX} are read")
    with proof_step("bag of cells"):
        cells: list[Cell] = Cell.from_boc(data)
    if roots is not None and len(cells) != roots:
        raise ProofRejectedError("the answer", f"{len(cells)} roots, expected {roots}")
    return cells


def open_proof(proof: Cell, expected: bytes, what: str) -> Cell:
    """The tree inside a Merkle proof whose root hash is `expected`, 32 bytes."""
    if proof.type_ != MERKLE_PROOF:
        raise ProofRejectedError(what, f"a cell of type {proof.type_} instead of a Merkle proof")
    tree: Cell = proof.refs[0]
    if not compare_digest(tree.get_hash(0), expected) or not compare_digest(proof.data[1:33], expected):
        raise ProofRejectedError(what, f"it is about {tree.get_hash(0).hex()}, expected {expected.hex()}")
    return tree


def ordinary(cell: Cell, what: str) -> Cell:
    """The same cell, when its content is really present (neither pruned nor otherwise special)."""
    if cell.type_ != ORDINARY:
        raise ProofRejectedError(what, f"not shown, a cell of type {cell.type_} stands in its place")
    return cell


def check_whole(root: Cell, what: str) -> Cell:
    """The same tree, when no part of it is pruned; references to libraries are allowed."""
    seen: set[bytes] = set()
    stack = [root]
    while stack:
        cell = stack.pop()
        if cell.type_ not in (ORDINARY, LIBRARY):
            raise ProofRejectedError(what, f"not whole, it contains a cell of type {cell.type_}")
        if cell.hash in seen:
            continue
        seen.add(cell.hash)
        if len(seen) > CELLS_MAX:
            raise ProofRejectedError(what, f"more than {CELLS_MAX} cells")
        stack.extend(cell.refs)
    return root


def load_label(node: Slice, remaining: int) -> str:
    """The label of a dictionary edge as a string of bits, at most `remaining` long. Source: TL-B HmLabel."""
    if not node.load_bit():  # hml_short: unary length, then the bits
        length = 0
        while node.load_bit():
            length += 1
        bits = node.load_bits(length).to01()
    elif not node.load_bit():  # hml_long
        length = node.load_uint(remaining.bit_length())
        bits = node.load_bits(length).to01()
    else:  # hml_same
        bit = str(int(node.load_bit()))
        length = node.load_uint(remaining.bit_length())
        bits = bit * length
    if length > remaining:
        raise ProofRejectedError("the dictionary", f"label of {length} bits where {remaining} remain")
    return str(bits)


def lookup(root: Cell, key: int, size: int) -> Slice | None:
    """The leaf of a dictionary under `key`, or None when the cells shown prove that there is none.

    Works for plain and augmented dictionaries: the leaf of an augmented one starts with its extra value.

    Args:
        root: the top edge, already bound to a trusted hash.
        size: length of the keys in bits.
    """
    path = format(key, f"0{size}b")
    position = 0
    cell = root
    while True:
        node = ordinary(cell, "the path in the dictionary").begin_parse()
        label = load_label(node, size - position)
        if path[position : position + len(label)] != label:
            return None
        position += len(label)
        if position == size:
            return node
        cell = cell.refs[int(path[position])]
        position += 1


def leaves(root: Cell, size: int) -> Iterator[tuple[int, Slice]]:
    """All entries of a plain dictionary in the order of their keys: key as a number, leaf."""
    stack = [(root, "")]
    while stack:
        cell, prefix = stack.pop()
        node = ordinary(cell, "the dictionary").begin_parse()
        prefix += load_label(node, size - len(prefix))
        if len(prefix) == size:
            yield int(prefix, 2), node
        else:
            stack.extend(((cell.refs[1], prefix + "1"), (cell.refs[0], prefix + "0")))


def address_of(payee: bytes) -> Address:
    """The address a payee's 33 bytes name: workchain as a signed byte, then the account id."""
    if len(payee) != 33:
        raise ValueError(f"a payee has 33 bytes, got {len(payee)}")
    return Address((int.from_bytes(payee[:1], "big", signed=True), payee[1:]))


def payee_of(address: Any) -> bytes:  # noqa: ANN401 - pytoniq-core is untyped
    """The 33 bytes of an address: workchain as a signed byte, then the account id."""
    return int(address.wc).to_bytes(1, "big", signed=True) + bytes(address.hash_part)
