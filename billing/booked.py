"""What books say, read beside the writer that has them open."""

from __future__ import annotations

from collections.abc import Iterator

from billing.entries import Entry
from billing.errors import StatementTooLongError
from billing.journal_place import JournalPlace, read_records
from billing.records import parse_record
from billing.statement import Party, Statement, make_statement
from billing.statement_lines import MOVEMENTS_MAX


def read_entries(place: JournalPlace) -> Iterator[Entry]:
    """Yield the ledger's entries from its beginning, as of the moment of the first one.

    Raises:
        JournalError: the books cannot be read, or are damaged.
    """
    for payload in read_records(place):
        if isinstance(record := parse_record(payload), Entry):
            yield record


def read_statement(place: JournalPlace, party: Party, *, start: int, end: int) -> Statement:
    """Return a party's statement; reads all of the books.

    Raises:
        StatementTooLongError: it has more than `MOVEMENTS_MAX` movements.
        JournalError: the books cannot be read, or are damaged.
    """
    statement = make_statement(read_entries(place), party, start=start, end=end)
    if len(statement.movements) > MOVEMENTS_MAX:
        raise StatementTooLongError(len(statement.movements), MOVEMENTS_MAX)
    return statement
