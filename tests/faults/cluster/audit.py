"""The money after the faults: the operator's journal beside the receipts that the client verified.

python -m tests.faults.cluster.audit FOLDER    # of a network that was kept, or runs
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from billing.entries import Entry, EntryKind
from billing.journal import read_journal
from billing.ledger import Ledger
from billing.receipt import Receipt, parse_receipt
from billing.records import parse_record
from client.receipts import read_receipts


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What became of the client's receipts."""

    verified: int  # receipts that the client holds
    paid: int  # receipts in the journal
    unpaid: int  # the client holds them, the journal does not
    twice: int  # charged more than once
    unlike: int  # charged another price than the client verified
    unseen: int  # charged, and their answers never ended at the client: those that were cut

    def text(self) -> str:
        """For people."""
        return (
            f"{self.verified} receipts verified by the client, {self.paid} paid; "
            f"unpaid {self.unpaid}, charged twice {self.twice}, at another price {self.unlike}, "
            f"charged for answers that were cut {self.unseen}"
        )


def audit_files(journal: Path, receipts: Path) -> Audit:
    """Compare the files of a network that may be running."""
    charged = [parse_receipt(entry.data) for entry in _entries(journal) if entry.kind is EntryKind.RECEIPT]
    return compare(charged, [kept.receipt for kept in read_receipts(receipts)])


def imbalance_of(journal: Path) -> int:
    """The sum of all accounts, replayed from the operator's journal: 0."""
    return Ledger.replay(_entries(journal)).imbalance()


def _entries(journal: Path) -> list[Entry]:
    return [record for record in map(parse_record, read_journal(journal)) if isinstance(record, Entry)]


def compare(charged: Iterable[Receipt], verified: Iterable[Receipt]) -> Audit:
    """Compare receipts by request hash."""
    charged, held = list(charged), {receipt.request_hash: receipt.price for receipt in verified}
    prices = {receipt.request_hash: receipt.price for receipt in charged}
    times = Counter(receipt.request_hash for receipt in charged)
    return Audit(
        verified=len(held),
        paid=len(charged),
        unpaid=len(held.keys() - prices.keys()),
        twice=sum(count > 1 for count in times.values()),
        unlike=sum(prices[name] != held[name] for name in held.keys() & prices.keys()),
        unseen=len(prices.keys() - held.keys()),
    )


if __name__ == "__main__":
    kept = Path(sys.argv[1])
    books = kept / "operator" / "state" / "books.sqlite"
    found = audit_files(books, kept / "client" / "state" / "receipts.sqlite")
    print(f"{found.text()}; ledger imbalance {imbalance_of(books)}")
