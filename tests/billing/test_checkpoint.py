"""A start from a checkpoint is a start from the whole journal, or is none: damage, other books, code or classes."""

import os
import pickle
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from billing import books as books_module
from billing import checkpoint
from billing.books import Books
from billing.checkpoint import TAG, decode_checkpoint, is_due, read_checkpoint
from billing.durable_file import replace_file
from billing.errors import CorruptJournalError
from billing.journal import Journal
from billing.money import Nanotons
from billing.receipt import sign_receipt
from billing.records import parse_record
from billing.settlement import Sent, SettlementPolicy, Signed
from tests.billing.support import ACCOUNT, HOST_KEY, NOW, PAYEES, inside, make_grant, make_receipt, public
from tests.billing.test_settlement import MESSAGE

POLICY = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(1))
GRANT = make_grant(slices=(400_000, 0, 0))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The records that were read and applied since."""
    seen: list[bytes] = []

    def parse(payload: bytes):
        seen.append(payload)
        return parse_record(payload)

    monkeypatch.setattr(books_module, "parse_record", parse)
    monkeypatch.setattr(checkpoint, "RECORDS_MIN", 5)
    return seen


@pytest.fixture
def folder(tmp_path: Path, counted: list[bytes]) -> Iterator[Path]:
    """Books with two receipts, a batch under way, and a checkpoint after eight records; one record follows it."""
    with opened(tmp_path) as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 400_000, now=NOW))
        books.post(books.ledger.plan_hold(GRANT, now=NOW))
        post(books, 1)
        (batch,) = books.plan_settlement(POLICY, now=NOW)
        books.advance(batch.id, Signed(message=MESSAGE), now=NOW)
        books.advance(batch.id, Sent(at=NOW), now=NOW)
        post(books, 2)
        keep(books, tmp_path)
        post(books, 3)
    counted.clear()
    yield tmp_path


def opened(folder: Path) -> Books:
    return Books.open(folder / "books", checkpoint=folder / "checkpoint")


def keep(books: Books, folder: Path) -> None:
    encoded = books.due_checkpoint()
    assert encoded is not None
    replace_file(folder / "checkpoint", encoded)


def post(books: Books, number: int) -> None:
    signed = sign_receipt(make_receipt(GRANT, number), HOST_KEY)
    books.post_receipt(signed, receipt_key=public(2), payee=PAYEES[0], fee_permille=50, now=NOW)


def whole(folder: Path) -> tuple[object, object]:
    """What the journal alone says."""
    with Books.open(folder / "books") as books:
        return inside(books.ledger), dict(books.batches())


def test_only_what_came_after_the_checkpoint_is_read_and_the_books_are_the_same(folder: Path, counted) -> None:
    with opened(folder) as books:
        assert len(counted) == 1
        found = inside(books.ledger), dict(books.batches())
        post(books, 1)  # posted before the checkpoint: nothing happens
        post(books, 3)
        assert len(books._journal) == 9
        post(books, 4)
    assert found[1] and found != whole(folder)
    with opened(folder) as books:
        found = inside(books.ledger), dict(books.batches())
    assert found == whole(folder)


def test_a_checkpoint_is_due_when_the_books_have_grown_enough(folder: Path) -> None:
    with opened(folder) as books:
        assert books.due_checkpoint() is None
        for number in range(4, 8):
            post(books, number)
        keep(books, folder)
        assert books.due_checkpoint() is None
    assert is_due(20_000, 0) and not is_due(1_000_000, 900_001) and is_due(1_000_000, 900_000)


def test_nothing_is_kept_of_what_is_not_durable_or_was_not_applied(folder: Path, monkeypatch) -> None:
    with opened(folder) as books, books.together():
        for number in range(4, 10):
            post(books, number)
        assert books.due_checkpoint() is None
    with opened(folder) as books:
        apply = books._apply
        monkeypatch.setattr(books, "_apply", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            post(books, 10)
        monkeypatch.setattr(books, "_apply", apply)
        post(books, 11)
        assert books.due_checkpoint() is None
        with pytest.raises(ZeroDivisionError), books.together():
            1 / 0  # noqa: B018
        assert books.due_checkpoint() is not None, "they were read back"


@pytest.mark.parametrize("place", [0, len(TAG) + 3, len(TAG) + 40, len(TAG) + 70, -1], ids=str)
def test_a_damaged_one_is_not_used_and_says_so(folder: Path, counted, caplog, place: int) -> None:
    data = bytearray((folder / "checkpoint").read_bytes())
    data[place] ^= 1
    (folder / "checkpoint").write_bytes(data)
    check_not_used(folder, counted, caplog, "damaged")


def test_one_that_is_cut_short_is_not_used(folder: Path, counted, caplog) -> None:
    data = (folder / "checkpoint").read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (folder / "checkpoint").write_bytes(data[:size])
        check_not_used(folder, counted, caplog, "damaged")


def test_that_of_another_version_is_not_used(folder: Path, counted, caplog, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "_code_digest", lambda: bytes(32))
    check_not_used(folder, counted, caplog, "another version")


def test_that_of_other_books_or_of_later_ones_is_not_used(folder: Path, counted, caplog, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    with Books.open(other / "books") as books:
        for number in range(9):
            books.post(books.ledger.plan_deposit(str(number), ACCOUNT, 5, now=NOW))
    shutil.copy(folder / "checkpoint", other / "checkpoint")
    counted.clear()
    check_not_used(other, counted, caplog, "not of this journal")
    older = tmp_path_factory.mktemp("older")
    with Journal.open(folder / "books") as journal, Journal.open(older / "books") as restored:
        restored.append(*list(journal)[:4])
    shutil.copy(folder / "checkpoint", older / "checkpoint")
    check_not_used(older, counted, caplog, "not of this journal")


def check_not_used(folder: Path, counted: list[bytes], caplog, why: str) -> None:
    counted.clear()
    caplog.clear()
    with opened(folder) as books:
        assert len(counted) == len(books._journal)
        found = inside(books.ledger), dict(books.batches())
    assert why in caplog.text
    assert found == whole(folder)


def test_damage_in_the_journal_before_the_checkpoint_is_found_all_the_same(folder: Path) -> None:
    with Journal.open(folder / "books") as journal:
        journal._database.execute("UPDATE journal SET payload = payload || 'x' WHERE seq = 2")
        journal._database.commit()
    with pytest.raises(CorruptJournalError):
        opened(folder)


@pytest.mark.parametrize("evil", [os.system, eval, Path, Journal, Journal.retire], ids=lambda evil: evil.__name__)
def test_nothing_but_the_parts_of_books_is_ever_made(folder: Path, evil) -> None:
    class Evil:
        def __reduce__(self):
            return evil, (str(folder / "made"),)

    kept = decode_checkpoint((folder / "checkpoint").read_bytes())
    body = (folder / "checkpoint").read_bytes()[len(TAG) + 32 :][: 32 + 8 + 32] + pickle.dumps((Evil(), {}))
    with pytest.raises(ValueError, match="which no books do"):
        decode_checkpoint(TAG + sha256(body).digest() + body)
    assert not (folder / "made").exists() and kept.seq == 8


def test_a_new_one_replaces_the_old_one_or_leaves_it(folder: Path, monkeypatch) -> None:
    before = (folder / "checkpoint").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replace_file(folder / "checkpoint", b"new")
    assert (folder / "checkpoint").read_bytes() == before
    assert (folder / "checkpoint").stat().st_mode & 0o777 == 0o600
    assert read_checkpoint(folder / "nothing") is None
