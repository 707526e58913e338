"""What a statement of the operator's proves to whoever it is about: every receipt in it, and both bills compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from billing.bill import Bill, Finding, compare_bills
from billing.entries import EntryKind, receipt_entry_id, review_entry_id
from billing.errors import BadSignatureError, ReceiptConflictError, ReceiptMismatchError, StatementMismatchError
from billing.receipt import Receipt, parse_receipt, verify_receipt
from billing.statement import Movement, Party, Role, Statement
from billing.wire import KnownSignatures


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedStatement:
    """A statement that holds together, and what is known of its receipts."""

    statement: Statement
    receipts: Mapping[bytes, Receipt]  # by request hash
    verified: int  # receipts signed by a host's key that the checker knows
    unknown_hosts: tuple[bytes, ...]  # ids of hosts whose key it does not know: their receipts are the operator's word

    def compare(self, here: Bill) -> tuple[Finding, ...]:
        """Every request about which the client's own bill and this statement differ, in its period; none is well.

        Own receipts count by the time they were issued, the operator's by the time they were booked; those that are in
        review count for neither.
        """
        start, end = self.statement.start, self.statement.end
        reviewed = {m.reference for m in self.statement.movements if m.kind is EntryKind.REVIEW}
        mine = {
            name: receipt
            for name, receipt in here.receipts.items()
            if name in self.receipts or (start <= receipt.issued_at < end and review_entry_id(name) not in reviewed)
        }
        there = Bill(account=self.statement.party.name, receipts=self.receipts)
        return compare_bills(Bill(account=here.account, receipts=mine), there)


def check_statement(
    statement: Statement,
    party: Party,
    *,
    start: int,
    end: int,
    keys: Mapping[bytes, bytes] | None = None,
    candidates: Iterable[bytes] = (),
) -> CheckedStatement:
    """Check a statement that the operator sent.

    (1) it is about this party and period; (2) each receipt is about this party, and moves what it says; (3) none counts
    twice; (4) it is signed by its host's key.

    Args:
        statement: as it was parsed.
        party: whose was asked for: a client or a payee.
        start: as asked for.
        end: as asked for.
        keys: receipt keys, 32 bytes, by host id: of hosts that were verified before.
        candidates: receipt keys whose host ids are not known; the first that fits a host's receipt is taken for it.

    Raises:
        StatementMismatchError: it is another's, of another time, or a movement lies outside.
        ReceiptMismatchError, ReceiptConflictError, BadSignatureError: a receipt does not bear its movement out.
    """
    if (statement.party, statement.start, statement.end) != (party, start, end):  # (1)
        raise StatementMismatchError("it is about another party or period than was asked for")
    known, wanted, held = dict(keys or {}), tuple(candidates), KnownSignatures()
    receipts: dict[bytes, Receipt] = {}
    unknown: dict[bytes, None] = {}
    for movement in statement.movements:
        if not start <= movement.at < end:
            raise StatementMismatchError(f"{movement.reference} is of {movement.at}, outside the period")
        if movement.kind is not EntryKind.RECEIPT:
            continue
        receipt = _check_movement(movement, party)  # (2)
        if receipt.request_hash in receipts:  # (3)
            raise ReceiptConflictError(receipt.request_hash.hex())
        receipts[receipt.request_hash] = receipt
        if receipt.host_id not in known:
            known.update((receipt.host_id, key) for key in wanted if _fits(movement.signed, key))
        if receipt.host_id in known:
            verify_receipt(movement.signed, known[receipt.host_id], known=held)  # (4)
        else:
            unknown[receipt.host_id] = None
    verified = sum(receipt.host_id not in unknown for receipt in receipts.values())
    return CheckedStatement(
        statement=statement, receipts=receipts, verified=verified, unknown_hosts=tuple(sorted(unknown))
    )


def _check_movement(movement: Movement, party: Party) -> Receipt:
    receipt = parse_receipt(movement.signed)
    if movement.reference != receipt_entry_id(receipt.request_hash):
        raise ReceiptMismatchError("request_hash", receipt.request_hash.hex(), movement.reference)
    name = "account" if party.role is Role.CLIENT else "payee"
    if getattr(receipt, name) != party.name:
        raise ReceiptMismatchError(name, getattr(receipt, name).hex(), party.name.hex())
    fits = movement.amount == -receipt.price if party.role is Role.CLIENT else 0 <= movement.amount <= receipt.price
    if not fits:
        raise StatementMismatchError(f"{movement.reference} moves {movement.amount}, its receipt says {receipt.price}")
    return receipt


def _fits(signed: bytes, key: bytes) -> bool:
    try:
        verify_receipt(signed, key)
    except BadSignatureError:
        return False
    return True
