"""Where books are kept: an SQLite file, or a PostgreSQL database for operators who already run one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

from billing.errors import JournalPlaceError
from billing.journal import Journal, read_journal
from billing.record_chain import RecordJournal

SCHEME = "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPlace:
    """A database by its URL, which holds no password, and the file with the password, mode 0600.

    Without a file the client library looks where it always does: PGPASSFILE, ~/.pgpass, or no password at all.
    """

    url: str  # postgresql://user@host/database; a socket's folder as ?host=/run/postgresql
    password_file: Path | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            inline = parts.password is not None or "password" in parse_qs(parts.query)
        except ValueError as error:
            raise JournalPlaceError("this address", f"it is not a URL: {error}") from None
        if parts.scheme != SCHEME or not parts.path.strip("/"):
            raise JournalPlaceError("this address", f"write {SCHEME}://user@host/database")
        if inline:  # the URL is not quoted: it holds a secret
            raise JournalPlaceError("this address", "its URL holds a password: put it into a file of mode 0600")

    def __str__(self) -> str:
        return self.url

    def password(self) -> str | None:
        """The password in the file.

        Raises:
            JournalPlaceError: the file cannot be read, or others could read it.
        """
        if self.password_file is None:
            return None
        try:
            mode = stat.S_IMODE(self.password_file.stat().st_mode)
            if mode & 0o077:
                raise JournalPlaceError(self.url, f"{self.password_file} has mode {mode:04o}: chmod 600 it")
            return self.password_file.read_text().rstrip("\n")
        except OSError as error:
            raise JournalPlaceError(self.url, f"cannot read {self.password_file}: {error.strerror}") from None


JournalPlace: TypeAlias = Path | PostgresPlace


def open_journal(place: JournalPlace) -> RecordJournal:
    """Open or create the journal at `place` as its one writer.

    Raises:
        JournalBusyError: it has a writer.
        JournalPlaceError, JournalLostError: the database cannot be used, or reached.
        CorruptJournalError: it is damaged.
    """
    if isinstance(place, Path):
        return Journal.open(place)
    _check_driver(place)
    from billing.postgres import PostgresJournal  # noqa: PLC0415  an optional extra

    return PostgresJournal.open(place)


def read_records(place: JournalPlace) -> Iterator[bytes]:
    """Yield the records of a journal whose writer goes on; all that were durable when reading began.

    Raises:
        JournalPlaceError, JournalLostError: the database cannot be used, or reached.
        CorruptJournalError: there is no journal, or it is damaged.
    """
    if isinstance(place, Path):
        return read_journal(place)
    _check_driver(place)
    from billing.postgres import read_postgres  # noqa: PLC0415  an optional extra

    return read_postgres(place)


def _check_driver(place: PostgresPlace) -> None:
    try:
        import psycopg  # noqa: F401, PLC0415
        import sqlalchemy  # noqa: F401, PLC0415
    except ImportError as error:
        raise JournalPlaceError(place.url, f"{error}: pip install 'chrysalis-cluster[postgres]'") from None
