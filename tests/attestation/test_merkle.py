"""Nonce batching: every member proves itself, nobody else does, and a path has one reading."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import FreshnessError
from attestation.merkle import InclusionProof, inclusion_proof, inclusion_proofs, nonce_root, root_of

NONCE = st.binary(min_size=32, max_size=32)


def _nonces(count: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in range(count)]


@given(st.lists(NONCE, min_size=1, max_size=40, unique=True), st.data())
def test_every_nonce_of_a_batch_leads_to_its_root(nonces: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(nonces) - 1))
    proof = inclusion_proofs(nonces)[index]
    assert proof == inclusion_proof(nonces, index)
    assert root_of(nonces[index], proof) == nonce_root(nonces)


@given(st.lists(NONCE, min_size=1, max_size=20, unique=True), NONCE, st.data())
def test_a_nonce_outside_the_batch_leads_elsewhere(nonces: list[bytes], other: bytes, data: st.DataObject) -> None:
    proof = inclusion_proof(nonces, data.draw(st.integers(0, len(nonces) - 1)))
    if other != nonces[proof.index]:
        assert root_of(other, proof) != nonce_root(nonces)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_a_path_fits_no_other_place_and_no_other_size(count: int) -> None:
    nonces = _nonces(count)
    for index in range(count):
        proof = inclusion_proof(nonces, index)
        for size in range(1, 20):
            for place in range(size):
                if (place, size) != (index, count):
                    assert not _leads(nonces[index], InclusionProof(index=place, size=size, path=proof.path), nonces)


def _leads(nonce: bytes, proof: InclusionProof, nonces: list[bytes]) -> bool:
    try:
        return root_of(nonce, proof) == nonce_root(nonces)
    except FreshnessError:
        return False


def test_the_tree_is_that_of_rfc_9162() -> None:
    leaf = [hashlib.sha256(b"\0" + nonce).digest() for nonce in _nonces(3)]
    left = hashlib.sha256(b"\1" + leaf[0] + leaf[1]).digest()
    tree = hashlib.sha256(b"\1" + left + leaf[2]).digest()
    assert nonce_root(_nonces(3)) == hashlib.sha256(b"\2\0\0\0\3" + tree).digest()
    assert inclusion_proof(_nonces(3), 2).path == (left,)


def test_an_inner_node_passed_off_as_a_nonce_leads_elsewhere() -> None:
    nonces = _nonces(4)
    left = hashlib.sha256(b"".join(hashlib.sha256(b"\0" + nonce).digest() for nonce in nonces[:2])).digest()
    proof = InclusionProof(index=0, size=2, path=inclusion_proof(nonces, 0).path[1:])
    assert root_of(left, proof) != nonce_root(nonces)


@pytest.mark.parametrize("path", [(), (bytes(32),) * 3])
def test_a_path_of_the_wrong_length_is_refused(path: tuple[bytes, ...]) -> None:
    with pytest.raises(FreshnessError):
        root_of(bytes(32), InclusionProof(index=1, size=4, path=path))


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (1, 1), (0, 0), (0, (1 << 16) + 1)])
def test_a_place_outside_the_tree_cannot_be_named(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="index"):
        InclusionProof(index=index, size=size, path=())


@pytest.mark.parametrize("nonces", [[], [b"short"], [bytes(32), bytes(31)]])
def test_a_batch_needs_whole_nonces(nonces: list[bytes]) -> None:
    with pytest.raises(ValueError, match="nonces"):
        nonce_root(nonces)
