from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Cell as ReferenceCell
from pytoniq_core.tlb.block import DepthBalanceInfo

from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import EMPTY, Builder, Cell, Reader, merkle_proof
from billing.ton.devnet.trie import AugmentedTrie, load_label, read_refs, store_label


@dataclass(frozen=True, slots=True)
class Amount:
    amount: int

    def content(self) -> Cell:
        return Builder().uint(self.amount, 64).ref(EMPTY).cell()


KEYS = st.one_of(
    st.integers(0, 2**256 - 1),
    st.integers(0, 255),  # long shared prefixes of zeros
    st.integers(2**256 - 64, 2**256 - 1),  # and of ones
)
MAPS = st.dictionaries(KEYS, st.integers(0, 10**18).map(Amount), max_size=25)


def build(leaves: dict[int, Amount]) -> AugmentedTrie:
    trie = AugmentedTrie(256, 5)
    for key, leaf in leaves.items():
        trie = trie.put(key, leaf)
    return trie


def read(cell: ReferenceCell) -> dict[int, int]:
    found, _ = cell.begin_parse().load_hashmap_aug_e(256, lambda s: s.load_uint(64), DepthBalanceInfo.deserialize)
    return dict(found)


@given(MAPS)
def test_the_dictionary_reads_back_in_the_reference_library(leaves: dict[int, Amount]) -> None:
    trie = build(leaves)
    assert trie.amount == sum(leaf.amount for leaf in leaves.values())
    assert all(trie.get(key) == leaf for key, leaf in leaves.items())
    assert read(ReferenceCell.one_from_boc(encode_boc(trie.cell()))) == {k: v.amount for k, v in leaves.items()}


@given(MAPS, st.lists(KEYS, max_size=5), st.data())
def test_removing_leaves_what_was_there_before(
    leaves: dict[int, Amount], absent: list[int], data: st.DataObject
) -> None:
    trie = build(leaves)
    gone = data.draw(st.lists(st.sampled_from(sorted(leaves)), unique=True)) if leaves else []
    for key in [*gone, *(key for key in absent if key not in leaves)]:
        trie = trie.remove(key)
    rest = {key: leaf for key, leaf in leaves.items() if key not in gone}
    assert trie.cell().hash() == build(dict(sorted(rest.items()))).cell().hash()


@given(MAPS, KEYS, st.integers(0, 10**18).map(Amount))
def test_old_versions_do_not_change(leaves: dict[int, Amount], key: int, leaf: Amount) -> None:
    old = build(leaves)
    before = old.cell().hash()
    assert old.put(key, leaf).get(key) == leaf
    old.remove(key)
    assert old.get(key) == leaves.get(key)
    assert build(leaves).cell().hash() == before


@settings(max_examples=50)
@given(MAPS, st.lists(KEYS, min_size=1, max_size=3))
def test_a_proof_shows_the_keys_asked_for_under_the_same_hash(leaves: dict[int, Amount], extra: list[int]) -> None:
    trie = build(leaves)
    asked = {*extra, *sorted(leaves)[:2]}
    proof = merkle_proof(trie.proof(frozenset(asked)))
    assert proof.refs[0].hash() == trie.cell().hash()
    shown = read(ReferenceCell.one_from_boc(encode_boc(proof))[0])
    assert {key: shown.get(key) for key in asked} == {
        key: leaves[key].amount if key in leaves else None for key in asked
    }


@given(st.integers(1, 256), st.data())
def test_labels_read_back(remaining: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, remaining))
    label = data.draw(st.one_of(st.just(0), st.just(2**length - 1), st.integers(0, 2**length - 1)))
    reader = Reader(store_label(Builder(), label, length, remaining).cell())
    assert load_label(reader, remaining) == (label, length)
    assert reader.bits_left == 0


def test_references_come_in_key_order() -> None:
    leaves = [Builder().uint(number, 8).cell() for number in range(3)]
    right = store_label(Builder(), 0, 14, 14).ref(leaves[2]).cell()
    left = store_label(Builder(), 0, 13, 14)
    left.ref(store_label(Builder(), 0, 0, 0).ref(leaves[0]).cell()).ref(
        store_label(Builder(), 0, 0, 0).ref(leaves[1]).cell()
    )
    root = store_label(Builder(), 0, 0, 15).ref(left.cell()).ref(right).cell()
    assert read_refs(root, 15) == leaves


def test_putting_one_key_copies_only_the_path_to_it() -> None:
    def nodes(trie: AugmentedTrie) -> set[int]:
        found, stack = set(), [trie.root]
        while stack:
            node = stack.pop()
            if node is not None:
                found.add(id(node))
                stack += [node.left, node.right]
        return found

    dice = random.Random(3)
    old = build({dice.getrandbits(256): Amount(1) for _ in range(5_000)})
    new = old.put(dice.getrandbits(256), Amount(1))
    assert len(nodes(old)) == 9_999
    assert len(nodes(new) - nodes(old)) < 30
