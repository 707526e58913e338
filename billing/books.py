"""The books: ledger and settlement batches behind one journal. Durable first, visible second.

The one place where records are written; an actor or a command wraps it and adds no rule of its own. Not thread-safe:
one owner at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hmac import compare_digest
from itertools import islice
from pathlib import Path
from types import MappingProxyType, TracebackType

from billing.batch import Anchor, Batch, PayoutState
from billing.checkpoint import Checkpoint, is_due, read_checkpoint
from billing.entries import Entry
from billing.errors import MalformedRecordError, ReceiptMismatchError, SettlementError
from billing.journal_place import JournalPlace, open_journal
from billing.ledger import Ledger
from billing.receipt import verify_receipt
from billing.record_chain import RecordJournal
from billing.records import Record, encode_record, parse_record
from billing.settlement import Event, SettlementPolicy, plan_batches, step
from billing.verdict import UnitVerdict
from billing.wire import KnownSignatures

_log = logging.getLogger(__name__)


class Books:
    """Everything an operator owes and is owed, restored from its journal."""

    def __init__(self, journal: RecordJournal, checkpoint: Path | None = None) -> None:
        self._journal, self._checkpoint = journal, checkpoint
        self._staged: list[bytes] | None = None  # inside `together`: records applied and not yet written
        self._checkpointed: int  # the record that the last checkpoint is after
        self._torn: bool  # some records that were written were not applied
        self._signatures = KnownSignatures()
        self._restore()

    @classmethod
    def open(cls, place: JournalPlace, *, checkpoint: Path | None = None) -> Books:
        """Open or create the books, in an SQLite file or a PostgreSQL database.

        Args:
            place: where the journal is.
            checkpoint: a file that says how the books were at some record, see `billing.checkpoint`.

        Raises:
            JournalBusyError: another process has them open.
            JournalPlaceError, JournalLostError: the database cannot be used, or reached.
            CorruptJournalError: they are damaged; see `billing.journal.repair_journal`.
        """
        journal = open_journal(place)
        try:
            return cls(journal, checkpoint)
        except BaseException:
            journal.close()
            raise

    def commit(self, *records: Record) -> None:
        """Write records in one transaction, then apply them; entries applied before are skipped.

        A sequence of entries that depend on each other must be planned and committed one by one.
        """
        fresh = [record for record in records if self._is_new(record)]
        self.ledger.check_cover(*(record for record in fresh if isinstance(record, Entry)))
        payloads = [encode_record(record) for record in fresh]
        if self._staged is not None:
            self._staged += payloads
        elif payloads:
            self._journal.append(*payloads)
        torn, self._torn = self._torn, True
        for record in fresh:
            self._apply(record, covered=True)
        self._torn = torn

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write everything committed inside in one transaction at the end: one wait for the disk instead of many.

        Inside, the books run ahead of the disk, so nothing may be awaited or told to anybody there. When the end is not
        reached, or the disk refuses, none of it has happened: the books are read back from the journal.
        """
        if self._staged is not None:
            raise RuntimeError("the books are already being written to together")
        staged: list[bytes] = []
        self._staged = staged
        try:
            yield
            self._staged = None
            if staged:
                self._journal.append(*staged)
        except BaseException:
            self._staged = None
            self._restore()
            raise

    def post(self, entry: Entry) -> Entry:
        """Commit one planned entry and return it."""
        self.commit(entry)
        return entry

    def post_receipt(self, signed: bytes, *, receipt_key: bytes, payee: bytes, fee_permille: int, now: int) -> Entry:
        """Verify a host's receipt against what admission attested about it, and pay for it.

        The transcript it names is not compared: every challenge makes a new one, and only a client may have seen it.

        Args:
            signed: the receipt as the enclave signed it.
            receipt_key: Ed25519 key in the host's verdict, 32 bytes.
            payee: TON address in the host's verdict, 33 bytes.
            fee_permille: the operator's share, thousandths.
            now: unix seconds.

        Raises:
            BillingError: the receipt earns nothing; the class says why. It will not get better: acknowledge and log it.
        """
        receipt = verify_receipt(signed, receipt_key, known=self._signatures)
        if not compare_digest(receipt.payee, payee):
            raise ReceiptMismatchError("payee", receipt.payee.hex(), payee.hex())
        entry = self.ledger.plan_receipt(receipt, signed=signed, fee_permille=fee_permille, now=now)
        self.commit(entry, *self.ledger.reviews.plan_late(entry, now=now))
        return entry

    def post_verdict(self, verdict: UnitVerdict, signed: bytes, *, now: int) -> tuple[Entry, ...]:
        """Book a client's verdict, verified before, and what it does to receipts in review; again, nothing happens.

        Returns the verdict's entry, and the first time an outcome for each receipt.

        Raises:
            LedgerError: as `Ledger.plan_verdict`.
        """
        entries = self.ledger.plan_verdict(verdict, signed, now=now)
        self.commit(*entries)
        return entries

    def end_reviews(self, *, now: int, most: int) -> tuple[Entry, ...]:
        """Pay receipts whose time in review is over, `most` of them at once, and return what was booked."""
        entries = self.ledger.plan_review_ends(now=now)[:most]
        self.commit(*entries)
        return entries

    # --- settlement ---------------------------------------------------------------------------------------------

    def batches(self) -> Mapping[str, Batch]:
        """Return all batches by id, read-only."""
        return MappingProxyType(self._batches)

    def open_batches(self) -> tuple[Batch, ...]:
        """Return the batches with work left, oldest first; feed each to `settlement.next_actions`."""
        return tuple(batch for batch in self._batches.values() if not batch.finished)

    def plan_settlement(self, policy: SettlementPolicy, *, now: int, anchor: Anchor | None = None) -> tuple[Batch, ...]:
        """Put everyone who is due into new batches, durably, and return those."""
        batches = plan_batches(
            self.ledger.payables(), policy, now=now, first_sequence=len(self._batches), anchor=anchor
        )
        for batch in batches:
            self.commit(self.ledger.plan_batch(batch, now=now), batch)
        return batches

    def advance(self, batch_id: str, event: Event, *, now: int) -> Batch:
        """Apply an event to a batch, together with the ledger entries it causes, and return the new batch.

        Raises:
            SettlementError: no such batch, or the event does not fit.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            raise SettlementError(f"no batch {batch_id}")
        after = step(batch, event)
        entries = [
            self.ledger.plan_payout(batch, new.payee, now=now)
            if new.state is PayoutState.PAID
            else self.ledger.plan_requeue(batch, new.payee, now=now)
            for old, new in zip(batch.payouts, after.payouts, strict=True)
            if old.state is not new.state
        ]
        self.commit(*entries, after)
        return after

    def due_checkpoint(self) -> bytes | None:
        """Return a checkpoint of the books as they are, to be written where `open` reads it; None: not yet."""
        seq = len(self._journal)
        if self._torn or self._staged is not None or not is_due(seq, self._checkpointed):
            return None
        self._checkpointed = seq
        return Checkpoint(seq=seq, checksum=self._journal.head, ledger=self.ledger, batches=self._batches).encode()

    def check(self) -> None:
        """Raise `JournalLostError` when the books must be opened anew."""
        self._journal.check()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def __enter__(self) -> Books:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _restore(self) -> None:
        """Set ledger and batches to what the journal says, whose chain is checked from the first record on."""
        self.ledger = Ledger()
        self._batches: dict[str, Batch] = {}
        self._checkpointed, self._torn = 0, False
        if (known := self._read_checkpoint()) is not None:
            self.ledger, self._batches, self._checkpointed = known.ledger, known.batches, known.seq
        for payload in islice(self._journal, self._checkpointed, None):
            self._apply(parse_record(payload))

    def _read_checkpoint(self) -> Checkpoint | None:
        known = read_checkpoint(self._checkpoint) if self._checkpoint else None
        if known is not None and self._journal.checksum(known.seq) != known.checksum:
            _log.warning("%s is not of this journal, which is read as a whole", self._checkpoint)
            return None
        return known

    def _is_new(self, record: Record) -> bool:
        if isinstance(record, Entry):
            return not self.ledger.has(record)
        return self._batches.get(record.id) != record

    def _apply(self, record: Record, *, covered: bool = False) -> None:
        if isinstance(record, Entry):
            self.ledger.apply(record, covered=covered)
            return
        if record.id not in self._batches and record.sequence != len(self._batches):
            raise MalformedRecordError("journal record", f"batch {record.sequence} follows {len(self._batches) - 1}")
        self._batches[record.id] = record
