"""What may be served against a payment channel, and what the client may be asked to sign.

Pure: every function returns a new `Tab` or a number, or raises. The operator's risk is what it has served beyond the
latest voucher: at most the credit it chose to give, 0 by default. The client's risk is what it has signed beyond its
own bill: at most the advance it chose. The deposit counts only as far as the client cannot have taken it back: it must
announce that first, and a proved state shows what was announced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from billing.errors import (
    ChannelMismatchError,
    ChannelRefusesError,
    CreditExceededError,
    OverbilledError,
    StaleDepositError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
)
from billing.money import Nanotons, check_nanotons
from billing.voucher import Channel, Voucher, verify_voucher
from billing.wire import check_size, check_uint

REACTION_S = 600  # before an announced withdrawal is due, to redeem in
REDEMPTION_MIN = Nanotons(10_000_000)  # the contract pays no less at once
_ZERO = Nanotons(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """A payment channel's money, as its proved state shows it."""

    channel: Channel
    client_key: bytes  # 32
    redeemed: Nanotons  # in all, so far
    payable: Nanotons  # what a voucher could still get
    announced: Nanotons  # what of it the client may take when the delay is over; all of it when it closes
    due: int | None  # when that is, unix seconds; None if nothing is announced
    delay_s: int  # between an announcement and its end
    block: int  # the number of the masterchain block it was proved from
    proved_at: int  # that block's time, unix seconds

    def __post_init__(self) -> None:
        check_size("client_key", self.client_key, 32)
        for name in ("redeemed", "payable", "announced"):
            check_nanotons(getattr(self, name), name)
        check_uint("delay_s", self.delay_s, 32)
        check_uint("block", self.block, 32)
        check_uint("proved_at", self.proved_at, 63)

    @property
    def covered(self) -> Nanotons:
        """The highest voucher that is paid whatever the client does, until `good_until`."""
        return Nanotons(self.redeemed + max(self.payable - self.announced, 0))

    @property
    def good_until(self) -> int:
        """Unix seconds until which an announcement made right after the proof cannot be used, less time to react."""
        return self.proved_at + self.delay_s - REACTION_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """What a client has signed and used in one payment channel, as the operator keeps it."""

    deposit: Deposit
    credit: Nanotons = _ZERO  # served beyond the latest voucher at most
    voucher: bytes | None = None  # the latest one, signed
    signed: Nanotons = _ZERO  # its total
    spent: Nanotons = _ZERO  # the bill so far
    held: Nanotons = _ZERO  # the most that answers under way can add to it

    @property
    def exposure(self) -> Nanotons:
        """What was served and no voucher covers yet."""
        return Nanotons(max(self.spent - self.signed, 0))

    @property
    def left(self) -> Nanotons:
        """What may be served beyond all that is spent and held."""
        limit = min(self.signed + self.credit, self.deposit.covered)
        return Nanotons(max(limit - self.spent - self.held, 0))


def take_voucher(tab: Tab, data: bytes) -> Tab:
    """The tab with a newer voucher; the same one again changes nothing.

    Raises:
        MalformedRecordError, BadSignatureError: it is no voucher of this client.
        ChannelMismatchError: it is for another payment channel or network.
        VoucherNotLaterError: one of the same or more was seen.
        VoucherNotCoveredError: the deposit does not cover it.
    """
    if data == tab.voucher:
        return tab
    voucher = _verify(tab.deposit, data)
    if voucher.total <= max(tab.signed, tab.deposit.redeemed):
        raise VoucherNotLaterError(voucher.total, max(tab.signed, tab.deposit.redeemed))
    if voucher.total > tab.deposit.covered:
        raise VoucherNotCoveredError(voucher.total, tab.deposit.covered)
    return replace(tab, voucher=data, signed=voucher.total)


def see_deposit(tab: Tab, deposit: Deposit) -> Tab:
    """The tab with a newer proved state of the same channel; an older one changes nothing.

    Raises:
        ChannelMismatchError: it is another payment channel.
    """
    if deposit.channel != tab.deposit.channel or deposit.client_key != tab.deposit.client_key:
        raise ChannelMismatchError(_name(deposit.channel), _name(tab.deposit.channel))
    return replace(tab, deposit=deposit) if deposit.block > tab.deposit.block else tab


