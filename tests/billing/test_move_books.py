"""Books moved between places: to the byte, resumable, and never two writers; also with a real PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billing import move_books as moving
from billing.books import Books
from billing.errors import (
    BooksDifferError,
    CorruptJournalError,
    JournalBusyError,
    JournalMovedError,
    JournalPlaceError,
)
from billing.journal import Journal
from billing.journal_place import JournalPlace, PostgresPlace, read_records
from billing.move_books import move_books
from billing.receipt import sign_receipt
from billing.settlement import SettlementPolicy
from chrysalis.cli import app
from tests.billing.support import ACCOUNT, HOST_KEY, NOW, PAYEES, make_grant, make_receipt, public
from tests.chrysalis.operator_files import write_operator

RECEIPTS = 6


def fill(place: JournalPlace) -> list[bytes]:
    """Books with a deposit, a lease, receipts and a batch under way; their records."""
    with Books.open(place) as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=NOW))
        grant = make_grant(1, slices=(100_000,) * 3)
        books.post(books.ledger.plan_hold(grant, now=NOW))
        for number in range(RECEIPTS):
            signed = sign_receipt(make_receipt(grant, number), HOST_KEY)
            books.post_receipt(signed, receipt_key=public(2), payee=PAYEES[0], fee_permille=50, now=NOW)
        books.plan_settlement(SettlementPolicy(threshold=1, dust=1), now=NOW)
    return list(read_records(place))


@pytest.fixture(params=["file-to-file", "file-to-database", "database-to-file"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[JournalPlace, JournalPlace]:
    if request.param == "file-to-file":
        return tmp_path / "old", tmp_path / "new"
    database = request.getfixturevalue("postgres")
    pair = (tmp_path / "books", database)
    return pair if request.param == "file-to-database" else pair[::-1]


def test_every_record_and_every_balance_is_there_and_the_old_books_are_closed(places) -> None:
    old, new = places
    records = fill(old)
    told: list[tuple[int, int]] = []
    moved = move_books(old, new, progress=lambda done, of: told.append((done, of)))
    assert list(read_records(new)) == records
    assert (moved.records, moved.copied, moved.imbalance, moved.batches) == (len(records), len(records), 0, 1)
    assert (moved.treasury, told[-1]) == (500_000, (len(records), len(records)))
    for use in (Books.open, lambda place: list(read_records(place)), lambda place: move_books(place, new)):
        with pytest.raises(JournalMovedError, match="were moved to another place"):
            use(old)
    with Books.open(new) as books:
        books.post(books.ledger.plan_deposit("2", ACCOUNT, 1, now=NOW))
    assert len(list(read_records(new))) == len(records) + 1


def test_a_move_that_was_interrupted_goes_on(places, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = places
    records = fill(old)
    monkeypatch.setattr(moving, "BATCH_RECORDS", 2)

    class KilledError(Exception):
        pass

    def killed(done: int, of: int) -> None:
        if done >= 4:
            raise KilledError

    with pytest.raises(KilledError):
        move_books(old, new, progress=killed)
    with Books.open(old):
        pass  # they are still the books
    moved = move_books(old, new)
    assert (moved.records, moved.copied) == (len(records), len(records) - 4)
    assert list(read_records(new)) == records


def test_a_copy_that_is_whole_and_not_yet_retired_is_only_verified(places, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = places
    records = fill(old)
    with monkeypatch.context() as patch:
        patch.setattr("billing.journal.Journal.retire", lambda _: 1 / 0)
        patch.setattr("billing.postgres.PostgresJournal.retire", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            move_books(old, new)
    assert move_books(old, new).copied == 0
    assert list(read_records(new)) == records


@pytest.mark.parametrize("side", [0, 1])
def test_books_that_somebody_has_open_are_not_moved(places, side: int) -> None:
    fill(places[0])
    with Books.open(places[side]), pytest.raises(JournalBusyError):
        move_books(*places)
    assert move_books(*places).records > 0


def test_other_books_are_not_overwritten(places) -> None:
    old, new = places
    fill(old)
    with Books.open(new) as books:
        books.post(books.ledger.plan_deposit("another", ACCOUNT, 7, now=NOW))
    with pytest.raises(JournalPlaceError, match="it holds other books: record 1 differs"):
        move_books(old, new)
    with Books.open(old), Books.open(new) as books:
        assert books.ledger.available(ACCOUNT) == 7


def test_a_target_with_more_than_the_source_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "new")
    with Books.open(tmp_path / "old") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=NOW))
    with pytest.raises(JournalPlaceError, match="record 2 differs"):
        move_books(tmp_path / "old", tmp_path / "new")


def test_nothing_is_moved_from_nowhere_or_to_where_books_were_moved_away(tmp_path: Path) -> None:
    with pytest.raises(JournalPlaceError, match="no books to move"):
        move_books(tmp_path / "empty", tmp_path / "new")
    fill(tmp_path / "a")
    move_books(tmp_path / "a", tmp_path / "b")
    with pytest.raises(JournalPlaceError, match="moved away from it"):
        move_books(tmp_path / "b", tmp_path / "a")


def test_damaged_books_are_not_moved(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    with Journal.open(tmp_path / "old") as journal:
        journal._database.execute("UPDATE journal SET payload = x'7b7d' WHERE seq = 3")
        journal._database.commit()
    with pytest.raises(CorruptJournalError):
        move_books(tmp_path / "old", tmp_path / "new")


def test_a_copy_that_reads_back_otherwise_leaves_the_old_books_in_force(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "old")
    append = Journal.append

    def worse(journal: Journal, *payloads: bytes) -> int:
        return append(journal, *payloads[:-1], payloads[-1].replace(b"5", b"6", 1))

    monkeypatch.setattr(Journal, "append", worse)
    with pytest.raises(BooksDifferError):
        move_books(tmp_path / "old", tmp_path / "new")
    with Books.open(tmp_path / "old") as books:
        assert books.ledger.treasury() == 500_000


def test_the_command_moves_into_the_database_and_back(postgres: PostgresPlace, tmp_path: Path) -> None:
    settings = write_operator(tmp_path)
    (tmp_path / "state").mkdir()
    records = fill(tmp_path / "state" / "books.sqlite")
    password = ("--to-password", str(postgres.password_file))

    def run(*words: str):
        return CliRunner().invoke(app, ["settle", "move-books", "--config", str(settings), "--json", *words])

    there = run("--to", postgres.url, *password)
    assert there.exit_code == 0, there.output
    said = json.loads(there.stdout)
    assert (said["records"], said["imbalance"], said["treasury"]) == (len(records), 0, 500_000)
    again = run("--to", postgres.url, *password)
    assert (again.exit_code, "JournalMovedError" in again.stderr) == (1, True)
    write_operator(tmp_path, books=postgres.url, books_password=str(postgres.password_file))
    blocked = run("--to", "sqlite")
    assert (blocked.exit_code, "moved away from it" in blocked.stderr) == (1, True)
    for part in (tmp_path / "state").glob("books.sqlite*"):
        part.rename(tmp_path / part.name)
    back = run("--to", "sqlite")
    assert back.exit_code == 0, back.output
    assert list(read_records(tmp_path / "state" / "books.sqlite")) == records
    assert run("--to", "nowhere").exit_code == 1
