"""Dictionaries read from cells, against the library that writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Address, Builder, Cell, HashMap

from billing.errors import ProofRejectedError
from billing.ton.cells import address_of, check_whole, leaves, lookup, open_proof, ordinary, payee_of

KEYS = st.dictionaries(st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 32) - 1), min_size=1, max_size=40)


def dictionary(entries: dict[int, int]) -> Cell:
    return HashMap(16, map_=dict(entries), value_serializer=lambda value, to: to.store_uint(value, 32)).serialize()


@settings(max_examples=60, deadline=None)
@given(entries=KEYS, other=st.integers(0, (1 << 16) - 1))
def test_every_entry_is_found_and_nothing_else(entries: dict[int, int], other: int) -> None:
    root = dictionary(entries)
    for key, value in entries.items():
        leaf = lookup(root, key, 16)
        assert leaf is not None
        assert leaf.load_uint(32) == value
    if other not in entries:
        assert lookup(root, other, 16) is None
    assert [(key, leaf.load_uint(32)) for key, leaf in leaves(root, 16)] == sorted(entries.items())


def pruned(cell: Cell) -> Cell:
    builder = Builder().store_uint(1, 8).store_uint(1, 8).store_bytes(cell.hash).store_uint(0, 16)
    return Cell(builder.bits, [], 1)


def test_an_entry_hidden_behind_a_pruned_branch_is_neither_found_nor_denied() -> None:
    root = dictionary({0: 1, 0xFFFF: 2})
    half = Cell(root.bits, [root.refs[0], pruned(root.refs[1])])
    assert half.get_hash(0) == root.hash
    assert lookup(half, 0, 16) is not None
    with pytest.raises(ProofRejectedError, match="not shown"):
        lookup(half, 0xFFFF, 16)
    with pytest.raises(ProofRejectedError, match="not shown"):
        list(leaves(half, 16))


def test_a_tree_with_a_pruned_branch_is_not_whole() -> None:
    root = dictionary({0: 1, 0xFFFF: 2})
    assert check_whole(root, "it") is root
    with pytest.raises(ProofRejectedError, match="not whole"):
        check_whole(Cell(root.bits, [root.refs[0], pruned(root.refs[1])]), "it")


def test_a_cell_that_is_no_proof_proves_nothing() -> None:
    root = dictionary({0: 1})
    with pytest.raises(ProofRejectedError, match="instead of a Merkle proof"):
        open_proof(root, root.hash, "it")
    with pytest.raises(ProofRejectedError, match="not shown"):
        ordinary(pruned(root), "it")


@pytest.mark.parametrize("workchain", [0, -1, 5])
def test_a_payee_is_an_address_and_back(workchain: int) -> None:
    address = Address((workchain, b"\x07" * 32))
    assert address_of(payee_of(address)) == address
    with pytest.raises(ValueError, match="33 bytes"):
        address_of(payee_of(address)[:-1])
