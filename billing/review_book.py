"""Receipts of open hosts, and the verdicts on them: whose money waits, who gets it. Pure, rebuilt from entries alone.

A receipt of a reviewed lease moves its price from the lease's hold into review. It leaves once: to payee and operator,
by a verdict that credits it or when REVIEW_S are over without one, or back to the client, by a verdict that refuses it.

A client may refuse only what it pays others for. The books know of an answer's content nothing, so what copies are of
one unit is the client's word; that is the limit of these rules (docs/LIMITS.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from billing.entries import (
    OPERATOR_FEES,
    Entry,
    EntryKind,
    Posting,
    client_account,
    hold_account,
    payee_account,
    receipt_entry_id,
    review_account,
    review_entry_id,
    review_fee_account,
    verdict_entry_id,
)
from billing.errors import UnknownReviewError, VerdictConflictError, VerdictLateError, VerdictRefusedError
from billing.money import Nanotons
from billing.receipt import Receipt, parse_receipt
from billing.verdict import QUORUM, RESULTS_MAX, UnitVerdict, parse_verdict_body
from billing.wire import SIGNATURE_SIZE

REVIEW_S = 86_400  # after that a receipt is paid: a silent client must not starve owners


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One receipt that waits for its verdict."""

    request_hash: bytes
    account: bytes
    payee: bytes
    model_root: bytes
    price: Nanotons
    fee: Nanotons  # the operator's, of the price
    until: int  # unix seconds: it is paid then
    signed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    account: bytes
    payee: bytes
    model_root: bytes
    credited: bool


class ReviewBook:
    """All receipts in review, and all verdicts. `plan_*` returns entries or raises; `record` takes what was applied."""

    def __init__(self) -> None:
        self._open: dict[bytes, Review] = {}  # by request hash, the oldest first
        self._ended: dict[bytes, _Ended] = {}
        self._verdicts: dict[bytes, UnitVerdict] = {}  # by the request hash of each copy

    def open(self) -> Iterator[Review]:
        """Yield the receipts in review, the oldest first."""
        yield from self._open.values()

    def due(self, now: int) -> list[Review]:
        """Return the receipts whose time in review is over at unix time `now`, the oldest first."""
        return list(takewhile(lambda review: review.until <= now, self._open.values()))

    def verdict_on(self, request_hash: bytes) -> UnitVerdict | None:
        """Return the verdict that names a copy."""
        return self._verdicts.get(request_hash)

    # --- planning -----------------------------------------------------------------------------------------------

    def plan_review(self, receipt: Receipt, signed: bytes, fee: Nanotons, *, now: int) -> Entry:
        """Take a receipt into review. That it keeps to its lease was checked before."""
        postings = (
            Posting(account=hold_account(receipt.lease), amount=-receipt.price),
            Posting(account=review_account(receipt.request_hash), amount=receipt.price - fee),
            Posting(account=review_fee_account(receipt.request_hash), amount=fee),
        )
        return Entry(
            id=review_entry_id(receipt.request_hash), kind=EntryKind.REVIEW, postings=postings, at=now, data=signed
        )

    def plan_late(self, entry: Entry, *, now: int) -> tuple[Entry, ...]:
        """Return what follows a receipt that is just taken into review: the outcome, if a verdict named it before."""
        if entry.kind is not EntryKind.REVIEW:
            return ()
        review = _review(entry)
        verdict = self._verdicts.get(review.request_hash)
        if verdict is None or review.request_hash in self._open or review.request_hash in self._ended:
            return ()
        fits = (review.account, review.model_root) == (verdict.account, self._model_of(verdict))
        first = review.payee not in self._payees(verdict.refused)
        refused = fits and first and len(self._payees(verdict.credited) - {review.payee}) >= QUORUM
        return (plan_outcome(review, credited=not refused, now=now),)

    def plan_verdict(self, verdict: UnitVerdict, *, now: int) -> tuple[Entry, ...]:
        """Return what a verdict on a new unit, whose signature was checked, does to receipts in review.

        Only what is credited has to be known; a receipt of a refused copy that comes later follows the verdict.

        Raises:
            VerdictConflictError: one of the copies has a verdict.
            UnknownReviewError: there is no receipt in review for a copy that needs one.
            VerdictRefusedError: it refuses copies without crediting those of QUORUM other payees.
            VerdictLateError: a copy that it refuses was paid already, because its time in review was over.
        """
        if any(copy in self._verdicts for copy in verdict.copies):
            raise VerdictConflictError(verdict.unit.hex())
        self._check_credited(verdict)
        self._check_refused(verdict)
        return tuple(
            plan_outcome(self._open[copy], credited=copy in verdict.credited, now=now)
            for copy in verdict.copies
            if copy in self._open
        )

    def _check_credited(self, verdict: UnitVerdict) -> None:
        known = [self._find(copy) for copy in verdict.credited]
        known += [found for copy in verdict.refused if (found := self._find(copy, needed=not verdict.credited))]
        for found in known:
            if found is not None and found.account != verdict.account:
                raise VerdictRefusedError(verdict.unit.hex(), "it is about receipts of another account")
        if len({found.model_root for found in known if found is not None}) > 1:
            raise VerdictRefusedError(verdict.unit.hex(), "its copies are of different models")

    def _check_refused(self, verdict: UnitVerdict) -> None:
        if not verdict.refused:
            return
        if not verdict.credited:
            payees = len(self._payees(verdict.refused))
            if payees < RESULTS_MAX:
                raise VerdictRefusedError(
                    verdict.unit.hex(),
                    f"a unit has failed after results of {RESULTS_MAX} payees, these are of {payees}",
                )
        credited = self._payees(verdict.credited)
        known = [found.payee for copy in verdict.refused if (found := self._find(copy, needed=False)) is not None]
        if len(set(known)) < len(known):
            raise VerdictRefusedError(verdict.unit.hex(), "it refuses several copies of one payee")
        for copy in verdict.refused:
            found = self._find(copy, needed=False)
            if isinstance(found, _Ended) and found.credited:
                raise VerdictLateError(copy.hex())
            others = credited - {found.payee} if found is not None else credited
            if verdict.credited and len(others) < QUORUM:
                raise VerdictRefusedError(
                    verdict.unit.hex(),
                    f"it refuses a copy and credits those of {len(others)} other payees, not {QUORUM}",
                )

    def _find(self, copy: bytes, *, needed: bool = True) -> Review | _Ended | None:
        found = self._open.get(copy) or self._ended.get(copy)
        if found is None and needed:
            raise UnknownReviewError(copy.hex())
        return found

    def _payees(self, copies: Iterable[bytes]) -> set[bytes]:
        return {found.payee for copy in copies if (found := self._find(copy, needed=False)) is not None}

    def _model_of(self, verdict: UnitVerdict) -> bytes | None:
        found = (self._find(copy, needed=False) for copy in verdict.copies)
        return next((one.model_root for one in found if one is not None), None)

    # --- applying -----------------------------------------------------------------------------------------------

    def record(self, entry: Entry) -> None:
        """Take in a review, a verdict, or the outcome of a review."""
        if entry.kind is EntryKind.REVIEW:
            review = _review(entry)
            self._open[review.request_hash] = review
        elif entry.kind is EntryKind.VERDICT:
            verdict = parse_verdict_body(entry.data[:-SIGNATURE_SIZE])
            self._verdicts.update(dict.fromkeys(verdict.copies, verdict))
        elif entry.kind is EntryKind.REFUSAL:
            self._end(entry.data, credited=False)

    def credit(self, request_hash: bytes) -> bool:
        """Note that a receipt is paid; False when it was not in review."""
        return self._end(request_hash, credited=True)

    def _end(self, request_hash: bytes, *, credited: bool) -> bool:
        review = self._open.pop(request_hash, None)
        if review is None:
            return False
        self._ended[request_hash] = _Ended(
            account=review.account, payee=review.payee, model_root=review.model_root, credited=credited
        )
        return True


