"""Moves books from one place to another, between SQLite and PostgreSQL or within one: the same records, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hmac import compare_digest
from itertools import islice

from billing.books import Books
from billing.errors import BooksDifferError, JournalMovedError, JournalPlaceError
from billing.journal_place import JournalPlace, open_journal
from billing.money import Nanotons
from billing.record_chain import RecordJournal

__all__ = ["MovedBooks", "move_books"]

BATCH_RECORDS, BATCH_BYTES = 1000, 8 << 20  # in one transaction of the new place


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedBooks:
    """What stands in both places, to the byte."""

    records: int
    copied: int  # of them by this call; the others were there from one that was interrupted
    head: bytes  # 32, the last record's checksum: it covers all records and their order
    treasury: Nanotons
    imbalance: int  # 0
    batches: int


def move_books(
    source: JournalPlace, target: JournalPlace, *, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> MovedBooks:
    """Copy books, verify the copy, and retire the old ones; called again after an interruption it goes on.

    Nobody else may have either open, from the first step to the last.

    1. what the target has is the beginning of the source, or nothing;
    2. the rest is copied, in transactions;
    3. every record is read back from both and compared, along both chains of checksums;
    4. ledger and batches rebuilt from both are the same, and in balance;
    5. the source is marked as moved: who opens it from then on is told so.

    Args:
        source: where they are.
        target: where they shall be.
        progress: told after each transaction how many records of how many are there.

    Raises:
        JournalPlaceError: there is nothing to move, or the target holds other books.
        JournalBusyError, JournalLostError, JournalMovedError, CorruptJournalError: as `open_journal`, of either.
        BooksDifferError: the copy is not the same; the source stands as it was.
    """
    old = open_journal(source)
    try:
        if not len(old):
            raise JournalPlaceError(str(source), "there are no books to move")
        new = _open_target(target)
        try:
            copied = _copy(old, new, str(target), progress)  # (1) (2)
            _compare_records(old, new, str(target))  # (3)
            moved = _compare_books(old, new, str(target), copied)  # (4)
            old.retire()  # (5)
            return moved
        finally:
            new.close()
    finally:
        old.close()


def _open_target(target: JournalPlace) -> RecordJournal:
    try:
        return open_journal(target)
    except JournalMovedError:
        why = "books were moved away from it: remove what is left of them there, or name another place"
        raise JournalPlaceError(str(target), why) from None


def _copy(old: RecordJournal, new: RecordJournal, target: str, progress: Callable[[int, int], None]) -> int:
    """Append what is missing; returns how many records that were."""
    there = len(new)
    records = iter(old)
    for number, record in enumerate(new, 1):
        if next(records, None) != record:
            raise JournalPlaceError(target, f"it holds other books: record {number} differs; name an empty place")
    copied = 0
    for batch in _batches(records):
        new.append(*batch)
        copied += len(batch)
        progress(there + copied, len(old))
    return copied


def _batches(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(records, 1)):
        size = len(batch[0])
        while len(batch) < BATCH_RECORDS and size < BATCH_BYTES and (more := next(records, None)) is not None:
            batch.append(more)
            size += len(more)
        yield batch


def _compare_records(old: RecordJournal, new: RecordJournal, target: str) -> None:
    theirs = iter(new)
    for number, record in enumerate(old, 1):
        if next(theirs, None) != record:
            raise BooksDifferError(target, f"record {number} was not read back as it was written")
    if next(theirs, None) is not None or not compare_digest(old.head, new.head):
        raise BooksDifferError(target, "it has more records, or another last checksum")


def _compare_books(old: RecordJournal, new: RecordJournal, target: str, copied: int) -> MovedBooks:
    before, after = Books(old), Books(new)
    pairs = {
        "balances": (dict(before.ledger.balances()), dict(after.ledger.balances())),
        "payees' totals": (before.ledger.totals(), after.ledger.totals()),
        "batches": (dict(before.batches()), dict(after.batches())),
        "imbalance": (0, abs(before.ledger.imbalance()) + abs(after.ledger.imbalance())),
    }
    for name, (here, there) in pairs.items():
        if here != there:
            raise BooksDifferError(target, f"the {name} are not the same")
    return MovedBooks(
        records=len(new),
        copied=copied,
        head=new.head,
        treasury=Nanotons(after.ledger.treasury()),
        imbalance=after.ledger.imbalance(),
        batches=len(after.batches()),
    )