def hold(tab: Tab, amount: Nanotons, *, now: int) -> Tab:
    """The tab with `amount` set aside for an answer or a lease: the most it can cost.

    Raises:
        StaleDepositError: the deposit must be proved anew first.
        CreditExceededError: it is more than vouchers, credit and deposit cover.
    """
    check_nanotons(amount, "amount")
    if now >= tab.deposit.good_until:
        raise StaleDepositError(tab.deposit.good_until, now)
    if amount > tab.left:
        raise CreditExceededError(amount, tab.left)
    return replace(tab, held=Nanotons(tab.held + amount))


def settle(tab: Tab, amount: Nanotons, *, price: Nanotons) -> Tab:
    """The tab after what `amount` was held for has ended and cost `price`, which is at most that.

    Raises:
        ValueError: the price is more than was held for it, or that was not held.
    """
    if not 0 <= price <= amount <= tab.held:
        raise ValueError(f"a price of {price} must be within its hold of {amount}, and that within {tab.held}")
    return replace(tab, spent=Nanotons(tab.spent + price), held=Nanotons(tab.held - amount))


def next_total(tab: Tab, amount: Nanotons) -> Nanotons | None:
    """The voucher to ask for so that `amount` more may be served; None if none is needed.

    Raises:
        VoucherNotCoveredError: the deposit does not reach that far; the client must top it up.
    """
    reach = tab.spent + tab.held + check_nanotons(amount, "amount")
    if reach > tab.deposit.covered:
        raise VoucherNotCoveredError(reach, tab.deposit.covered)
    total = Nanotons(max(reach - tab.credit, 0))
    return total if total > tab.signed else None


def check_asked(asked: Nanotons, billed: Nanotons, *, advance: Nanotons) -> Nanotons:
    """What the client may sign when the operator asks for it: no more than its own bill and an advance.

    Args:
        asked: the voucher's total.
        billed: what the receipts of this channel come to, by the client's own copies.
        advance: the most the client pays before it is served; what answers under way may cost, for example.

    Raises:
        OverbilledError: it is more.
    """
    payable = billed + check_nanotons(advance, "advance")
    if asked > payable:
        raise OverbilledError(asked, payable)
    return check_nanotons(asked, "asked")


def plan_redemption(tab: Tab, *, threshold: Nanotons) -> Nanotons | None:
    """What redeeming the latest voucher now would bring before fees, or None while it can wait.

    It cannot wait once the client has announced to take money out.

    Args:
        tab: with a deposit proved just now.
        threshold: nanotons below which a redemption is not worth its fee as long as the deposit is safe.
    """
    amount = _payout(tab.deposit, tab.signed)
    announced = tab.deposit.due is not None
    return amount if amount >= REDEMPTION_MIN and (announced or amount >= threshold) else None


def check_redeemable(deposit: Deposit, data: bytes) -> Voucher:
    """The voucher in `data`, if the contract would pay on it now.

    Raises:
        MalformedRecordError, BadSignatureError: it is no voucher of this client.
        ChannelMismatchError: it is for another payment channel or network.
        ChannelRefusesError: it was redeemed, or the payout would be below the contract's minimum.
    """
    voucher = _verify(deposit, data)
    if voucher.total <= deposit.redeemed:
        raise ChannelRefusesError(f"it is of {voucher.total} nanoton in all, {deposit.redeemed} were redeemed")
    amount = _payout(deposit, voucher.total)
    if amount < REDEMPTION_MIN:
        raise ChannelRefusesError(f"it would pay {amount} nanoton, the contract pays no less than {REDEMPTION_MIN}")
    return voucher


def _verify(deposit: Deposit, data: bytes) -> Voucher:
    voucher = verify_voucher(data, deposit.client_key)
    if voucher.channel != deposit.channel:
        raise ChannelMismatchError(_name(voucher.channel), _name(deposit.channel))
    return voucher


def _payout(deposit: Deposit, total: Nanotons) -> Nanotons:
    return Nanotons(max(min(total - deposit.redeemed, deposit.payable), 0))


def _name(channel: Channel) -> str:
    return f"{channel.account.hex()} on network {channel.network_id}"
