"""Checkpoints: signed by the pinned log, vouched for lately, over exactly these entries; everything else is refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import (
    AttestationError,
    LogProofError,
    LogRollbackError,
    LogSignatureError,
    LogSplitViewError,
    LogStaleError,
    MalformedEvidenceError,
)
from attestation.merkle_tree import leaf_hash, root_hash
from attestation.transparency.checkpoint import (
    AGE_MAX_S,
    SKEW_S,
    Checkpoint,
    LogTrust,
    check_entries,
    check_successor,
    open_checkpoint,
    open_seen,
    parse_checkpoint,
    sign_checkpoint,
)
from attestation.transparency.entries import encode_entry, frame
from attestation.transparency.note import KeyKind, Note, NoteKey, cosign, parse_note, sign
from tests.attestation.transparency.logs import EVERY_KIND, KEY, NOW, ORIGIN, TRUST
from tests.attestation.vendors import flipped

ENTRIES = [encode_entry(entry) for entry in EVERY_KIND]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
CHECKPOINT = Checkpoint(origin=ORIGIN, size=len(ENTRIES), root=root_hash(LEAVES))
SIGNED = sign_checkpoint(CHECKPOINT, KEY, now=NOW)
WITNESSES = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3)]
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def key_of(private: Ed25519PrivateKey, name: str, kind: KeyKind = KeyKind.COSIGNER) -> NoteKey:
    return NoteKey(name=name, kind=kind, public_key=private.public_key().public_bytes_raw())


WITNESSED = replace(
    TRUST, witnesses=tuple(key_of(key, f"w{number}") for number, key in enumerate(WITNESSES)), witnesses_min=2
)


def cosigned(*witnesses: int, late: timedelta = timedelta(0)) -> bytes:
    note = parse_note(SIGNED)
    for number in witnesses:
        note = cosign(note, WITNESSES[number], f"w{number}", now=NOW - late)
    return note.encode()


def test_a_signed_checkpoint_is_believed() -> None:
    assert open_checkpoint(SIGNED, TRUST, now=NOW) == CHECKPOINT
    assert open_seen(SIGNED, TRUST) == CHECKPOINT
    assert check_entries(CHECKPOINT, frame(ENTRIES)) == tuple(ENTRIES)


@given(st.integers(0, len(SIGNED) * 8 - 1))
@settings(max_examples=300, deadline=None)
def test_one_flipped_bit_is_refused(bit: int) -> None:
    with pytest.raises((MalformedEvidenceError, LogSignatureError, LogStaleError)):
        open_checkpoint(flipped(SIGNED, bit), TRUST, now=NOW)


def test_a_checkpoint_of_somebody_else_is_refused() -> None:
    with pytest.raises(LogSignatureError, match="not signed by"):
        open_checkpoint(sign_checkpoint(CHECKPOINT, STRANGER, now=NOW), TRUST, now=NOW)


def test_a_checkpoint_of_another_log_of_the_same_key_is_refused() -> None:
    other = replace(CHECKPOINT, origin="example.org/other")
    with pytest.raises(LogSignatureError, match="not signed by"):
        open_checkpoint(sign_checkpoint(other, KEY, now=NOW), TRUST, now=NOW)
    with pytest.raises(LogSignatureError, match="is of"):
        open_seen(sign(other.text(), KEY, ORIGIN).encode(), TRUST)


def test_signatures_nobody_asked_for_are_ignored() -> None:
    note = cosign(parse_note(SIGNED), STRANGER, "stranger", now=NOW)
    assert open_checkpoint(note.encode(), TRUST, now=NOW) == CHECKPOINT


@pytest.mark.parametrize(
    ("later", "ok"), [(-SKEW_S, True), (AGE_MAX_S, True), (AGE_MAX_S + 1, False), (-SKEW_S - 1, False)]
)
def test_a_checkpoint_that_nobody_renewed_is_refused(later: int, ok: bool) -> None:
    now = NOW + timedelta(seconds=later)
    if ok:
        assert open_checkpoint(SIGNED, TRUST, now=now) == CHECKPOINT
        return
    with pytest.raises(LogStaleError, match="vouched"):
        open_checkpoint(SIGNED, TRUST, now=now)
    assert open_seen(SIGNED, TRUST) == CHECKPOINT


def test_a_checkpoint_without_a_time_is_refused() -> None:
    with pytest.raises(LogStaleError, match="no time"):
        open_checkpoint(sign(CHECKPOINT.text(), KEY, ORIGIN).encode(), TRUST, now=NOW)


def test_enough_witnesses_are_enough() -> None:
    for witnesses in ((0, 1), (2, 0), (0, 1, 2)):
        assert open_checkpoint(cosigned(*witnesses), WITNESSED, now=NOW) == CHECKPOINT


@pytest.mark.parametrize(
    ("note", "error"),
    [
        pytest.param(cosigned(1), LogSignatureError, id="one-of-two"),
        pytest.param(cosigned(1, 1), LogSignatureError, id="one-twice"),
        pytest.param(cosigned(0, 1, late=timedelta(days=2)), LogStaleError, id="long-ago"),
        pytest.param(
            cosign(parse_note(cosigned(0)), STRANGER, "w1", now=NOW).encode(), LogSignatureError, id="a-borrowed-name"
        ),
    ],
)
def test_too_few_witnesses_are_refused(note: bytes, error: type[AttestationError]) -> None:
    with pytest.raises(error):
        open_checkpoint(note, WITNESSED, now=NOW)


def test_a_witness_signature_moved_to_another_checkpoint_is_refused() -> None:
    donor = parse_note(cosigned(0, 1))
    target = parse_note(sign_checkpoint(replace(CHECKPOINT, root=bytes(32)), KEY, now=NOW))
    moved = Note(text=target.text, signatures=(*target.signatures, *donor.signatures[2:]))
    with pytest.raises(LogSignatureError, match="does not verify"):
        open_checkpoint(moved.encode(), WITNESSED, now=NOW)


def test_the_logs_own_word_does_not_count_as_a_witness() -> None:
    with pytest.raises(ValueError, match="key of its own"):
        LogTrust(key=TRUST.key, witnesses=(key_of(KEY, "w"),), witnesses_min=1)


@pytest.mark.parametrize("minimum", [-1, 0, 4])
def test_a_number_of_witnesses_that_means_nothing_is_refused(minimum: int) -> None:
    with pytest.raises(ValueError, match="witnesses_min"):
        replace(WITNESSED, witnesses_min=minimum)


@pytest.mark.parametrize(
    "text",
    [
        "example.org/log\n8\n",
        CHECKPOINT.text() + "extension\n",
        CHECKPOINT.text().replace("\n8\n", "\n08\n"),
        CHECKPOINT.text().replace("\n8\n", "\n-8\n"),
        CHECKPOINT.text().replace("\n8\n", "\n65537\n"),
        f"{ORIGIN}\n8\nAAAA\n",
        f"{ORIGIN}\n8\n!!\n",
        f"{ORIGIN}\n8\n{'é' * 44}\n",
    ],
)
def test_a_checkpoint_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(MalformedEvidenceError, match="checkpoint"):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n",
        b"text\n\nno signature\n",
        b"text\n\n\xe2\x80\x94 name AAA\n",
        b"text\n\n\xe2\x80\x94 name AAAA",
        b"te\x07xt\n\n\xe2\x80\x94 name AAAA\n",
        b"\xff\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n" + b"\xe2\x80\x94 name AAAA\n" * 33,
        b"x" * 20_000,
    ],
)
def test_a_note_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError, match="note"):
        parse_note(data)


@given(st.binary(max_size=300))
def test_random_bytes_are_a_note_or_a_named_refusal(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        assert parse_note(data).encode() == data


@pytest.mark.parametrize("change", ["cut", "altered", "swapped", "missing"])
def test_entries_other_than_the_signed_ones_are_refused(change: str) -> None:
    entries = {
        "cut": frame(ENTRIES)[:-1],
        "altered": flipped(frame(ENTRIES), 8 * 40),
        "swapped": frame([ENTRIES[1], ENTRIES[0], *ENTRIES[2:]]),
        "missing": frame(ENTRIES[1:]),
    }[change]
    with pytest.raises(LogProofError):
        check_entries(CHECKPOINT, entries)


def test_entries_behind_the_checkpoint_do_not_count_yet() -> None:
    assert check_entries(replace(CHECKPOINT, size=3, root=root_hash(LEAVES[:3])), frame(ENTRIES)) == tuple(ENTRIES[:3])


def test_a_log_may_only_grow() -> None:
    small = Checkpoint(origin=ORIGIN, size=3, root=root_hash(LEAVES[:3]))
    check_successor(small, CHECKPOINT, LEAVES)
    check_successor(CHECKPOINT, CHECKPOINT, LEAVES)
    with pytest.raises(LogRollbackError, match="3 entries, 8 were seen"):
        check_successor(CHECKPOINT, small, LEAVES[:3])
    with pytest.raises(LogSplitViewError, match="two pasts"):
        check_successor(replace(small, root=bytes(32)), CHECKPOINT, LEAVES)
    with pytest.raises(LogSplitViewError, match="two pasts"):
        check_successor(replace(CHECKPOINT, root=bytes(32)), CHECKPOINT, LEAVES)


def test_a_key_is_written_and_read_in_one_way() -> None:
    for key in (TRUST.key, WITNESSED.witnesses[0]):
        assert NoteKey.parse(key.encode()) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        TRUST.key.encode().replace("log", "lag"),
        TRUST.key.encode() + "A",
        TRUST.key.encode().upper(),
        "name+00000000+" + "A" * 44,
    ],
)
def test_a_key_whose_id_does_not_belong_to_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|\+"):
        NoteKey.parse(text)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "x" * 121, "tab\t", "é"])
def test_a_name_that_would_break_a_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="key name"):
        key_of(KEY, name)
