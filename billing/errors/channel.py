"""What is refused about payment channels and vouchers."""

from __future__ import annotations

from billing.errors.root import BillingError


class ChannelError(BillingError):
    """The payment channel's rules refuse it."""


class ChannelMismatchError(ChannelError):
    """The voucher is for another payment channel, or another network."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the voucher is for payment channel {self.got}, this is {self.expected}"


class VoucherNotLaterError(ChannelError):
    """A voucher of the same or more was seen already."""

    def __init__(self, total: int, seen: int) -> None:
        super().__init__(total, seen)
        self.total = total
        self.seen = seen

    def __str__(self) -> str:
        return f"the voucher is of {self.total} nanoton in all, one of {self.seen} was seen before"


class VoucherNotCoveredError(ChannelError):
    """The deposit cannot pay the voucher, whatever the client does meanwhile."""

    def __init__(self, total: int, covered: int) -> None:
        super().__init__(total, covered)
        self.total = total
        self.covered = covered

    def __str__(self) -> str:
        return (
            f"the voucher is of {self.total} nanoton in all, the payment channel covers {self.covered}: "
            f"deposit at least {self.total - self.covered} more"
        )


class CreditExceededError(ChannelError):
    """Neither vouchers nor credit cover what is asked."""

    def __init__(self, asked: int, left: int) -> None:
        super().__init__(asked, left)
        self.asked = asked
        self.left = left

    def __str__(self) -> str:
        return (
            f"{self.asked} nanoton asked, vouchers and credit cover {self.left} more: "
            f"sign a voucher of at least {self.asked - self.left} more"
        )


class OverbilledError(ChannelError):
    """The operator asks for a voucher above the bill and what may be paid ahead."""

    def __init__(self, asked: int, payable: int) -> None:
        super().__init__(asked, payable)
        self.asked = asked
        self.payable = payable

    def __str__(self) -> str:
        return f"a voucher of {self.asked} nanoton in all is asked, receipts and advance come to {self.payable}"


class StaleDepositError(ChannelError):
    """The deposit was proved too long ago: the client may have taken it since."""

    def __init__(self, good_until: int, now: int) -> None:
        super().__init__(good_until, now)
        self.good_until = good_until
        self.now = now

    def __str__(self) -> str:
        return (
            f"the deposit was safe until unix time {self.good_until}, it is {self.now}: read the payment channel again"
        )


class VoucherNeededError(ChannelError):
    """The client was served up to its last voucher."""

    def __init__(self, asked: int, signed: int) -> None:
        super().__init__(asked, signed)
        self.asked = asked
        self.signed = signed

    def __str__(self) -> str:
        return f"vouchers of {self.signed} nanoton in all are used up or held: sign one of at least {self.asked} in all"


class ChannelEndingError(ChannelError):
    """The client has announced to close the payment channel, or it is closed."""

    def __init__(self, channel: str, status: str) -> None:
        super().__init__(channel, status)
        self.channel = channel
        self.status = status

    def __str__(self) -> str:
        return f"payment channel {self.channel} is {self.status}: cancel that, or open another one with a new nonce"


class ChannelTermsError(ChannelError):
    """The operator does not take this payment channel, whatever is deposited in it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the operator takes no voucher of this payment channel: {self.why}"


class ChannelRefusesError(ChannelError):
    """The contract would refuse what is asked; nothing was sent."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the payment channel would refuse this: {self.why}"
