"""A log of one's own: a folder with the entries and the last checkpoint, written by one process at a time.

    entries       every entry with its length, only ever appended to
    checkpoint    the signed note over some beginning of them; replaced when a new one is signed
    lock          held while the log is open for writing

A file server that serves the folder serves the log. Entries reach the disk before the checkpoint that covers them. A
crash can leave entries without a checkpoint, or half an entry: the first are kept, the second is cut off. Entries that
a checkpoint covers and that are gone or changed are no crash, and the log is not opened.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import AttestationError, LogBusyError, LogRewrittenError, LogStoreError
from attestation.files import read_bounded, sync_folder, write_atomic
from attestation.merkle_tree import consistency_path, inclusion_path, leaf_hash, root_hash
from attestation.transparency.checkpoint import (
    Checkpoint,
    LogTrust,
    check_entries,
    open_seen,
    parse_checkpoint,
    sign_checkpoint,
)
from attestation.transparency.entries import (
    ENTRIES_MAX,
    FILE_SIZE_MAX,
    Entry,
    encode_entry,
    frame,
    parse_entry,
    unframe,
)
from attestation.transparency.logged import fold
from attestation.transparency.note import NOTE_SIZE_MAX, KeyKind, NoteKey, parse_note

ENTRIES, CHECKPOINT, LOCK = "entries", "checkpoint", "lock"


class LogStore:
    """The writer of a log. Open it with `create` or `open`, and close it."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, lock: IO[bytes]) -> None:
        self._folder, self._key, self._lock = folder, key, lock
        self.checkpoint = Checkpoint(origin="", size=0, root=root_hash([]))
        self._encoded: list[bytes] = []
        self._leaves: list[bytes] = []

    @classmethod
    def create(cls, folder: Path, key: Ed25519PrivateKey, *, origin: str, now: datetime) -> LogStore:
        """Begin an empty log in a new folder, and sign that it is empty.

        Raises:
            LogStoreError: there is something already, or the folder cannot be made.
            ValueError: `origin` is no name for a key.
        """
        NoteKey(name=origin, kind=KeyKind.SIGNER, public_key=key.public_key().public_bytes_raw())
        try:
            folder.mkdir(parents=True)
            (folder / ENTRIES).touch(exist_ok=False)
        except OSError as error:
            raise LogStoreError(f"cannot begin a log in {folder}: {error.strerror}") from error
        store = cls(folder, key, _lock(folder))
        store.checkpoint = Checkpoint(origin=origin, size=0, root=root_hash([]))
        store.renew(now=now)
        return store

    @classmethod
    def open(cls, folder: Path, key: Ed25519PrivateKey) -> LogStore:
        """Open a log and check all of it.

        Raises:
            LogBusyError: another process has it open.
            LogRewrittenError: entries that a checkpoint covers are missing or changed.
            LogStoreError: there is none, it is not of this key, or an entry does not belong in it.
        """
        store = cls(folder, key, _lock(folder))
        try:
            store._load()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def key(self) -> NoteKey:
        """What readers pin."""
        return _public(self._key, self.checkpoint.origin)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry."""
        return tuple(map(parse_entry, self._encoded))

    def append(self, entries: Sequence[Entry], *, now: datetime) -> Checkpoint:
        """Put entries on disk, then sign the log with them.

        Raises:
            ValueError: an entry revokes what is not there, or the log is full.
            LogStoreError: the disk did not take them; the log stays as it was.
        """
        encoded = [encode_entry(entry) for entry in entries]
        if len(self._encoded) + len(encoded) > ENTRIES_MAX:
            raise ValueError(f"the log would have more than {ENTRIES_MAX} entries")
        try:
            fold([*self.entries, *map(parse_entry, encoded)])
        except AttestationError as error:
            raise ValueError(str(error)) from error
        self._write(frame(encoded))
        self._take(encoded)
        return self.renew(now=now)

    def renew(self, *, now: datetime) -> Checkpoint:
        """Sign the log as it is, now: readers refuse a checkpoint that nobody renewed for long."""
        checkpoint = Checkpoint(origin=self.checkpoint.origin, size=len(self._leaves), root=root_hash(self._leaves))
        try:
            write_atomic(self._folder / CHECKPOINT, sign_checkpoint(checkpoint, self._key, now=now))
        except OSError as error:
            raise LogStoreError(f"cannot write the checkpoint: {error.strerror}") from error
        self.checkpoint = checkpoint
        return checkpoint

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """Return the audit path of one entry under the current checkpoint; ValueError when there is no such entry."""
        return inclusion_path(self._leaves, index)

    def consistency(self, old_size: int) -> tuple[bytes, ...]:
        """Return the proof that the log contains the one of `old_size` entries."""
        return consistency_path(self._leaves, old_size)

    def close(self) -> None:
        """Let others write."""
        self._lock.close()

    def __enter__(self) -> LogStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> None:
        try:
            note = read_bounded(self._folder / CHECKPOINT, NOTE_SIZE_MAX)
            data = read_bounded(self._folder / ENTRIES, FILE_SIZE_MAX)
            origin = parse_checkpoint(parse_note(note).text).origin
            signed = open_seen(note, LogTrust(key=_public(self._key, origin)))
            encoded = list(unframe(data))
            fold([parse_entry(entry) for entry in encoded])
        except OSError as error:
            raise LogStoreError(f"no log can be read in {self._folder}: {error.strerror}") from error
        except (AttestationError, ValueError) as error:
            raise LogStoreError(f"the log in {self._folder} is damaged, or of another key: {error}") from error
        try:
            check_entries(signed, data)
        except AttestationError as error:
            raise LogRewrittenError(f"the log in {self._folder} is not the one that was signed: {error}") from error
        self.checkpoint = signed
        self._take(encoded)
        self._cut(len(frame(encoded)), len(data))

    def _take(self, encoded: list[bytes]) -> None:
        self._encoded += encoded
        self._leaves += map(leaf_hash, encoded)

    def _write(self, data: bytes) -> None:
        path = self._folder / ENTRIES
        before = path.stat().st_size
        if before + len(data) > FILE_SIZE_MAX:
            raise ValueError(f"the log's entries would have more than {FILE_SIZE_MAX} bytes")
        try:
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(path, before)
            raise LogStoreError(f"cannot append to {path}: {error.strerror}") from error

    def _cut(self, whole: int, size: int) -> None:
        """Cut off the half entry that a crash left."""
        if whole < size:
            os.truncate(self._folder / ENTRIES, whole)
            sync_folder(self._folder)


def _public(key: Ed25519PrivateKey, origin: str) -> NoteKey:
    return NoteKey(name=origin, kind=KeyKind.SIGNER, public_key=key.public_key().public_bytes_raw())


def _lock(folder: Path) -> IO[bytes]:
    try:
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        raise LogStoreError(f"no log can be opened in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise LogBusyError(f"another process writes to the log in {folder}") from error
    return lock
