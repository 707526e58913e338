import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import CorruptJournalError, JournalBusyError
from billing.journal import RECORD_SIZE_MAX, Journal, read_journal, repair_journal

RECORDS = [b"record %d " % i + bytes([i]) * (137 * i % 900) for i in range(60)]


def write(path: Path, records: list[bytes]) -> None:
    with Journal.open(path) as journal:
        for record in records:
            journal.append(record)


def read(path: Path) -> list[bytes]:
    with Journal.open(path) as journal:
        return list(journal)


def copy(path: Path, folder: Path) -> Path:
    folder.mkdir()
    for part in path.parent.glob(path.name + "*"):
        shutil.copy(part, folder / part.name)
    return folder / path.name


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS[:3])
    with Journal.open(tmp_path / "j") as journal:
        assert len(journal) == 3
        assert journal.append(*RECORDS[3:5]) == 5
    assert read(tmp_path / "j") == RECORDS[:5]


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j"), pytest.raises(JournalBusyError, match="another process"):
        Journal.open(tmp_path / "j")
    read(tmp_path / "j")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    workers = multiprocessing.get_context("spawn").Pool(1)
    with Journal.open(tmp_path / "j"), workers as pool, pytest.raises(JournalBusyError):
        pool.apply(read, (tmp_path / "j",))


def test_what_was_appended_is_there_after_a_kill(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    for record in RECORDS:
        journal.append(record)
    assert read(copy(tmp_path / "j", tmp_path / "copy")) == RECORDS
    journal.close()


def test_a_log_cut_at_any_byte_leaves_a_prefix(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    for record in RECORDS[:8]:
        journal.append(record)
    size = (tmp_path / "j-wal").stat().st_size
    lengths = set()
    for cut in [*range(0, size, 211), size - 1]:
        path = copy(tmp_path / "j", tmp_path / f"cut{cut}")
        with path.with_name("j-wal").open("r+b") as log:
            log.truncate(cut)
        kept = read_or_repair(path)
        assert kept == RECORDS[: len(kept)]
        lengths.add(len(kept))
    journal.close()
    assert lengths >= set(range(8))


def test_a_file_cut_at_any_byte_is_refused_and_repaired_to_a_prefix(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS)
    size = (tmp_path / "j").stat().st_size
    lengths = set()
    for cut in range(0, size, 509):
        path = copy(tmp_path / "j", tmp_path / f"cut{cut}")
        with path.open("r+b") as file:
            file.truncate(cut)
        with pytest.raises(CorruptJournalError):
            Journal.open(path)
        kept, damaged = repair_journal(path)
        assert read(path) == RECORDS[:kept]
        assert (damaged / "j").stat().st_size == cut
        lengths.add(kept)
    assert len(lengths) > 3


def test_records_cut_off_after_any_one_leave_those_before(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS)
    for kept in reversed(range(len(RECORDS))):
        with closing(sqlite3.connect(tmp_path / "j")) as database, database:
            database.execute("DELETE FROM journal WHERE seq > ?", (kept,))
        assert read(tmp_path / "j") == list(read_journal(tmp_path / "j")) == RECORDS[:kept]


def test_a_reader_sees_what_was_durable_when_it_began_and_disturbs_no_writer(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        journal.append(*RECORDS[:5])
        reader = read_journal(tmp_path / "j")
        seen = [next(reader)]
        journal.append(*RECORDS[5:9])
        assert seen + list(reader) == RECORDS[:5]
        assert list(read_journal(tmp_path / "j")) == RECORDS[:9]
        assert journal.append(RECORDS[9]) == 10


@pytest.mark.parametrize("damage", ["UPDATE journal SET payload = x'00' WHERE seq = 30", "DROP TABLE journal"])
def test_a_reader_refuses_what_a_writer_would(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "j", RECORDS)
    with closing(sqlite3.connect(tmp_path / "j")) as database, database:
        database.execute(damage)
    with pytest.raises(CorruptJournalError):
        list(read_journal(tmp_path / "j"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_never_yields_other_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write(folder / "j", RECORDS)
    raw = bytearray((folder / "j").read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    (folder / "j").write_bytes(raw)
    kept = read_or_repair(folder / "j")
    assert kept == RECORDS[: len(kept)]


def read_or_repair(path: Path) -> list[bytes]:
    try:
        return read(path)
    except CorruptJournalError:
        repair_journal(path)
        return read(path)


def test_damage_that_makes_the_database_s_own_words_unreadable_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS)
    raw = bytearray((tmp_path / "j").read_bytes())
    at = raw.index(b"journal", 100)  # the table's name in the schema
    raw[at] ^= 0x80
    (tmp_path / "j").write_bytes(raw)
    with pytest.raises(CorruptJournalError):
        read(tmp_path / "j")


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE journal SET payload = x'00' WHERE seq = 30", id="changed"),
        pytest.param("DELETE FROM journal WHERE seq = 30", id="removed"),
        pytest.param("UPDATE journal SET payload = 'text' WHERE seq = 30", id="retyped"),
        pytest.param("UPDATE journal SET seq = 99 WHERE seq = 30", id="moved"),
    ],
)
def test_books_that_were_tampered_with_are_refused(tmp_path: Path, statement: str) -> None:
    write(tmp_path / "j", RECORDS)
    with sqlite3.connect(tmp_path / "j") as database:
        database.execute(statement)
    database.close()
    with pytest.raises(CorruptJournalError, match="after record 29"):
        Journal.open(tmp_path / "j")
    kept, _ = repair_journal(tmp_path / "j")
    assert kept == 29
    assert read(tmp_path / "j") == RECORDS[:29]


def test_a_journal_that_vanished_is_a_loss_and_not_a_new_start(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS)
    (tmp_path / "j").unlink()
    with pytest.raises(CorruptJournalError, match="empty or missing"):
        Journal.open(tmp_path / "j")


def test_several_records_are_written_all_or_none(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        with pytest.raises(ValueError, match="at most"):
            journal.append(b"small", b"x" * (RECORD_SIZE_MAX + 1))
        assert list(journal) == []


def test_the_journal_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    write(tmp_path / "j", RECORDS[:1])
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0
