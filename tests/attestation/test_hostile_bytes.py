"""Parsers under bytes that want to break them: one kind of refusal, bounded memory, bounded work."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import MalformedEvidenceError
from attestation.evidence import parse_evidence
from tests.fuzz.targets import TARGETS, Target

MEMORY_MAX = 64 << 20  # bytes, the input not counted
CALLS_MAX = 1_500_000  # Python and C calls: about a second on a slow core
EACH = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def _fill(head: bytes, piece: bytes, size: int) -> bytes:
    """The head, then as many pieces as fit."""
    return head + piece * ((size - len(head)) // len(piece))


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x83]) + len(content).to_bytes(3, "big") + content


# The smallest firmware log there is, and an event without data: register 0, type 1, one SHA-384 digest.
CCEL_SPEC = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + b"\1\0\0\0\x0c\0\x30\0" + b"\0"
CCEL_HEAD = struct.pack("<II20sI", 0, 3, bytes(20), len(CCEL_SPEC)) + CCEL_SPEC
CCEL_EVENT = struct.pack("<IIIH48sI", 1, 1, 1, 0x0C, bytes(48), 0)

# Inputs that cost a naive parser most for their size; each is made as large as its target reads.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty": lambda size: b"",
    "zeros": bytes,
    "ones": lambda size: b"\xff" * size,
    "letters": lambda size: b"A" * size,
    "too-large": lambda size: bytes(size + 1),
    "cbor-many-empty-maps": lambda size: _fill(b"\x9a" + (size - 5).to_bytes(4, "big"), b"\xa0", size),
    "cbor-many-empty-arrays": lambda size: _fill(b"\x9a" + (size - 5).to_bytes(4, "big"), b"\x80", size),
    "cbor-many-texts": lambda size: _fill(b"\x9a" + (size // 2).to_bytes(4, "big"), b"\x61a", size),
    "cbor-deep": lambda size: b"\x81" * size,
    "cbor-length-beyond-memory": lambda size: b"\x5b" + b"\xff" * 8,
    "json-deep-arrays": lambda size: b"[" * size,
    "json-deep-maps": lambda size: _fill(b"", b'{"a":', size),
    "json-many-keys": lambda size: b"{" + b",".join(b'"%x":0' % n for n in range(size // 12)) + b"}",
    "json-huge-number": lambda size: b"9" * size,
    "json-surrogates": lambda size: b'{"pck_crl":"' + _fill(b"", b"\\ud800", size - 20) + b'"}',
    "yaml-deep": lambda size: b"- " * (size // 2),
    "yaml-aliases": lambda size: b"a: &a [x]\n" + _fill(b"", b"? [*a]\n: *a\n", size - 10),
    "yaml-merge-keys": lambda size: b"".join(
        b"l%d: &l%d {<<: [%s]}\n" % (n, n, b",".join([b"*l%d" % (n - 1)] * 9) if n else b"{a: 1}") for n in range(9)
    ),
    "der-deep": lambda size: b"\x30\x80" * (size // 2),
    "der-many-elements": lambda size: _der(0x30, b"\x05\0" * ((size - 5) // 2)),
    "der-length-beyond-end": lambda size: b"\x30\x83\xff\xff\xff" + bytes(max(0, size - 5)),
    "pem-many-blocks": lambda size: _fill(b"", b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n", size),
    "ccel-many-events": lambda size: _fill(CCEL_HEAD, CCEL_EVENT, size),
    "xml-deep": lambda size: _fill(b"", b"<a>", size),
    "xml-many-attributes": lambda size: b"<a " + b" ".join(b'a%x=""' % n for n in range(size // 12)) + b"/>",
    "xml-entities": lambda size: b'<!DOCTYPE a [<!ENTITY b "' + b"x" * (size // 2) + b'">]><a>&b;&b;&b;</a>',
    "dots": lambda size: b"." * size,
}


@EACH
def test_a_parser_takes_what_is_good(target: Target) -> None:
    seeds = list(target.seeds())
    assert seeds
    assert any(target.try_bytes(seed) for seed in seeds)


@EACH
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_the_named_refusal_comes_out_of_noise(target: Target, data: st.DataObject) -> None:
    target.try_bytes(data.draw(st.binary(max_size=400)))


@EACH
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_the_named_refusal_comes_out_of_spoilt_good_input(target: Target, data: st.DataObject) -> None:
    seeds = list(target.seeds())
    seed = data.draw(st.sampled_from(seeds))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 40)))
    other = data.draw(st.binary(max_size=40) | st.sampled_from(seeds).map(lambda donor: donor[start:end]))
    target.try_bytes(seed[:start] + other + seed[end:])


@EACH
@pytest.mark.parametrize("shape", HOSTILE.values(), ids=HOSTILE)
def test_hostile_input_of_full_size_costs_bounded_work_and_only_the_named_refusal_comes_out(
    target: Target, shape: Callable[[int], bytes]
) -> None:
    data = shape(target.size)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        target.try_bytes(data)
    finally:
        sys.setprofile(before)
    assert calls < CALLS_MAX


@pytest.mark.parametrize("name", ["cbor", "evidence", "ccel", "collateral", "rim", "signed", "policy", "spdm"])
@pytest.mark.parametrize("shape", HOSTILE.values(), ids=HOSTILE)
def test_hostile_input_of_full_size_costs_bounded_memory(name: str, shape: Callable[[int], bytes]) -> None:
    target = TARGETS[name]
    data = shape(target.size)
    tracemalloc.start()
    try:
        target.try_bytes(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX


@pytest.mark.parametrize("piece", [b"\x00", b"\x80", b"\xa0", b"\x40"])
def test_a_document_of_more_items_than_evidence_has_is_refused(piece: bytes) -> None:
    most = cbor.ITEMS_MAX - 1  # the array is an item too
    assert cbor.decode(b"\x99" + most.to_bytes(2, "big") + piece * most)
    with pytest.raises(MalformedEvidenceError, match="items"):
        cbor.decode(b"\x9a" + (most + 1).to_bytes(4, "big") + piece * (most + 1))


def test_items_are_counted_over_all_containers_together() -> None:
    inner = b"\x99\x40\x00" + b"\x00" * 0x4000
    with pytest.raises(MalformedEvidenceError, match="items"):
        parse_evidence(b"\x84" + inner * 4)


@pytest.mark.parametrize(("name", "piece"), [("log-proof", b"example.org"), ("collateral", b"-----BEGIN")])
def test_half_a_letter_in_json_is_a_named_refusal(name: str, piece: bytes) -> None:
    seed = next(iter(TARGETS[name].seeds()))
    broken = seed.replace(piece, b"\\ud800", 1)
    assert broken != seed
    assert not TARGETS[name].try_bytes(broken)
