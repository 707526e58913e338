"""The cache of chains that held: bounded, and never one kind for another."""

import pytest

from attestation.chain_cache import ChainCache


def test_it_forgets_the_one_unused_longest() -> None:
    cache = ChainCache(capacity=2)
    for name in ("a", "b"):
        cache.put(name.encode(), name)
    assert cache.get(b"a", str) == "a"
    cache.put(b"c", "c")
    assert [cache.get(name, str) for name in (b"a", b"b", b"c")] == ["a", None, "c"]


def test_it_keeps_the_one_remembered_again() -> None:
    cache = ChainCache(capacity=2)
    for name in (b"a", b"b", b"a", b"c"):
        cache.put(name, name)
    assert [cache.get(name, bytes) for name in (b"a", b"b", b"c")] == [b"a", None, b"c"]


def test_an_entry_of_another_kind_is_none() -> None:
    cache = ChainCache()
    cache.put(b"a", "text")
    assert cache.get(b"a", bytes) is None
    assert cache.get(b"a", str) == "text"


def test_a_cache_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        ChainCache(capacity=0)
