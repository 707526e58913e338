"""Statements: what one party had, what moved and what it has, over a period. Pure, from the entries alone.

A party's money is all that the ledger keeps for it: a client's is what it can spend and what its leases hold; a payee's
is what it has earned and what is on its way to it; the operator's is its fees and capital, less what the chain took. So
holds, releases and batches are no movements, and the balances of all parties sum to what the treasury must hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum

from billing.entries import (
    CHAIN_FEES,
    CHANNEL_LOSSES,
    OPERATOR_CAPITAL,
    OPERATOR_FEES,
    TREASURY,
    Entry,
    EntryKind,
    Posting,
    hold_account,
    receipt_entry_id,
    review_account,
    review_fee_account,
)
from billing.errors import MalformedRecordError
from billing.grant import parse_grant_body
from billing.receipt import Receipt, parse_receipt
from billing.tariff import Usage
from billing.wire import check_size

_ASIDE = ("hold:", "review:", "settling:")
_NOTED = frozenset({EntryKind.REVIEW, EntryKind.REFUSAL})  # listed although a client's money in all stays the same
_OPERATOR = frozenset({OPERATOR_FEES, OPERATOR_CAPITAL, CHAIN_FEES, CHANNEL_LOSSES})


class Role(StrEnum):
    """What a party is to the operator."""

    CLIENT = "client"
    PAYEE = "payee"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, order=True)
class Party:
    """Whose statement it is: a client by its key (32 bytes), a payee by its address (33 bytes), or the operator."""

    role: Role
    name: bytes = b""

    def __post_init__(self) -> None:
        check_size(f"a {self.role}'s name", self.name, {Role.CLIENT: 32, Role.PAYEE: 33, Role.OPERATOR: 0}[self.role])


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one entry does to one party: its money in all, and the part of it that is set aside."""

    amount: int = 0  # nanotons, signed
    aside: int = 0  # to holds of leases, to reviews, or to batches on their way

    def plus(self, posting: Posting, *, aside: bool) -> Share:
        """With one more posting."""
        return Share(amount=self.amount + posting.amount, aside=self.aside + (posting.amount if aside else 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One change of a party's money."""

    at: int  # unix seconds
    kind: EntryKind
    reference: str  # the entry's id: names the request, the transaction or the batch
    amount: int  # nanotons, signed
    price: int = 0  # of a receipt, a review or a refusal: all that its client pays for it, the operator's fee included
    usage: Usage | None = None  # of a receipt
    signed: bytes = b""  # of a receipt, where the operator's copy is at hand: as its host signed it

    @property
    def day(self) -> date:
        """Its date in UTC."""
        return datetime.fromtimestamp(self.at, UTC).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One party and one period: opening balance, movements in order of time, closing balance."""

    party: Party
    start: int  # unix seconds, the first that counts
    end: int  # unix seconds, the first that does not count any more
    opening: int  # nanotons
    movements: tuple[Movement, ...]
    aside: int  # of the closing balance: held for leases, in review, or on its way in batches

    @property
    def closing(self) -> int:
        """The balance at the end, nanotons."""
        return self.opening + sum(movement.amount for movement in self.movements)

    def priced(self, kind: EntryKind) -> int:
        """The prices of all movements of one kind: what went into review, was refused, or was charged in the period."""
        return sum(movement.price for movement in self.movements if movement.kind is kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayTotal:
    """All movements of one kind on one day in UTC."""

    day: date
    kind: EntryKind
    count: int
    amount: int  # nanotons


@dataclass(slots=True)
class Attribution:
    """Says whose money an entry moves. Entries must come in the journal's order: a hold tells whose its lease is."""

    _clients: dict[str, Party] = field(default_factory=dict)  # account of a hold or a review -> client
    _payees: dict[bytes, Party] = field(default_factory=dict)  # request hash of a receipt in review -> payee

    def shares(self, entry: Entry) -> dict[Party, Share]:
        """Return what `entry` does to each party it touches. The treasury, and what channels owe, are nobody's."""
        if entry.kind is EntryKind.HOLD:
            grant = parse_grant_body(entry.data)
            self._clients[hold_account(grant.lease)] = Party(Role.CLIENT, grant.account)
        shares: defaultdict[Party, Share] = defaultdict(Share)
        if entry.kind is EntryKind.REVIEW:
            shares[self._review(entry)]  # nothing of it is the payee's yet, and its statement says so
        elif entry.kind is EntryKind.REFUSAL:
            shares[self._payees[entry.data]]
        for posting in entry.postings:
            for party, part in self._owners(entry, posting):
                shares[party] = shares[party].plus(part, aside=part.account.startswith(_ASIDE))
        return dict(shares)

    def _review(self, entry: Entry) -> Party:
        """Note whose a receipt in review is; returns its payee."""
        receipt = parse_receipt(entry.data)
        for name in (review_account(receipt.request_hash), review_fee_account(receipt.request_hash)):
            self._clients[name] = Party(Role.CLIENT, receipt.account)
        payee = self._payees[receipt.request_hash] = Party(Role.PAYEE, receipt.payee)
        return payee

    def _owners(self, entry: Entry, posting: Posting) -> Iterator[tuple[Party, Posting]]:
        kind, _, name = posting.account.partition(":")
        if posting.account in _OPERATOR:
            yield Party(Role.OPERATOR), posting
        elif kind == "client":
            yield Party(Role.CLIENT, bytes.fromhex(name)), posting
        elif kind in {"hold", "review"}:
            yield self._clients[posting.account], posting
        elif kind == "payee":
            yield Party(Role.PAYEE, bytes.fromhex(name)), posting
        elif kind == "settling" and entry.kind is EntryKind.BATCH:  # one posting for all payees of the batch
            for other in entry.postings:
                if other.account.startswith("payee:"):
                    payee = Party(Role.PAYEE, bytes.fromhex(other.account.removeprefix("payee:")))
                    yield payee, Posting(account=posting.account, amount=-other.amount)
        elif kind == "settling":  # a payout or a requeue names its payee
            yield Party(Role.PAYEE, entry.data), posting
        elif posting.account != TREASURY and kind != "channel":
            raise MalformedRecordError("journal record", f"it moves money of nobody known: {posting.account}")


def make_statement(entries: Iterable[Entry], party: Party, *, start: int, end: int) -> Statement:
    """Return the party's statement of the time from `start` to before `end`, unix seconds.

    Args:
        entries: all of the ledger from its beginning, in the journal's order.
        party: whose.
        start: first second that counts.
        end: first second that does not count any more.

    Raises:
        ValueError: the period ends before it begins.
    """
    if end < start:
        raise ValueError(f"the period ends at {end}, before it begins at {start}")
    attribution, opening, aside = Attribution(), 0, 0
    movements: list[Movement] = []
    for entry in entries:
        share = attribution.shares(entry).get(party)
        if share is None or entry.at >= end:
            continue
        aside += share.aside
        if entry.at < start:
            opening += share.amount
        elif share.amount or entry.kind in _NOTED:
            movements.append(_movement(entry, share.amount))
    movements.sort(key=lambda movement: movement.at)  # a clock may have been set back
    return Statement(party=party, start=start, end=end, opening=opening, movements=tuple(movements), aside=aside)


def spending(receipts: Iterable[Receipt], *, start: int, end: int) -> Statement:
    """Return what a client's own receipts come to, by the times they were issued: to compare with the operator's lines.

    The balances are minus what was spent; what was deposited, receipts do not tell.

    Args:
        receipts: verified ones of one account, in any order.
        start: first second that counts.
        end: first second that does not count any more.

    Raises:
        ValueError: they are of several accounts, or of none.
    """
    known = sorted(receipts, key=lambda receipt: (receipt.issued_at, receipt.request_hash))
    accounts = {receipt.account for receipt in known}
    if len(accounts) != 1:
        raise ValueError(f"a statement is about one account, these receipts are of {len(accounts)}")
    return Statement(
        party=Party(Role.CLIENT, accounts.pop()),
        start=start,
        end=end,
        opening=-sum(receipt.price for receipt in known if receipt.issued_at < start),
        movements=tuple(
            Movement(
                at=receipt.issued_at,
                kind=EntryKind.RECEIPT,
                reference=receipt_entry_id(receipt.request_hash),
                amount=-receipt.price,
                price=receipt.price,
                usage=receipt.usage,
            )
            for receipt in known
            if start <= receipt.issued_at < end
        ),
        aside=0,
    )


def balances(entries: Iterable[Entry], *, end: int) -> dict[Party, Share]:
    """Return what every party had before `end`, unix seconds, by party in order. Who has nothing is left out."""
    attribution = Attribution()
    sums: defaultdict[Party, list[int]] = defaultdict(lambda: [0, 0])
    for entry in entries:
        for party, share in attribution.shares(entry).items():
            if entry.at < end:
                sums[party][0] += share.amount
                sums[party][1] += share.aside
    return {
        party: Share(amount=amount, aside=aside) for party, (amount, aside) in sorted(sums.items()) if amount or aside
    }


def daily_totals(statement: Statement) -> tuple[DayTotal, ...]:
    """Return the movements summed by day and kind, in order: for parties with more receipts than people read."""
    sums: defaultdict[tuple[date, EntryKind], list[int]] = defaultdict(list)
    for movement in statement.movements:
        sums[movement.day, movement.kind].append(movement.amount)
    return tuple(
        DayTotal(day=day, kind=kind, count=len(amounts), amount=sum(amounts))
        for (day, kind), amounts in sorted(sums.items())
    )


def _movement(entry: Entry, amount: int) -> Movement:
    if entry.kind is not EntryKind.RECEIPT:
        price = sum(max(posting.amount, 0) for posting in entry.postings) if entry.kind in _NOTED else 0
        return Movement(at=entry.at, kind=entry.kind, reference=entry.id, amount=amount, price=price)
    receipt = parse_receipt(entry.data)
    return Movement(
        at=entry.at,
        kind=entry.kind,
        reference=entry.id,
        amount=amount,
        price=receipt.price,
        usage=receipt.usage,
        signed=entry.data,
    )
