"""The journal in PostgreSQL, one in a database, through SQLAlchemy Core and psycopg.

Two fences keep a second writer out. An advisory lock, held by the session, refuses it at once. And each transaction
moves the one row of `chrysalis_writer` from (our epoch, our last record) to the next: whoever opens the journal raises
the epoch, so a writer that lost its session without noticing changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Row,
    SmallInteger,
    Table,
    create_engine,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from billing.errors import (
    CorruptJournalError,
    JournalBusyError,
    JournalLostError,
    JournalMovedError,
    JournalPlaceError,
)
from billing.record_chain import GENESIS, extend_chain, follow_chain

if TYPE_CHECKING:
    from billing.journal_place import PostgresPlace

LOCK = int.from_bytes(b"chrysali", "big")  # the advisory lock's number in the database
PAGE = 1000  # records read at once
WRITER, MOVED = 1, 2  # rows of `chrysalis_writer`
CONNECT_S = 10
_SETTINGS = (
    "-c synchronous_commit=on -c statement_timeout=60000 -c lock_timeout=10000 "
    # the server must let go of the lock of a machine that died, before its successor stops waiting
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
_READ_ONLY = "-c default_transaction_read_only=on"
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}

_tables = MetaData()
_journal = Table(
    "chrysalis_journal",
    _tables,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)
_writer = Table(
    "chrysalis_writer",
    _tables,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),  # WRITER; MOVED once the books were moved away
    Column("epoch", BigInteger, nullable=False),  # how often the journal was opened
    Column("seq", BigInteger, nullable=False),  # the last record
)


class PostgresJournal:
    """An append-only list of byte records. When the connection fails it is lost: it never goes on by itself."""

    def __init__(self, place: str, connection: Connection) -> None:
        self._place, self._connection = place, connection
        self._epoch = self._seq = 0
        self._checksum = GENESIS
        self._lost = ""  # why

    @classmethod
    def open(cls, place: PostgresPlace) -> PostgresJournal:
        """Open or create the journal, alone.

        Raises:
            JournalBusyError: it has a writer.
            JournalPlaceError: the server would forget what it confirmed.
            JournalLostError: the server cannot be reached.
            CorruptJournalError: the chain breaks, or its end is missing.
            JournalMovedError: the books were moved away.
        """
        connection = _connect(place, _SETTINGS)
        journal = cls(place.url, connection)
        try:
            journal._take()
        except BaseException:
            journal.close()
            raise
        return journal

    def append(self, *payloads: bytes) -> int:
        """Write records, all or none, and return the last one's sequence number once they are durable.

        Raises:
            JournalLostError: another writer has the journal, or the database failed. It stays so.
        """
        rows = extend_chain(self._seq, self._checksum, payloads)
        if not rows:
            return self._seq
        with self._transaction():
            self._move(rows[-1][0])
            self._connection.execute(insert(_journal), [dict(zip(_journal.c.keys(), row, strict=True)) for row in rows])
        self._seq, _, self._checksum = rows[-1]
        return self._seq

    def __iter__(self) -> Iterator[bytes]:
        """Yield all records in order, checking the chain.

        Raises:
            CorruptJournalError: at the first record that does not follow.
            JournalLostError: the database failed.
        """
        seq, checksum = 0, GENESIS
        for row in _rows(self._connection, self._transaction):
            checksum = follow_chain(self._place, seq, checksum, row)
            seq += 1
            yield row.payload
        if seq < self._seq:
            raise CorruptJournalError(self._place, seq, "records are missing")
        self._seq, self._checksum = seq, checksum

    def checksum(self, seq: int) -> bytes | None:
        """The checksum that stands beside record `seq`; None when there is no such record.

        Raises:
            JournalLostError: the database failed.
        """
        with self._transaction():
            return self._connection.scalar(select(_journal.c.checksum).where(_journal.c.seq == seq))

    def __len__(self) -> int:
        return self._seq

    @property
    def head(self) -> bytes:
        """The last record's checksum, 32 bytes."""
        return self._checksum

    def retire(self) -> None:
        """Mark the books as moved away. They stay where they are, and are opened no more.

        Raises:
            JournalLostError: another writer has the journal, or the database failed.
        """
        with self._transaction():
            self._move(self._seq)
            self._connection.execute(insert(_writer).values(id=MOVED, epoch=self._epoch, seq=self._seq))

    def check(self) -> None:
        """Raise `JournalLostError` when another writer has the journal or the database does not answer."""
        with self._transaction():
            writer = select(_writer.c.epoch, _writer.c.seq).where(_writer.c.id == WRITER)
            found = self._connection.execute(writer).one_or_none()
            if found is None or tuple(found) != (self._epoch, self._seq):
                self._give_up()

    def close(self) -> None:
        """End the session, and with it the lock."""
        _close(self._connection)

    def _take(self) -> None:
        with self._transaction():
            for setting in ("fsync", "full_page_writes"):
                if self._connection.scalar(text(f"SHOW {setting}")) != "on":
                    raise JournalPlaceError(self._place, f"its server runs with {setting} = off and would lose money")
            if not self._connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
                raise JournalBusyError(self._place)
            _tables.create_all(self._connection)
            _check_not_moved(self._connection, self._place)
            self._connection.execute(upsert(_writer).values(id=WRITER, epoch=0, seq=0).on_conflict_do_nothing())
            opened = (
                update(_writer)
                .where(_writer.c.id == WRITER)
                .values(epoch=_writer.c.epoch + 1)
                .returning(_writer.c.epoch, _writer.c.seq)
            )
            self._epoch, last = self._connection.execute(opened).one()
        for _ in self:
            pass
        if self._seq != last:
            raise CorruptJournalError(self._place, self._seq, f"it had {last} records")

    def _move(self, seq: int) -> None:
        mine = (_writer.c.id == WRITER) & (_writer.c.epoch == self._epoch) & (_writer.c.seq == self._seq)
        if self._connection.execute(update(_writer).where(mine).values(seq=seq)).rowcount != 1:
            self._give_up()

    def _give_up(self) -> NoReturn:
        self._lost = "another writer has opened it"
        raise JournalLostError(self._place, self._lost)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._lost:
            raise JournalLostError(self._place, self._lost)
        try:
            with self._connection.begin():
                yield
        except SQLAlchemyError as error:
            self._lost = _reason(error)
            raise JournalLostError(self._place, self._lost) from None


