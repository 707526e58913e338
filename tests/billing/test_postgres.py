"""The journal in a real PostgreSQL server that the suite starts; skipped where none is installed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from billing import checkpoint
from billing.books import Books
from billing.durable_file import replace_file
from billing.errors import CorruptJournalError, JournalBusyError, JournalLostError, JournalPlaceError
from billing.journal_place import PostgresPlace, open_journal, read_records
from billing.record_chain import RECORD_SIZE_MAX
from tests.billing.support import ACCOUNT, NOW, make_grant

RECORDS = [b"record %d " % i + bytes([i]) * (137 * i % 900) for i in range(12)]


def write(place: PostgresPlace, records: list[bytes]) -> None:
    journal = open_journal(place)
    for record in records:
        journal.append(record)
    journal.close()


def read(place: PostgresPlace) -> list[bytes]:
    journal = open_journal(place)
    try:
        return list(journal)
    finally:
        journal.close()


def database(place: PostgresPlace) -> str:
    return place.url.partition("@/")[2].partition("?")[0]


def test_what_was_appended_is_read_back_in_order(postgres: PostgresPlace) -> None:
    write(postgres, RECORDS[:3])
    journal = open_journal(postgres)
    assert len(journal) == 3
    assert journal.append(*RECORDS[3:5]) == 5
    journal.check()
    assert journal.append() == 5
    journal.close()
    assert read(postgres) == list(read_records(postgres)) == RECORDS[:5]


def test_more_records_than_a_page_are_read(postgres: PostgresPlace) -> None:
    many = [b"%d" % i for i in range(2500)]
    journal = open_journal(postgres)
    journal.append(*many)
    assert list(journal) == list(read_records(postgres)) == many
    journal.close()


def test_a_second_writer_is_refused(postgres: PostgresPlace) -> None:
    journal = open_journal(postgres)
    with pytest.raises(JournalBusyError):
        open_journal(postgres)
    workers = multiprocessing.get_context("spawn").Pool(1)
    with workers as pool, pytest.raises(JournalBusyError):
        pool.apply(read, (postgres,))
    journal.append(b"still mine")
    journal.close()
    assert read(postgres) == [b"still mine"]


def test_a_writer_whose_lock_was_lost_unnoticed_writes_nothing_more(postgres_server, postgres: PostgresPlace) -> None:
    sleeper = open_journal(postgres)
    sleeper.append(b"one")
    sleeper._connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")  # as a connection pooler may do
    sleeper._connection.commit()
    successor = open_journal(postgres)
    successor.append(b"two")
    for _ in range(2):
        with pytest.raises(JournalLostError, match="another writer"):
            sleeper.append(b"two of another life")
    with pytest.raises(JournalLostError, match="another writer"):
        sleeper.check()
    sleeper.close()
    assert list(successor) == [b"one", b"two"]
    successor.close()


def test_a_writer_whose_session_ended_is_told_and_stays_out(postgres_server, postgres: PostgresPlace) -> None:
    journal = open_journal(postgres)
    journal.append(b"one")
    with postgres_server.connect() as session:
        session.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(postgres)}'"
        )
    with pytest.raises(JournalLostError, match="open it anew"):
        journal.append(b"two")
    with pytest.raises(JournalLostError):
        journal.append(b"two")
    journal.close()
    assert read(postgres) == [b"one"]


def test_confirmed_records_survive_the_death_of_the_server(postgres_server, postgres: PostgresPlace) -> None:
    journal = open_journal(postgres)
    for record in RECORDS:
        journal.append(record)
    postgres_server.kill()
    with pytest.raises(JournalLostError):
        journal.check()
    with pytest.raises(JournalLostError):
        open_journal(postgres)
    with pytest.raises(JournalLostError):
        list(read_records(postgres))
    journal.close()
    postgres_server.start()
    assert read(postgres) == RECORDS


def test_several_records_are_written_all_or_none(postgres_server, postgres: PostgresPlace) -> None:
    write(postgres, RECORDS[:2])
    with postgres_server.connect(database(postgres)) as session:
        session.execute("ALTER TABLE chrysalis_journal ADD CHECK (octet_length(payload) < 3000)")
    journal = open_journal(postgres)
    with pytest.raises(ValueError, match="at most"):
        journal.append(b"small", b"x" * (RECORD_SIZE_MAX + 1))
    with pytest.raises(JournalLostError) as told:
        journal.append(b"small", b"secret" * 1000)
    assert "secret" not in str(told.value)
    journal.close()
    assert read(postgres) == RECORDS[:2]


@pytest.mark.parametrize(
    ("statement", "after"),
    [
        pytest.param("UPDATE chrysalis_journal SET payload = 'x' WHERE seq = 7", 6, id="changed"),
        pytest.param("DELETE FROM chrysalis_journal WHERE seq = 7", 6, id="removed"),
        pytest.param("UPDATE chrysalis_journal SET seq = 99 WHERE seq = 7", 6, id="moved"),
        *(
            pytest.param(f"DELETE FROM chrysalis_journal WHERE seq > {cut}", cut, id=f"cut-after-{cut}")
            for cut in range(len(RECORDS))
        ),
    ],
)
def test_books_that_were_tampered_with_are_refused(postgres_server, postgres, statement: str, after: int) -> None:
    write(postgres, RECORDS)
    with postgres_server.connect(database(postgres)) as session:
        session.execute(statement)
    with pytest.raises(CorruptJournalError, match=f"after record {after}"):
        open_journal(postgres)


def test_a_server_that_forgets_is_refused(postgres_server, postgres: PostgresPlace) -> None:
    postgres_server.stop()
    postgres_server.start("fsync=off")
    try:
        with pytest.raises(JournalPlaceError, match="fsync = off"):
            open_journal(postgres)
    finally:
        postgres_server.stop()
        postgres_server.start()


def test_a_wrong_password_is_refused_and_not_shown(postgres: PostgresPlace, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not this one")
    wrong.chmod(0o600)
    with pytest.raises(JournalLostError, match="password authentication failed") as told:
        open_journal(PostgresPlace(url=postgres.url, password_file=wrong))
    assert "not this one" not in str(told.value)


def test_the_password_may_come_from_pgpassfile(postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:ledger:" + postgres.password())
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert read(PostgresPlace(url=postgres.url)) == []


def test_a_reader_of_nothing_says_so_and_creates_nothing(postgres: PostgresPlace) -> None:
    with pytest.raises(CorruptJournalError, match="does not exist"):
        list(read_records(postgres))
    assert read(postgres) == []


def test_books_are_the_same_after_a_restart_with_a_checkpoint_and_without(
    postgres: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "RECORDS_MIN", 2)
    with Books.open(postgres) as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=NOW))
        with books.together():
            books.post(books.ledger.plan_hold(make_grant(1), now=NOW))
        before = dict(books.ledger.balances())
        encoded = books.due_checkpoint()
    assert encoded is not None
    replace_file(tmp_path / "checkpoint", encoded)
    for path, start in ((None, 0), (tmp_path / "checkpoint", 2)):
        with Books.open(postgres, checkpoint=path) as books:
            assert (dict(books.ledger.balances()), books._checkpointed) == (before, start)
