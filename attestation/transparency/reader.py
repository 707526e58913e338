"""The log as its readers see it: fetched, checked against what was seen before, folded. Blocks: call it in a thread.

What was seen is one file; it only moves forward. A log that contradicts itself leaves the proof on disk beside it, and
is refused from then on until a person has looked at that proof and removed it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Protocol

from attestation.errors import EndorsementFetchError, LogSplitViewError
from attestation.fetch import HttpSource, Request, Source, check_url
from attestation.files import read_bounded, write_atomic
from attestation.merkle_tree import leaf_hash
from attestation.transparency.checkpoint import (
    Checkpoint,
    LogTrust,
    check_entries,
    check_successor,
    file_size_max,
    open_checkpoint,
    open_seen,
)
from attestation.transparency.entries import Entry, parse_entry
from attestation.transparency.logged import LoggedValues, fold
from attestation.transparency.note import NOTE_SIZE_MAX
from attestation.transparency.store import CHECKPOINT, ENTRIES

SEEN, SPLIT_VIEW = "log-checkpoint", "log-split-view"


class LogSource(Protocol):
    """Where a log is served."""

    def read(self, name: str, size_max: int) -> bytes:
        """Return the file called `name`, at most one byte more than `size_max`.

        Raises:
            EndorsementFetchError: it cannot be had.
        """
        ...


class LogReader:
    """Reads one log again and again, and remembers how far it came.

    Args:
        source: where it is served.
        trust: the pinned key and conditions.
        state: folder for what was seen; belongs to this reader alone.
    """

    def __init__(self, source: LogSource, trust: LogTrust, state: Path) -> None:
        self._source, self._trust, self._state = source, trust, state
        self._current: tuple[Checkpoint, LoggedValues] | None = None
        self.entries: tuple[Entry, ...] = ()  # all of the log, as last read
        self._leaves: list[bytes] = []  # their leaf hashes

    @property
    def contradicted(self) -> bool:
        """Whether the log was caught showing two pasts."""
        return (self._state / SPLIT_VIEW).exists()

    def read(self, *, now: datetime) -> LoggedValues:
        """Return what the log says now.

        1. It was not caught lying before.
        2. The checkpoint is signed by the pinned key, and fresh.
        3. The entries lead to its root.
        4. They contain everything that was seen before; then this is what was seen.
        5. Every entry is understood.

        Raises:
            EndorsementFetchError: it could not be read; what was read before stays true until it is too old for you.
            TransparencyError, MalformedEvidenceError: it is refused.
            OSError: the state folder cannot be used.
        """
        if self.contradicted:  # (1)
            raise LogSplitViewError(f"the log showed two pasts; the proof is in {self._state / SPLIT_VIEW}")
        note = self._source.read(CHECKPOINT, NOTE_SIZE_MAX)
        checkpoint = open_checkpoint(note, self._trust, now=now)  # (2)
        if self._current is not None and self._current[0] == checkpoint:
            return self._current[1]
        data = self._source.read(ENTRIES, file_size_max(checkpoint))
        entries = check_entries(checkpoint, data)  # (3)
        self._check_seen(checkpoint, note, entries, data)  # (4)
        parsed = tuple(map(parse_entry, entries))
        values = fold(parsed)  # (5)
        self._current, self.entries, self._leaves = (checkpoint, values), parsed, list(map(leaf_hash, entries))
        return values

    def check_contains(self, log: bytes, *, size: int, root: bytes) -> None:
        """Check that the log as last read contains a checkpoint that somebody else published.

        Args:
            log: Ed25519 key of the log it is about, 32 bytes; one of another log says nothing about this one.
            size, root: its number of entries, and the RFC 9162 root over them.

        Raises:
            LogRollbackError: this log is shorter: its server holds entries back.
            LogSplitViewError: its first entries are others.
            RuntimeError: the log was never read.
        """
        if self._current is None:
            raise RuntimeError("read the log first")
        if log == self._trust.key.public_key:
            seen = Checkpoint(origin=self._current[0].origin, size=size, root=root)
            check_successor(seen, self._current[0], self._leaves)

    def _check_seen(self, checkpoint: Checkpoint, note: bytes, entries: tuple[bytes, ...], data: bytes) -> None:
        path = self._state / SEEN
        if path.exists():
            before = read_bounded(path, NOTE_SIZE_MAX)
            try:
                check_successor(open_seen(before, self._trust), checkpoint, list(map(leaf_hash, entries)))
            except LogSplitViewError as error:
                self._keep_proof(before, note, data)
                raise LogSplitViewError(f"{error.message}; the proof is in {self._state / SPLIT_VIEW}") from None
        write_atomic(path, note)

    def _keep_proof(self, before: bytes, note: bytes, data: bytes) -> None:
        folder = self._state / SPLIT_VIEW
        folder.mkdir()
        for name, content in (("seen-before", before), ("shown-now", note), ("entries-shown-now", data)):
            write_atomic(folder / name, content)


class FolderLog:
    """A log in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, size_max: int) -> bytes:
        """See `LogSource`."""
        try:
            return read_bounded(self._folder / name, size_max)
        except OSError as error:
            raise EndorsementFetchError(f"{self._folder / name}: {error.strerror}") from error


class HttpLog:
    """A log behind a file server, at the URL of its folder."""

    def __init__(self, url: str, source: Source) -> None:
        self._url, self._source = check_url(url).rstrip("/"), source

    def read(self, name: str, size_max: int) -> bytes:
        """See `LogSource`."""
        return self._source.fetch(Request(url=f"{self._url}/{name}", size_max=size_max)).body


def open_source(place: str) -> LogSource:
    """Return the log at an https URL (http to loopback), or in a folder; ValueError when the URL may not be asked."""
    return HttpLog(place, HttpSource()) if "://" in place else FolderLog(Path(place))
