"""The chain of checksums that every journal keeps, and what the books ask of a journal. Pure.

Every record carries SHA-256(previous checksum | sequence | payload): a record changed, removed or reordered breaks the
chain from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Protocol

from billing.errors import CorruptJournalError

RECORD_SIZE_MAX = 1 << 20
GENESIS = sha256(b"chrysalis/1 journal").digest()


class RecordJournal(Protocol):
    """An append-only list of byte records with one writer, in SQLite (`billing.journal`) or `billing.postgres`."""

    def append(self, *payloads: bytes) -> int:
        """Write records, all or none, and return the last one's sequence number once they are durable."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield all records in order, checking the chain."""

    def checksum(self, seq: int) -> bytes | None:
        """The checksum that stands beside record `seq`; None when there is no such record."""

    def __len__(self) -> int:
        """How many records there are."""

    @property
    def head(self) -> bytes:
        """The last record's checksum, 32 bytes: it covers all records and their order."""

    def retire(self) -> None:
        """Mark the books as moved away, durably; whoever opens or reads them from then on gets `JournalMovedError`."""

    def check(self) -> None:
        """Raise `JournalLostError` when nothing can be written any more and the journal must be opened anew."""

    def close(self) -> None:
        """Let others open the journal."""


def extend_chain(seq: int, checksum: bytes, payloads: Sequence[bytes]) -> list[tuple[int, bytes, bytes]]:
    """Return the rows (sequence, payload, checksum) of `payloads` behind record `seq`.

    Raises:
        ValueError: a record is longer than `RECORD_SIZE_MAX`.
    """
    rows = []
    for payload in payloads:
        if len(payload) > RECORD_SIZE_MAX:
            raise ValueError(f"a record has at most {RECORD_SIZE_MAX} bytes, got {len(payload)}")
        seq += 1
        checksum = _link(checksum, seq, payload)
        rows.append((seq, payload, checksum))
    return rows


def follow_chain(where: str, seq: int, checksum: bytes, row: Sequence[object]) -> bytes:
    """Return the checksum of `row`, the record after `seq`.

    Args:
        where: the journal's name, for the error.
        seq: number of the record before.
        checksum: of the record before, 32 bytes.
        row: sequence, payload, checksum, as stored.

    Raises:
        CorruptJournalError: it does not follow.
    """
    number, payload, stored = row
    if number != seq + 1:
        raise CorruptJournalError(where, seq, f"record {number} follows")
    if not isinstance(payload, bytes) or not isinstance(stored, bytes):
        raise CorruptJournalError(where, seq, "a record is not bytes")
    expected = _link(checksum, seq + 1, payload)
    if not compare_digest(stored, expected):
        raise CorruptJournalError(where, seq, "checksum differs")
    return expected


def _link(checksum: bytes, seq: int, payload: bytes) -> bytes:
    return sha256(checksum + seq.to_bytes(8, "big") + payload).digest()
