"""The deterministic CBOR subset: one value, one encoding, and nothing but a named refusal for other bytes."""

from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import MalformedEvidenceError

LEAF = st.none() | st.booleans() | st.integers(0, (1 << 64) - 1) | st.binary(max_size=300) | st.text(max_size=30)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=30), inner, max_size=8),
    max_leaves=20,
)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(VALUE)
def test_what_is_written_is_read_back(value: cbor.Value) -> None:
    if _depth(value) <= cbor.DEPTH_MAX:
        assert cbor.decode(cbor.encode(value)) == value


@given(VALUE)
def test_another_encoder_writes_the_same_bytes(value: cbor.Value) -> None:
    assert cbor.encode(value) == cbor2.dumps(value, canonical=True)


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_are_the_one_encoding(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except MalformedEvidenceError:
        return
    assert cbor.encode(value) == data


@given(VALUE, st.data())
def test_a_changed_document_is_another_value_or_none(value: cbor.Value, data: st.DataObject) -> None:
    document = bytearray(cbor.encode(value))
    document[data.draw(st.integers(0, len(document) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(MalformedEvidenceError):
        assert cbor.encode(cbor.decode(bytes(document))) == bytes(document)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x00", id="a-second-document"),
        pytest.param(b"\x18\x17", id="number-not-shortest"),
        pytest.param(b"\x19\x00\xff", id="number-in-two-bytes"),
        pytest.param(b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff", id="number-in-eight-bytes"),
        pytest.param(b"\x20", id="negative"),
        pytest.param(b"\x5f\x41\x00\xff", id="indefinite-bytes"),
        pytest.param(b"\x9f\xff", id="indefinite-array"),
        pytest.param(b"\xc2\x41\x01", id="tag"),
        pytest.param(b"\xf9\x00\x00", id="float"),
        pytest.param(b"\xf7", id="undefined"),
        pytest.param(b"\xf8\x20", id="simple-value"),
        pytest.param(b"\x61\xff", id="not-utf-8"),
        pytest.param(b"\xa1\x00\x00", id="key-not-text"),
        pytest.param(b"\xa2\x61a\x00\x61a\x00", id="doubled-key"),
        pytest.param(b"\xa2\x61b\x00\x61a\x00", id="keys-out-of-order"),
        pytest.param(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", id="more-items-than-bytes"),
        pytest.param(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", id="more-pairs-than-bytes"),
        pytest.param(b"\x5a\xff\xff\xff\xff", id="more-bytes-than-there-are"),
        pytest.param(b"\x81" * 100 + b"\x00", id="nested-too-deep"),
        pytest.param(b"\x81" * 100_000, id="nested-a-hundred-thousand-deep"),
        pytest.param(bytes(cbor.SIZE_MAX + 1), id="too-large"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        cbor.decode(data)


@pytest.mark.parametrize("value", [-1, 1 << 64, 1.5, {1, 2}])
def test_a_value_outside_the_subset_cannot_be_written(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        cbor.encode(value)
