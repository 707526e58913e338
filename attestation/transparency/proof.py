"""Proofs for those who do not hold the log: one entry is in it, or one checkpoint continues another.

JSON for people and files; docs/protocol/log.md has the fields. What a proof cannot say is that an entry was not revoked
or denied later: only the whole log says that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import LogProofError, LogSplitViewError, MalformedEvidenceError
from attestation.merkle_tree import (
    HASH_SIZE,
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_from_path,
    roots_from_consistency,
)
from attestation.transparency.checkpoint import Checkpoint, LogTrust, open_checkpoint, open_seen
from attestation.transparency.entries import ENTRIES_MAX, Entry, encode_entry, parse_entry

PROOF_SIZE_MAX = 64 * 1024
PATH_MAX = 2 * ENTRIES_MAX.bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """One entry, its place, and its path to the root of a checkpoint."""

    note: bytes
    index: int
    entry: Entry
    path: tuple[bytes, ...]

    def to_json(self) -> str:
        """Return the document."""
        return _document(
            note=self.note.decode(), index=self.index, entry=encode_entry(self.entry).hex(), path=_hexes(self.path)
        )

    def check(self, trust: LogTrust, *, now: datetime) -> Checkpoint:
        """Return the checkpoint that has the entry.

        Raises:
            TransparencyError, MalformedEvidenceError: the checkpoint is refused, or the entry is not under it.
        """
        checkpoint = open_checkpoint(self.note, trust, now=now)
        leaf = leaf_hash(encode_entry(self.entry))
        try:
            root = root_from_path(leaf, index=self.index, size=checkpoint.size, path=self.path)
        except ValueError as error:
            raise LogProofError(str(error)) from None
        if root != checkpoint.root:
            raise LogProofError(f"the path leads to {root.hex()[:16]}, signed is {checkpoint.root.hex()[:16]}")
        return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthProof:
    """Two checkpoints of one log, and the proof that the later contains the earlier."""

    old_note: bytes
    note: bytes
    path: tuple[bytes, ...]

    def to_json(self) -> str:
        """Return the document."""
        return _document(old_note=self.old_note.decode(), note=self.note.decode(), path=_hexes(self.path))

    def check(self, trust: LogTrust, *, now: datetime) -> Checkpoint:
        """Return the later checkpoint.

        Raises:
            LogSplitViewError: both are of one size and differ.
            TransparencyError, MalformedEvidenceError: a checkpoint is refused, or the proof does not hold.
        """
        old, new = open_seen(self.old_note, trust), open_checkpoint(self.note, trust, now=now)
        if old.size == new.size and old.root != new.root:
            raise LogSplitViewError(f"the log signed two roots over {old.size} entries")
        if old.size == 0:
            return new
        try:
            roots = roots_from_consistency(old_size=old.size, new_size=new.size, old_root=old.root, path=self.path)
        except ValueError as error:
            raise LogProofError(str(error)) from None
        if roots != (old.root, new.root):
            raise LogProofError(f"the proof does not lead from size {old.size} to size {new.size}")
        return new


def prove_entry(note: bytes, encoded: Sequence[bytes], index: int) -> EntryProof:
    """Return the proof of one entry among all entries under the note's checkpoint; ValueError when it is not there."""
    path = inclusion_path([leaf_hash(entry) for entry in encoded], index)
    return EntryProof(note=note, index=index, entry=parse_entry(encoded[index]), path=path)


def prove_growth(old_note: bytes, old_size: int, note: bytes, encoded: Sequence[bytes]) -> GrowthProof:
    """Return the proof that the log under `note` contains its first `old_size` entries unchanged."""
    path = consistency_path([leaf_hash(entry) for entry in encoded], old_size) if old_size else ()
    return GrowthProof(old_note=old_note, note=note, path=path)


def parse_proof(text: str) -> EntryProof | GrowthProof:
    """Read a proof of either kind.

    Raises:
        MalformedEvidenceError: too large, not JSON, or not its fields.
    """
    if len(text) > PROOF_SIZE_MAX:
        raise MalformedEvidenceError(f"proof of {len(text)} characters, at most {PROOF_SIZE_MAX} are read")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError("proof is not JSON") from error
    match document:
        case {"v": 1, "note": str(note), "index": int(index), "entry": str(entry), "path": [*path], **rest} if not rest:
            return EntryProof(
                note=_bytes(note), index=index, entry=parse_entry(_unhex(entry, None)), path=_hashes(path)
            )
        case {"v": 1, "old_note": str(old), "note": str(note), "path": [*path], **rest} if not rest:
            return GrowthProof(old_note=_bytes(old), note=_bytes(note), path=_hashes(path))
    raise MalformedEvidenceError("proof: another version or set of fields than this reader knows")


def _bytes(note: str) -> bytes:
    try:
        return note.encode()
    except UnicodeEncodeError as error:
        raise MalformedEvidenceError("proof: a note is no text") from error


def _document(**fields: str | int | list[str]) -> str:
    return json.dumps({"v": 1, **fields}, indent=2)


def _hexes(path: Sequence[bytes]) -> list[str]:
    return [node.hex() for node in path]


def _hashes(path: Sequence[object]) -> tuple[bytes, ...]:
    if len(path) > PATH_MAX:
        raise MalformedEvidenceError(f"proof of {len(path)} hashes, at most {PATH_MAX} are read")
    return tuple(_unhex(node, HASH_SIZE) for node in path)


def _unhex(text: object, size: int | None) -> bytes:
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if not data or (size is not None and len(data) != size):
        raise MalformedEvidenceError("proof: want hashes of 32 bytes, and entries, in hex")
    return data
