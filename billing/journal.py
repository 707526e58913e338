"""The journal: records that are on disk before anybody sees their effect.

SQLite in WAL mode with full synchronisation; the chain of checksums is `billing.record_chain`'s. One writer at a time:
a lock file beside the database is held as long as the journal is open and freed by the kernel when the process dies.
Readers (`read_journal`) need no lock.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO

from billing.errors import CorruptJournalError, JournalBusyError, JournalMovedError
from billing.record_chain import GENESIS, RECORD_SIZE_MAX, extend_chain, follow_chain

__all__ = ["RECORD_SIZE_MAX", "Journal", "read_journal", "repair_journal"]

_SELECT = "SELECT seq, payload, checksum FROM journal ORDER BY seq"
_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter: words about damage may quote damaged bytes
_SCHEMA = "CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, checksum BLOB NOT NULL)"
_MOVED = b"these books were moved away\n"
_WRITTEN = b"this journal has been written to\n"  # in the lock file: an empty database is then a loss, not a start


class Journal:
    """An append-only list of byte records.

    `open` checks the whole chain; a damaged journal is refused, see `repair_journal`.
    """

    def __init__(self, path: Path, lock: IO[bytes], database: sqlite3.Connection) -> None:
        self._path = path
        self._lock = lock
        self._database = database
        self._seq = 0
        self._checksum = GENESIS

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the journal at `path`, alone.

        Raises:
            JournalBusyError: another process, or another object of this one, has it open.
            CorruptJournalError: the file is damaged or its chain breaks.
            JournalMovedError: the books were moved away.
        """
        lock = _lock(path)
        try:
            journal = cls(path, lock, _connect(path))
            for _ in journal:
                pass
        except BaseException:
            lock.close()
            raise
        return journal

    def append(self, *payloads: bytes) -> int:
        """Write records, all or none, and return the last one's sequence number once they are on disk."""
        rows = extend_chain(self._seq, self._checksum, payloads)
        if rows:
            with self._database:
                self._database.executemany("INSERT INTO journal VALUES (?, ?, ?)", rows)
            self._seq, _, self._checksum = rows[-1]
        return self._seq

    def __iter__(self) -> Iterator[bytes]:
        """Yield all records in order, checking the chain.

        Raises:
            CorruptJournalError: at the first record that does not follow.
        """
        seq, checksum = 0, GENESIS
        try:
            for row in self._database.execute(_SELECT):
                checksum = follow_chain(str(self._path), seq, checksum, row)
                seq += 1
                yield row[1]
        except _DAMAGED as error:
            raise CorruptJournalError(str(self._path), seq, str(error)) from error
        if seq < self._seq:
            raise CorruptJournalError(str(self._path), seq, "records are missing")
        self._seq, self._checksum = seq, checksum

    def checksum(self, seq: int) -> bytes | None:
        """The checksum that stands beside record `seq`; None when there is no such record."""
        row = self._database.execute("SELECT checksum FROM journal WHERE seq = ?", (seq,)).fetchone()
        return row[0] if row else None

    def __len__(self) -> int:
        return self._seq

    @property
    def head(self) -> bytes:
        """The last record's checksum, 32 bytes."""
        return self._checksum

    def retire(self) -> None:
        """Mark the books as moved away, durably. They stay where they are, and are opened no more."""
        with _lock_file(self._path).open("wb") as file:  # the same file that is locked, and stays so
            file.write(_MOVED)
            file.flush()
            os.fsync(file.fileno())

    def check(self) -> None:
        """A local file is not lost while it is open: an error of the disk is raised where it happens."""

    def close(self) -> None:
        """Close the database and let others open the journal."""
        self._database.close()
        self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> Iterator[bytes]:
    """Yield the records of a journal that another process may be writing to, as of the moment of the first one.

    Raises:
        CorruptJournalError: there is no journal, or its chain breaks.
        JournalMovedError: it was moved away.
    """
    _check_not_moved(path)
    seq, checksum = 0, GENESIS
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            for row in database.execute(_SELECT):
                checksum = follow_chain(str(path), seq, checksum, row)
                seq += 1
                yield row[1]
    except _DAMAGED as error:
        raise CorruptJournalError(str(path), seq, str(error)) from error


def repair_journal(path: Path) -> tuple[int, Path]:
    """Keep the longest valid prefix of a damaged journal, and the damaged files beside it.

    What came after the damage is lost to these books: compare with the chain (deposits, payouts, anchor) and with the
    hosts' receipts before going on.

    Returns:
        The number of records kept, and the folder that has the damaged files.

    Raises:
        JournalBusyError: another process has the journal open.
    """
    with _lock(path):
        kept = _salvage(path)
        folder = _new_folder(path)
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(folder / part.name)
        _lock_file(path).write_bytes(b"")
        with closing(_connect(path)) as database, database:
            database.executemany("INSERT INTO journal VALUES (?, ?, ?)", extend_chain(0, GENESIS, kept))
    return len(kept), folder


def _salvage(path: Path) -> list[bytes]:
    kept: list[bytes] = []
    checksum = GENESIS
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA writable_schema = ON")  # lets SQLite read a file shorter than its header says
            for row in database.execute(_SELECT):
                checksum = follow_chain(str(path), len(kept), checksum, row)
                kept.append(row[1])
    except (*_DAMAGED, CorruptJournalError):
        return kept  # everything up to the damage
    return kept


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _check_not_moved(path: Path) -> None:
    lock = _lock_file(path)
    if lock.exists() and lock.read_bytes() == _MOVED:
        raise JournalMovedError(str(path))


def _lock(path: Path) -> IO[bytes]:
    lock = _lock_file(path).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise JournalBusyError(str(path)) from None
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    _check_not_moved(path)
    lock = _lock_file(path)
    if lock.stat().st_size and not (path.exists() and path.stat().st_size):
        raise CorruptJournalError(str(path), 0, "it was written to before, and is now empty or missing")
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.execute(_SCHEMA)
        lock.write_bytes(_WRITTEN)
    except _DAMAGED as error:
        database.close()
        raise CorruptJournalError(str(path), 0, str(error)) from error
    return database


def _new_folder(path: Path) -> Path:
    for number in range(1, 1000):
        folder = path.with_name(f"{path.name}.damaged-{number}")
        if not folder.exists():
            folder.mkdir()
            return folder
    raise RuntimeError(f"too many damaged copies beside {path}: move them away")
