"""What the ledger refuses."""

from __future__ import annotations

from billing.errors.root import BillingError


class LedgerError(BillingError):
    """The ledger refuses the entry."""


class InsufficientFundsError(LedgerError):
    """The account holds less than what is asked of it."""

    def __init__(self, account: str, available: int, needed: int) -> None:
        super().__init__(account, available, needed)
        self.account = account
        self.available = available
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"{self.account} has {self.available} nanoton, {self.needed} needed: "
            f"deposit at least {self.needed - self.available} more"
        )


class _LeaseError(LedgerError):
    """A refusal about one lease, named in hex."""

    text = "{lease}"

    def __init__(self, lease: str) -> None:
        super().__init__(lease)
        self.lease = lease

    def __str__(self) -> str:
        return self.text.format(lease=self.lease)


class UnknownLeaseError(_LeaseError):
    """No hold was ever placed for this lease."""

    text = "no hold exists for lease {lease}: take a lease first"


class UnknownReviewError(LedgerError):
    """A verdict credits a copy of which no receipt is in review."""

    def __init__(self, request_hash: str) -> None:
        super().__init__(request_hash)
        self.request_hash = request_hash

    def __str__(self) -> str:
        return f"no receipt of request {self.request_hash} is known: send it with the verdict"


class VerdictConflictError(LedgerError):
    """The unit, or a copy in it, has another verdict; the first one is final."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self.unit = unit

    def __str__(self) -> str:
        return f"unit {self.unit}: it, or a copy in it, has another verdict already, which is final"


class VerdictRefusedError(LedgerError):
    """The verdict refuses what it may not."""

    def __init__(self, unit: str, why: str) -> None:
        super().__init__(unit, why)
        self.unit, self.why = unit, why

    def __str__(self) -> str:
        return f"unit {self.unit}: {self.why}; its copies are paid when their time in review is over"


class VerdictLateError(LedgerError):
    """A copy that the verdict refuses was paid already: its time in review was over."""

    def __init__(self, request_hash: str) -> None:
        super().__init__(request_hash)
        self.request_hash = request_hash

    def __str__(self) -> str:
        return f"the receipt of request {self.request_hash} was paid before this verdict came: send verdicts at once"


class LeaseClosedError(_LeaseError):
    """The lease's hold has ended; its rest went back to the client."""

    text = "the hold of lease {lease} has ended already: take a new lease"


class LeaseOpenError(LedgerError):
    """The hold may not end yet: its hosts may still hold unposted receipts."""

    def __init__(self, lease: str, until: int) -> None:
        super().__init__(lease, until)
        self.lease = lease
        self.until = until

    def __str__(self) -> str:
        return f"lease {self.lease} may be released from unix time {self.until} on, not before"


class LeaseExpiredError(LedgerError):
    """The lease expired before this happened."""

    def __init__(self, lease: str, expired_at: int, at: int) -> None:
        super().__init__(lease, expired_at, at)
        self.lease = lease
        self.expired_at = expired_at
        self.at = at

    def __str__(self) -> str:
        return f"lease {self.lease} ended at unix time {self.expired_at}, this is of {self.at}: take a new lease"


class ReceiptConflictError(LedgerError):
    """One request is paid once; this is a second, different receipt for it."""

    def __init__(self, request_hash: str) -> None:
        super().__init__(request_hash)
        self.request_hash = request_hash

    def __str__(self) -> str:
        return f"request {self.request_hash} was already paid for by another receipt"


class ReceiptMismatchError(LedgerError):
    """The receipt does not belong to the lease it names."""

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(field, got, expected)
        self.field = field
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the receipt's {self.field} is {self.got}, its lease has {self.expected}"


class PriceMismatchError(LedgerError):
    """The price is not the one that tariff, coefficient and usage give."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the receipt asks {self.got} nanoton, tariff and usage give {self.expected}"


class SliceExceededError(LedgerError):
    """The host's credit slice does not cover the price."""

    def __init__(self, host: str, left: int, price: int) -> None:
        super().__init__(host, left, price)
        self.host = host
        self.left = left
        self.price = price

    def __str__(self) -> str:
        return f"host {self.host} has {self.left} nanoton left of its slice, the receipt asks {self.price}"


class UnknownPayoutError(LedgerError):
    """The batch has no such payout that is neither paid nor requeued."""

    def __init__(self, batch: str, payee: str) -> None:
        super().__init__(batch, payee)
        self.batch = batch
        self.payee = payee

    def __str__(self) -> str:
        return f"batch {self.batch} holds no open payout to {self.payee}"


class EntryConflictError(LedgerError):
    """The id names an entry with other content."""

    def __init__(self, entry: str) -> None:
        super().__init__(entry)
        self.entry = entry

    def __str__(self) -> str:
        return f"entry id {self.entry} was used for other content"


class UnbalancedEntryError(LedgerError):
    """Postings that create or destroy money."""

    def __init__(self, entry: str, total: int) -> None:
        super().__init__(entry, total)
        self.entry = entry
        self.total = total

    def __str__(self) -> str:
        return f"the postings of {self.entry} sum to {self.total}, they must sum to 0"


class OverdraftError(LedgerError):
    """An account that may not go below zero would."""

    def __init__(self, entry: str, account: str, balance: int) -> None:
        super().__init__(entry, account, balance)
        self.entry = entry
        self.account = account
        self.balance = balance

    def __str__(self) -> str:
        return f"{self.entry} would leave {self.account} at {self.balance} nanoton"
