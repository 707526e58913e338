"""The operator's state is copied while it is written to, and what was copied is a whole state again."""

import threading
from pathlib import Path

import pytest

from billing.journal import Journal, read_journal
from cluster.backup import back_up
from cluster.config import BOOKS_FILE
from cluster.errors import ConfigError
from cluster.relay_service import NOTE_FILE


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "floors").mkdir(parents=True)
    (folder / "hosts.jsonl").write_text("{}\n")
    (folder / "floors" / "intel").write_text("7")
    (folder / NOTE_FILE).write_text('{"pid": 1}')
    return folder


def test_books_that_are_open_are_copied_with_what_is_still_in_their_log(state: Path, tmp_path: Path) -> None:
    with Journal.open(state / BOOKS_FILE) as journal:
        journal.append(*(b"record %d" % number for number in range(100)))
        back_up(state, tmp_path / "copy")
        journal.append(b"later")
    with Journal.open(tmp_path / "copy" / BOOKS_FILE) as copied:
        assert len(copied) == 100
        assert copied.append(b"goes on") == 101


def test_a_backup_under_writes_is_a_valid_beginning_of_the_books(state: Path, tmp_path: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        with Journal.open(state / BOOKS_FILE) as journal:
            while not over.is_set():
                journal.append(*[bytes(500)] * 50)
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(20)
        for number in range(5):
            back_up(state, tmp_path / str(number))
    finally:
        over.set()
        writer.join()
    lengths = [len([*read_journal(tmp_path / str(number) / BOOKS_FILE)]) for number in range(5)]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0


def test_everything_else_is_copied_but_what_names_a_process_of_this_machine(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert back_up(state, target) == 2
    assert (target / "hosts.jsonl").read_text() == "{}\n"
    assert (target / "floors" / "intel").read_text() == "7"
    assert not (target / NOTE_FILE).exists()
    assert (target.stat().st_mode & 0o777, (target / "hosts.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "state"]


def test_an_older_backup_is_not_written_over_and_a_broken_off_one_is_no_backup(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    (tmp_path / "copy.partial").mkdir()
    back_up(state, target)
    (state / "hosts.jsonl").write_text("newer")
    with pytest.raises(ConfigError, match="each backup takes a new folder"):
        back_up(state, target)
    assert (target / "hosts.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("target", ["state/copy", "no-folder/copy"])
def test_where_there_can_be_no_copy_is_refused(state: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError):
        back_up(state, tmp_path / target)
    with pytest.raises(ConfigError, match="is no folder"):
        back_up(tmp_path / "nothing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