def verdict_entry(verdict: UnitVerdict, signed: bytes, *, now: int) -> Entry:
    """Return the entry that keeps a verdict; it moves no money itself."""
    name = verdict_entry_id(verdict.account, verdict.unit)
    return Entry(id=name, kind=EntryKind.VERDICT, postings=(), at=now, data=signed)


def plan_outcome(review: Review, *, credited: bool, now: int) -> Entry:
    """Return the entry that ends a review: as a receipt that pays, or as a refusal."""
    earned, fee = review.price - review.fee, review.fee
    out = (
        Posting(account=review_account(review.request_hash), amount=-earned),
        Posting(account=review_fee_account(review.request_hash), amount=-fee),
    )
    if credited:
        paid = (
            Posting(account=payee_account(review.payee), amount=earned),
            Posting(account=OPERATOR_FEES, amount=fee),
        )
        return Entry(
            id=receipt_entry_id(review.request_hash),
            kind=EntryKind.RECEIPT,
            postings=out + paid,
            at=now,
            data=review.signed,
        )
    return Entry(
        id=f"refusal:{review.request_hash.hex()}",
        kind=EntryKind.REFUSAL,
        postings=(*out, Posting(account=client_account(review.account), amount=review.price)),
        at=now,
        data=review.request_hash,
    )


def _review(entry: Entry) -> Review:
    receipt = parse_receipt(entry.data)
    fee_account = review_fee_account(receipt.request_hash)
    fee = sum(posting.amount for posting in entry.postings if posting.account == fee_account)
    return Review(
        request_hash=receipt.request_hash,
        account=receipt.account,
        payee=receipt.payee,
        model_root=receipt.model_root,
        price=receipt.price,
        fee=Nanotons(fee),
        until=entry.at + REVIEW_S,
        signed=entry.data,
    )
