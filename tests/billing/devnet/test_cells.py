from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytoniq.contract.wallets.highload_v3 import HIGHLOAD_V3_WALLET_CODE
from pytoniq_core import Cell as ReferenceCell

from billing.ton.config import slim_config
from billing.ton.devnet.boc import encode_boc, parse_boc, parse_one
from billing.ton.devnet.cells import EMPTY, Builder, Cell, Reader, merkle_proof, merkle_update, pruned
from billing.ton.devnet.errors import DevnetError, MalformedCellError


def _cell(bits: str, refs: list[Cell]) -> Cell:
    builder = Builder().uint(int(bits or "0", 2), len(bits))
    for ref in refs:
        builder.ref(ref)
    return builder.cell()


BITS = st.text("01", max_size=40)
TREES = st.recursive(
    BITS.map(lambda bits: _cell(bits, [])),
    lambda below: st.builds(_cell, BITS, st.lists(below, max_size=4)),
    max_leaves=12,
)


@given(TREES)
def test_hashes_and_bags_agree_with_the_reference_library(tree: Cell) -> None:
    reference = ReferenceCell.one_from_boc(encode_boc(tree))
    assert (reference.hash, reference.get_depth(0)) == (tree.hash(), tree.depth())
    again = parse_one(bytes(reference.to_boc(has_idx=True, hash_crc32=True)))
    assert again.hash() == tree.hash()


@given(TREES, TREES)
def test_a_bag_keeps_several_roots_in_order(first: Cell, second: Cell) -> None:
    assert [root.hash() for root in parse_boc(encode_boc(first, second))] == [first.hash(), second.hash()]


def _prune(cell: Cell, depth: int) -> Cell:
    if depth == 0:
        return pruned(cell)
    return Cell(cell.data, cell.bit_length, tuple(_prune(ref, depth - 1) for ref in cell.refs))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("boc", [slim_config(), bytes(HIGHLOAD_V3_WALLET_CODE.to_boc())], ids=["config", "wallet"])
def test_a_pruned_tree_proves_the_original_to_the_reference_library(boc: bytes, depth: int) -> None:
    original = parse_one(boc)
    proof, update = merkle_proof(_prune(original, depth)), merkle_update(original, EMPTY)
    seen_proof, seen_update = ReferenceCell.from_boc(encode_boc(proof, update))
    assert seen_proof[0].get_hash(0) == original.hash()
    assert (seen_proof.hash, seen_update.hash) == (proof.hash(), update.hash())


@given(st.binary(max_size=200))
def test_random_bytes_are_never_more_than_a_refusal(data: bytes) -> None:
    with pytest.raises(DevnetError):
        parse_boc(data)
    with pytest.raises(DevnetError):
        parse_boc(b"\xb5\xee\x9c\x72" + data[:1] + b"\x01\x00" * 40)


@given(st.data())
def test_a_damaged_bag_parses_or_is_refused_by_name(data: st.DataObject) -> None:
    good = bytearray(HIGHLOAD_V3_WALLET_CODE.to_boc())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for bag in (bytes(good), bytes(good[:cut])):
        with suppress(MalformedCellError):
            parse_one(bag).hash()


def test_a_bag_whose_cells_form_a_circle_is_refused() -> None:
    circle = bytes.fromhex("b5ee9c7201010201000600010001010000")
    with pytest.raises(MalformedCellError, match="refers to itself, to an earlier cell"):
        parse_boc(circle)


def test_a_long_chain_of_cells_needs_no_recursion() -> None:
    cell = EMPTY
    for _ in range(5_000):
        cell = Builder().ref(cell).cell()
    assert parse_one(encode_boc(cell)).hash() == cell.hash()


def test_reading_past_the_end_is_refused() -> None:
    reader = Reader(Builder().uint(5, 3).cell())
    assert reader.uint(3) == 5
    with pytest.raises(MalformedCellError, match="3 bits ended early"):
        reader.uint(1)
    with pytest.raises(MalformedCellError, match="reference is missing"):
        reader.ref()


@pytest.mark.parametrize("amount", [0, 1, 255, 256, 10**18])
def test_amounts_read_back(amount: int) -> None:
    assert Reader(Builder().coins(amount).cell()).coins() == amount


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 3 bits"):
        Builder().uint(8, 3)
    with pytest.raises(ValueError, match="1024 bits"):
        Builder().uint(0, 1024).cell()
