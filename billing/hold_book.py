"""What leases hold and have spent. Pure, rebuilt from entries alone.

A hold moves the sum of a grant's slices out of the client's account. Receipts use it, each host within its slice; what
they leave goes back to the client, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from billing.bill import check_terms
from billing.entries import OPERATOR_FEES, Entry, EntryKind, Posting, client_account, hold_account, move, payee_account
from billing.errors import LeaseClosedError, LeaseOpenError, SliceExceededError, UnknownLeaseError
from billing.grant import ANSWER_GRACE_S, Grant, encode_grant, parse_grant_body
from billing.money import Nanotons
from billing.receipt import Receipt

RELEASE_GRACE_S = ANSWER_GRACE_S + 60  # after a lease's end: running answers, then a minute for receipts to come


@dataclass(slots=True, kw_only=True)
class Lease:
    """One hold: what was granted, and what each host has earned of its slice."""

    grant: Grant
    spent: dict[bytes, int] = field(default_factory=dict)
    released: Nanotons | None = None  # what went back to the client, once the hold has ended


def hold_entry(grant: Grant, *, now: int) -> Entry:
    """Move the sum of the grant's slices from the client to the lease's hold."""
    hold = hold_account(grant.lease)
    postings = move(grant.amount, client_account(grant.account), hold)
    return Entry(id=hold, kind=EntryKind.HOLD, postings=postings, at=now, data=encode_grant(grant))


def receipt_entry(entry_id: str, receipt: Receipt, signed: bytes, fee: int, *, now: int) -> Entry:
    """Pay a host's payee, less the operator's fee, out of the lease's hold."""
    parts = (
        Posting(account=hold_account(receipt.lease), amount=-receipt.price),
        Posting(account=payee_account(receipt.payee), amount=receipt.price - fee),
        Posting(account=OPERATOR_FEES, amount=fee),
    )
    return Entry(id=entry_id, kind=EntryKind.RECEIPT, postings=parts, at=now, data=signed)


class HoldBook:
    """All leases. `plan_release` returns an entry or raises; `record` and `spend` take what is about to be applied."""

    def __init__(self) -> None:
        self._leases: dict[bytes, Lease] = {}
        self._accounts: set[bytes] = set()
        self._open: dict[bytes, Lease] = {}  # those whose hold has not ended

    def find(self, lease: bytes) -> Lease | None:
        """Return a lease's state; None: no hold was placed for it."""
        return self._leases.get(lease)

    def lease(self, lease: bytes) -> Lease:
        """Return a lease's state.

        Raises:
            UnknownLeaseError: no hold was placed for it.
        """
        if lease not in self._leases:
            raise UnknownLeaseError(lease.hex())
        return self._leases[lease]

    def releasable(self, now: int, *, grace_s: int) -> Iterator[bytes]:
        """Yield the leases whose holds may end at unix time `now`."""
        for lease, state in self._open.items():
            if now >= state.grant.not_after + grace_s:
                yield lease

    def is_lessee(self, account: bytes) -> bool:
        """Tell whether an account (32 bytes) ever held money for a lease."""
        return account in self._accounts

    def check_receipt(self, receipt: Receipt) -> None:
        """Check that the lease's hold pays this receipt.

        Raises:
            UnknownLeaseError, LeaseClosedError: there is no open hold.
            ReceiptMismatchError: account, model or host is not the lease's.
            PriceMismatchError: usage and tariff give another price.
            SliceExceededError: the host's slice is used up.
        """
        state = self.lease(receipt.lease)
        if state.released is not None:
            raise LeaseClosedError(receipt.lease.hex())
        host = check_terms(receipt, state.grant)
        left = host.slice - state.spent.get(receipt.host_id, 0)
        if receipt.price > left:
            raise SliceExceededError(receipt.host_id.hex(), left, receipt.price)

    def plan_release(self, lease: bytes, balance: int, *, now: int, grace_s: int) -> Entry:
        """End a hold with this balance: what no receipt used goes back to the client.

        Raises:
            UnknownLeaseError: there is no such hold.
            LeaseOpenError: `grace_s` seconds after the lease's end have not passed.
        """
        state = self.lease(lease)
        if state.released is None and now < state.grant.not_after + grace_s:
            raise LeaseOpenError(lease.hex(), state.grant.not_after + grace_s)
        rest = balance if state.released is None else state.released
        postings = move(rest, hold_account(lease), client_account(state.grant.account))
        return Entry(id=f"release:{lease.hex()}", kind=EntryKind.RELEASE, postings=postings, at=now, data=lease)

    def record(self, entry: Entry) -> None:
        """Take a hold."""
        grant = parse_grant_body(entry.data)
        self._leases[grant.lease] = self._open[grant.lease] = Lease(grant=grant)
        self._accounts.add(grant.account)

    def spend(self, receipt: Receipt) -> None:
        """Take a receipt of a lease."""
        spent = self.lease(receipt.lease).spent
        spent[receipt.host_id] = spent.get(receipt.host_id, 0) + receipt.price

    def end(self, lease: bytes, rest: int) -> None:
        """Take the end of a hold, of which `rest` nanotons go back."""
        state = self.lease(lease)
        state.released = Nanotons(rest)
        state.spent.clear()
        self._open.pop(lease, None)
