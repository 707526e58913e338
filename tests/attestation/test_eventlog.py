"""The runtime log: one spelling, one replay, and nothing but known events."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256, sha384
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import MalformedEvidenceError, cbor
from attestation.eventlog import (
    DIGEST_SIZES,
    EVENTS_MAX,
    EventKind,
    LogEvent,
    extend,
    log_fields,
    parse_log,
    replay,
)

ENGINE = LogEvent(kind=EventKind.ENGINE, digest=b"\x06" * 32)
MODEL = LogEvent(kind=EventKind.MODEL, digest=b"\x05" * 32, name="llama")
VECTOR = (
    LogEvent(kind=EventKind.FIRMWARE_LOG, digest=b"\x07" * 48),
    LogEvent(kind=EventKind.IMAGE_CONFIG, digest=b"\x08" * 32),
    ENGINE,
    MODEL,
)


@st.composite
def events(draw: st.DrawFn) -> LogEvent:
    kind = draw(st.sampled_from(EventKind))
    size = DIGEST_SIZES[kind]
    name = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64))
    return LogEvent(kind=kind, digest=draw(st.binary(min_size=size, max_size=size)), name=name)


def test_the_vector_in_the_protocol_holds() -> None:
    encoded = b"\xa3\x64kind\x66engine\x64name\x60\x66digest\x58\x20" + b"\x06" * 32
    assert cbor.encode(ENGINE.to_fields()) == encoded
    assert ENGINE.extension() == sha384(b"chrysalis/1 event" + encoded).digest()
    assert replay([ENGINE]) == sha384(bytes(48) + ENGINE.extension()).digest()
    page = (Path(__file__).parents[2] / "docs/protocol/eventlog.md").read_text()
    document = sha256(cbor.encode(log_fields(VECTOR))).hexdigest()
    for value in (ENGINE.extension().hex(), replay(VECTOR).hex(), document):
        assert f"`{value}`" in page
    assert replay(VECTOR).hex().startswith("8bc2a650a88c3aec45a1ada28bcf2693")


def test_an_empty_log_is_an_untouched_register() -> None:
    assert replay([]) == bytes(48)


@given(st.lists(events(), max_size=5))
def test_a_log_survives_the_wire(log: list[LogEvent]) -> None:
    assert parse_log(cbor.decode(cbor.encode(log_fields(log)))) == tuple(log)


@given(st.lists(events(), max_size=5), st.lists(events(), max_size=5))
def test_two_logs_never_share_a_register(one: list[LogEvent], two: list[LogEvent]) -> None:
    assert (replay(one) == replay(two)) == (one == two)


@pytest.mark.parametrize("change", [{"digest": b"\x09" * 32}, {"name": "x"}, {"kind": EventKind.MODEL}])
def test_every_field_changes_the_extension(change: dict[str, object]) -> None:
    assert replace(ENGINE, **change).extension() != ENGINE.extension()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param({}, id="a-map"),
        pytest.param(b"", id="bytes"),
        pytest.param([None], id="no-event"),
        pytest.param([[]], id="an-array-for-an-event"),
        pytest.param([{"kind": "engine", "digest": bytes(32)}], id="no-name"),
        pytest.param([{"kind": "engine", "name": ""}], id="no-digest"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": "", "x": 1}], id="unknown-field"),
        pytest.param([{"kind": "kernel", "digest": bytes(32), "name": ""}], id="unknown-kind"),
        pytest.param([{"kind": b"engine", "digest": bytes(32), "name": ""}], id="kind-that-is-no-text"),
        pytest.param([{"kind": "engine", "digest": "0" * 32, "name": ""}], id="digest-that-is-text"),
        pytest.param([{"kind": "engine", "digest": bytes(48), "name": ""}], id="digest-of-another-length"),
        pytest.param([{"kind": "firmware-log", "digest": bytes(32), "name": ""}], id="short-firmware-log-digest"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": None}], id="name-that-is-no-text"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": "x" * 65}], id="endless-name"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": "a\nb"}], id="name-with-a-line-break"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": "\x1b[2J"}], id="name-that-clears-a-screen"),
        pytest.param([{"kind": "engine", "digest": bytes(32), "name": "m\u00f6del"}], id="name-beyond-ascii"),
        pytest.param([ENGINE.to_fields()] * (EVENTS_MAX + 1), id="endless-log"),
    ],
)
def test_what_is_no_log_is_malformed(value: cbor.Value) -> None:
    with pytest.raises(MalformedEvidenceError, match="runtime log"):
        parse_log(value)


def test_the_longest_log_is_read() -> None:
    assert len(parse_log([ENGINE.to_fields()] * EVENTS_MAX)) == EVENTS_MAX


@pytest.mark.parametrize(("register", "digest"), [(b"", bytes(48)), (bytes(48), bytes(32)), (bytes(49), bytes(47))])
def test_a_register_is_extended_by_whole_digests_only(register: bytes, digest: bytes) -> None:
    with pytest.raises(ValueError, match="48 bytes"):
        extend(register, digest)


def test_an_event_in_words_names_kind_digest_and_name() -> None:
    assert str(MODEL) == "model 0505050505050505 (llama)"
    assert str(ENGINE) == "engine 0606060606060606"
