"""Checkpoints: which tree the log vouches for, who else saw it, and how long ago.

A checkpoint is a signed note of three lines: origin, number of entries, root in base64. The log signs it, and cosigns
it with the time under the same key, so that a checkpoint nobody renews grows stale; witnesses may cosign it too.

Source: C2SP tlog-checkpoint v1.0.0.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import (
    LogProofError,
    LogRollbackError,
    LogSignatureError,
    LogSplitViewError,
    LogStaleError,
    MalformedEvidenceError,
)
from attestation.merkle_tree import HASH_SIZE, leaf_hash, root_hash
from attestation.transparency.entries import ENTRIES_MAX, ENTRY_SIZE_MAX, FILE_SIZE_MAX, unframe
from attestation.transparency.note import KeyKind, Note, NoteKey, cosign, parse_note, sign

AGE_MAX_S = 86_400  # the log renews its checkpoint at least daily
SKEW_S = 300  # a clock ahead of ours by this much is no reason to refuse
WITNESSES_MAX = 16
_APPENDING = 1024  # entries that may stand behind a checkpoint while the next one is signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The log at one size.

    Attributes:
        origin: the log's name, also the name of its key.
        size: number of entries.
        root: RFC 9162 root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTrust:
    """Which log a reader believes, and how far.

    Attributes:
        key: the log's key, pinned.
        witnesses: cosigner keys of others.
        witnesses_min: how many of them must have cosigned.
        age_max_s: longest time since log and witnesses vouched for the checkpoint, seconds.
    """

    key: NoteKey
    witnesses: tuple[NoteKey, ...] = ()
    witnesses_min: int = 0
    age_max_s: int = AGE_MAX_S

    def __post_init__(self) -> None:
        if self.key.kind is not KeyKind.SIGNER or any(key.kind is not KeyKind.COSIGNER for key in self.witnesses):
            raise ValueError("the log's key must be of type 1, those of witnesses of type 4")
        keys = [self.key.public_key, *(key.public_key for key in self.witnesses)]
        if len(set(keys)) != len(keys) or len(self.witnesses) > WITNESSES_MAX:
            raise ValueError(f"want at most {WITNESSES_MAX} witnesses, each with a key of its own")
        if not 0 <= self.witnesses_min <= len(self.witnesses) or (self.witnesses and not self.witnesses_min):
            raise ValueError(
                f"witnesses_min {self.witnesses_min}: want 1 to {len(self.witnesses)}, 0 without witnesses"
            )
        if self.age_max_s <= 0:
            raise ValueError("age_max_s must be positive")


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey, *, now: datetime) -> bytes:
    """Return the checkpoint as the log publishes it."""
    return cosign(sign(checkpoint.text(), key, checkpoint.origin), key, checkpoint.origin, now=now).encode()


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the three lines.

    Raises:
        MalformedEvidenceError: they are something else, or have further lines, which no log of ours writes.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedEvidenceError(f"checkpoint of {len(lines) - 1} lines, want origin, size and root")
    origin, size, encoded = lines[:3]
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        root = b""
    number = int(size) if size.isascii() and size.isdecimal() and len(size) <= 6 else ENTRIES_MAX + 1
    checkpoint = Checkpoint(origin=origin, size=number, root=root)
    if len(root) != HASH_SIZE or number > ENTRIES_MAX or checkpoint.text() != text:
        raise MalformedEvidenceError(f"checkpoint: want a size up to {ENTRIES_MAX} and a root of {HASH_SIZE} bytes")
    return checkpoint


def open_checkpoint(data: bytes, trust: LogTrust, *, now: datetime) -> Checkpoint:
    """Return what the note says, when it may be believed now.

    1. The pinned key signed it, under the origin's name.
    2. The log vouched for it lately, and so did enough of the witnesses.

    Raises:
        MalformedEvidenceError, LogSignatureError, LogStaleError.
    """
    note = parse_note(data)
    checkpoint = _open_signed(note, trust)  # (1)
    clock = NoteKey(name=trust.key.name, kind=KeyKind.COSIGNER, public_key=trust.key.public_key)
    _check_fresh(trust.key.name, note.cosigned_by(clock), trust, now)  # (2)
    seen = [note.cosigned_by(key) for key in trust.witnesses]
    vouched = [when for when in seen if when is not None]
    if len(vouched) < trust.witnesses_min:
        raise LogSignatureError(f"{len(vouched)} of {len(seen)} witnesses cosigned, want {trust.witnesses_min}")
    fresh = [when for when in vouched if _is_fresh(when, trust, now)]
    if len(fresh) < trust.witnesses_min:
        raise LogStaleError(
            f"{len(fresh)} witnesses cosigned in the last {trust.age_max_s} s, want {trust.witnesses_min}"
        )
    return checkpoint


def open_seen(data: bytes, trust: LogTrust) -> Checkpoint:
    """Return a checkpoint that was believed earlier: it must still be the log's, but may be old.

    Raises:
        MalformedEvidenceError, LogSignatureError.
    """
    return _open_signed(parse_note(data), trust)


def check_entries(checkpoint: Checkpoint, data: bytes) -> tuple[bytes, ...]:
    """Return the encoded entries under a checkpoint.

    Args:
        checkpoint: what was signed.
        data: the file of entries; what was appended since the checkpoint is left out.

    Raises:
        MalformedEvidenceError: an entry beyond the limits.
        LogProofError: too few entries, or they do not lead to the root.
    """
    entries = tuple(unframe(data))[: checkpoint.size]
    if len(entries) < checkpoint.size:
        raise LogProofError(f"{len(entries)} whole entries, the checkpoint is over {checkpoint.size}")
    root = root_hash([leaf_hash(entry) for entry in entries])
    if root != checkpoint.root:
        raise LogProofError(f"the entries lead to root {root.hex()[:16]}, signed is {checkpoint.root.hex()[:16]}")
    return entries


def check_successor(seen: Checkpoint, new: Checkpoint, leaves: Sequence[bytes]) -> None:
    """Check that the log at `new` contains the log at `seen`.

    Args:
        seen: the last checkpoint believed.
        new: the one shown now.
        leaves: leaf hashes under `new`.

    Raises:
        LogRollbackError: fewer entries than before.
        LogSplitViewError: other entries than before, under the same key.
    """
    if new.size < seen.size:
        raise LogRollbackError(f"the log shows {new.size} entries, {seen.size} were seen before")
    before = root_hash(leaves[: seen.size])
    if before != seen.root:
        raise LogSplitViewError(
            f"the log shows two pasts: its first {seen.size} entries had root {seen.root.hex()[:16]}, "
            f"now {before.hex()[:16]}"
        )


def file_size_max(checkpoint: Checkpoint) -> int:
    """Return the most bytes that entries up to this checkpoint, and some that are just being appended, can have."""
    return min(FILE_SIZE_MAX, (checkpoint.size + _APPENDING) * (ENTRY_SIZE_MAX + 4))


def _open_signed(note: Note, trust: LogTrust) -> Checkpoint:
    if not note.signed_by(trust.key):
        raise LogSignatureError(f"the checkpoint is not signed by {trust.key.name}")
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != trust.key.name:
        raise LogSignatureError(f"the checkpoint is of {checkpoint.origin[:64]!r}, want {trust.key.name!r}")
    return checkpoint


def _check_fresh(name: str, when: datetime | None, trust: LogTrust, now: datetime) -> None:
    if when is None or not _is_fresh(when, trust, now):
        seen = when.isoformat() if when else "at no time it says"
        raise LogStaleError(
            f"{name} vouched for the checkpoint {seen}; want within {trust.age_max_s} s of {now.isoformat()}"
        )


def _is_fresh(when: datetime, trust: LogTrust, now: datetime) -> bool:
    return -timedelta(seconds=SKEW_S) <= now - when <= timedelta(seconds=trust.age_max_s)
