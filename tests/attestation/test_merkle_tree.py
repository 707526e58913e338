"""The tree of RFC 9162: against its definition, and against proofs that lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.merkle_tree import (
    consistency_path,
    inclusion_path,
    inclusion_paths,
    leaf_hash,
    root_from_path,
    root_hash,
    roots_from_consistency,
)

SIZES = st.integers(1, 70)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(bytes([number])) for number in range(count)]


def defined_root(entries: Sequence[bytes]) -> bytes:
    """Section 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    split = max(1 << bit for bit in range(10) if 1 << bit < len(entries))
    return hashlib.sha256(b"\1" + defined_root(entries[:split]) + defined_root(entries[split:])).digest()


@pytest.mark.parametrize("count", range(40))
def test_the_root_is_the_one_the_rfc_defines(count: int) -> None:
    assert root_hash(leaves(count)) == defined_root([bytes([number]) for number in range(count)])


@given(SIZES, st.data())
def test_every_leaf_leads_to_the_root_and_nowhere_else(size: int, data: st.DataObject) -> None:
    tree, index = leaves(size), data.draw(st.integers(0, size - 1))
    path = inclusion_path(tree, index)
    assert path == inclusion_paths(tree)[index]
    assert root_from_path(tree[index], index=index, size=size, path=path) == root_hash(tree)
    assert root_from_path(leaf_hash(b"another"), index=index, size=size, path=path) != root_hash(tree)


@given(SIZES, st.data())
def test_every_beginning_is_proved(size: int, data: st.DataObject) -> None:
    tree, old = leaves(size), data.draw(st.integers(1, size))
    path = consistency_path(tree, old)
    roots = roots_from_consistency(old_size=old, new_size=size, old_root=root_hash(tree[:old]), path=path)
    assert roots == (root_hash(tree[:old]), root_hash(tree))


@given(st.integers(2, 40), st.data())
@settings(max_examples=200)
def test_no_proof_leads_from_a_rewritten_past(size: int, data: st.DataObject) -> None:
    tree, old = leaves(size), data.draw(st.integers(1, size - 1))
    rewritten = list(tree)
    rewritten[data.draw(st.integers(0, old - 1))] = leaf_hash(b"rewritten")
    signed = root_hash(tree[:old]), root_hash(rewritten)
    for new in (tree, rewritten):
        path = consistency_path(new, old)
        assert roots_from_consistency(old_size=old, new_size=size, old_root=signed[0], path=path) != signed


@given(st.integers(2, 40), st.data())
@settings(max_examples=200)
def test_a_consistency_proof_with_one_hash_changed_missing_or_more_does_not_hold(
    size: int, data: st.DataObject
) -> None:
    tree, old = leaves(size), data.draw(st.integers(1, size - 1))
    path = list(consistency_path(tree, old))
    at = data.draw(st.integers(0, len(path) - 1))
    changed = [*path[:at], leaf_hash(path[at]), *path[at + 1 :]]
    signed = root_hash(tree[:old]), root_hash(tree)
    for wrong in (changed, path[:at] + path[at + 1 :], [*path, path[at]]):
        try:
            roots = roots_from_consistency(old_size=old, new_size=size, old_root=signed[0], path=wrong)
        except ValueError:
            continue
        assert roots != signed


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4), (-1, 2)])
def test_sizes_that_have_no_proof_are_refused(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no proof"):
        roots_from_consistency(old_size=old, new_size=new, old_root=bytes(32), path=())
    with pytest.raises(ValueError, match="no proof"):
        consistency_path(leaves(4), old)


def test_between_trees_of_one_size_only_the_empty_proof_holds() -> None:
    assert consistency_path(leaves(5), 5) == ()
    with pytest.raises(ValueError, match="empty"):
        roots_from_consistency(old_size=5, new_size=5, old_root=bytes(32), path=(bytes(32),))


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_leaf_outside_the_tree_has_no_path(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="leaf"):
        root_from_path(bytes(32), index=index, size=size, path=())
    with pytest.raises(ValueError, match="leaf"):
        inclusion_path(leaves(size), index)