def read_postgres(place: PostgresPlace) -> Iterator[bytes]:
    """Yield the records of a journal that another process may be writing to. Changes and locks nothing.

    Raises:
        JournalLostError: the server cannot be reached.
        CorruptJournalError: there is no journal, or its chain breaks.
        JournalMovedError: it was moved away.
    """
    connection = _connect(place, _READ_ONLY)
    seq, checksum = 0, GENESIS
    try:
        with connection.begin():
            _check_not_moved(connection, place.url)
        for row in _rows(connection, connection.begin):
            checksum = follow_chain(place.url, seq, checksum, row)
            seq += 1
            yield row.payload
    except ProgrammingError as error:
        raise CorruptJournalError(place.url, seq, _reason(error)) from None
    except SQLAlchemyError as error:
        raise JournalLostError(place.url, _reason(error)) from None
    finally:
        _close(connection)


def _check_not_moved(connection: Connection, place: str) -> None:
    if connection.execute(select(_writer.c.id).where(_writer.c.id == MOVED)).one_or_none() is not None:
        raise JournalMovedError(place)


def _rows(
    connection: Connection, transaction: Callable[[], AbstractContextManager[object]]
) -> Iterator[Row[tuple[int, bytes, bytes]]]:
    after = 0
    while True:
        with transaction():
            page = connection.execute(
                select(_journal).where(_journal.c.seq > after).order_by(_journal.c.seq).limit(PAGE)
            ).all()
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].seq


def _connect(place: PostgresPlace, options: str) -> Connection:
    url = make_url(place.url).set(drivername="postgresql+psycopg")
    if (password := place.password()) is not None:
        url = url.set(password=password)
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,  # of errors: records tell who asked whom
        connect_args=_KEEPALIVE | {"connect_timeout": CONNECT_S, "options": options, "application_name": "chrysalis"},
    )
    try:
        return engine.connect()
    except SQLAlchemyError as error:
        raise JournalLostError(place.url, _reason(error)) from None


def _close(connection: Connection) -> None:
    with suppress(SQLAlchemyError):
        connection.close()


def _reason(error: SQLAlchemyError) -> str:
    """The server's or driver's own words, one line; no statement, no parameters."""
    return str(getattr(error, "orig", None) or type(error).__name__).strip().partition("\n")[0]
