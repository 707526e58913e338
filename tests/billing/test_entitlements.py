from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.entitlements import Entitlements, climb
from billing.errors import MalformedRecordError
from billing.tree import root_of, tree_path, tree_root, tree_sides


def payee(number: int) -> bytes:
    return b"\0" + sha256(b"%d" % number).digest()


def entitled(count: int) -> Entitlements:
    return Entitlements(amounts={payee(i): i + 1 for i in range(count)})


@given(st.integers(1, 70))
def test_every_payees_path_leads_to_the_root_and_no_other_does(count: int) -> None:
    entitlements = entitled(count)
    for i in range(0, count, 7):
        path = entitlements.path(payee(i))
        index = entitlements.index(payee(i))
        assert climb(payee(i), index, i + 1, path) == entitlements.root
        assert climb(payee(i), index, i + 2, path) != entitlements.root
        assert climb(payee(i), index + 1, i + 1, path) != entitlements.root
        assert climb(payee(i + 1), index, i + 1, path) != entitlements.root
        for step in range(len(path)):
            turned = (*path[:step], (not path[step][0], path[step][1]), *path[step + 1 :])
            assert climb(payee(i), index, i + 1, turned) != entitlements.root


@given(st.integers(1, 200), st.data())
def test_sides_and_siblings_are_those_of_rfc_9162(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = [sha256(b"%d" % i).digest() for i in range(size)]
    path = tree_path(hashes, index)
    value = hashes[index]
    for left, sibling in zip(tree_sides(index, size), path, strict=True):
        value = sha256(b"\1" + (sibling + value if left else value + sibling)).digest()
    assert value == tree_root(hashes) == root_of(hashes[index], index=index, size=size, path=path)


def test_nobody_has_a_path_when_nobody_is_entitled() -> None:
    assert Entitlements(amounts={}).root == sha256(b"").digest()
    with pytest.raises(KeyError):
        entitled(3).path(payee(3))


@pytest.mark.parametrize(
    "amounts", [{payee(1): 0}, {payee(1): -1}, {payee(1): 1 << 63}, {payee(1)[1:]: 1}, {b"": 1}], ids=str
)
def test_an_entitlement_that_cannot_be_is_refused(amounts: dict[bytes, int]) -> None:
    with pytest.raises((ValueError, MalformedRecordError)):
        Entitlements(amounts=amounts)


@given(st.integers(0, 40))
def test_entitlements_survive_their_encoding(count: int) -> None:
    assert Entitlements.parse(entitled(count).encode()) == entitled(count)


@given(st.binary(max_size=200))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        Entitlements.parse(noise)


@pytest.mark.parametrize("damage", ["cut", "longer", "count", "magic", "order", "twice", "zero"])
def test_altered_entitlements_are_refused(damage: str) -> None:
    data = entitled(3).encode()
    head, leaves = data[:12], [data[12 + 41 * i : 53 + 41 * i] for i in range(3)]
    altered = {
        "cut": data[:-1],
        "longer": data + b"\0",
        "count": data[:8] + b"\xff" * 4 + data[12:],
        "magic": b"x" + data[1:],
        "order": head + leaves[1] + leaves[0] + leaves[2],
        "twice": head + leaves[0] + leaves[0] + leaves[2],
        "zero": head + leaves[0][:33] + bytes(8) + leaves[1] + leaves[2],
    }
    with pytest.raises(MalformedRecordError):
        Entitlements.parse(altered[damage])
