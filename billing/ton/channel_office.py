"""The operator's side of its payment channels: vouchers are taken and booked, channels closed together.

What is believed about a channel is its proved state, kept until an announcement made after the proof could be used
(`Deposit.good_until`). A voucher counts from the moment it is in the journal. `billing.ton.channel_watch` redeems.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from billing.books import Books
from billing.channel_book import AgreedClose, ChannelAccount
from billing.credit import REDEMPTION_MIN, Tab, take_voucher
from billing.errors import (
    BillingError,
    ChainError,
    ChannelEndingError,
    ChannelMismatchError,
    ChannelRefusesError,
    ChannelTermsError,
    InsufficientFundsError,
    MessageRejectedError,
    VoucherNeededError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
)
from billing.money import Nanotons
from billing.payment import CloseOrder, Payment
from billing.ton.channel import (
    ChannelState,
    ChannelStatus,
    ChannelTerms,
    SignedOrder,
    channel_address,
    close_message,
)
from billing.ton.channel_states import ChannelStates, safe_deposit
from billing.voucher import close_bytes, verify_voucher
from billing.wire import check_signature

__all__ = ["ChannelOffice", "ChannelPolicy", "is_pending", "send_close"]

CLOSE_VALID_MAX_S = 600  # while a close may still be executed, nothing is redeemed
_ENDING = {ChannelStatus.CLOSING: "being closed", ChannelStatus.CLOSED: "closed"}
_THRESHOLD = Nanotons(500_000_000)  # a redemption costs 0.0047 TON

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPolicy:
    """Which channels are taken, and when their vouchers are redeemed."""

    accept: bool = True
    delay_min_s: int = 3600  # the contract's own minimum
    threshold: Nanotons = _THRESHOLD  # a claim of this much is redeemed
    max_age_s: int = 86_400  # a smaller one when it is this old

    def __post_init__(self) -> None:
        if type(self.accept) is not bool:
            raise ValueError(f"accept must be true or false, got {self.accept!r}")
        for name in ("delay_min_s", "threshold", "max_age_s"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} must be a whole number, 0 or more, got {value!r}")
        if self.threshold < REDEMPTION_MIN:
            raise ValueError(f"threshold must be at least {REDEMPTION_MIN}: the contract pays no less")


class ChannelOffice:
    """Give it books that nobody else writes to. It waits for the chain only where it has to read a channel."""

    def __init__(
        self,
        *,
        books: Books,
        states: ChannelStates,
        policy: ChannelPolicy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._books, self._states, self._policy, self._clock = books, states, policy, clock

    # --- vouchers -----------------------------------------------------------------------------------------------

    async def take(self, client: bytes, payment: Payment) -> None:
        """Book a voucher; the latest one again changes nothing. Nothing is booked when it is refused.

        Args:
            client: the account that pays, Ed25519 key, 32 bytes.
            payment: the channel's terms and a voucher, neither verified yet.

        Raises:
            ChannelTermsError: this operator takes no channel of these terms, or none at all.
            BadSignatureError, MalformedRecordError: it is no voucher of this client.
            ChannelMismatchError: it is for another channel, network or operator.
            VoucherNotLaterError: a later one was taken.
            ChannelEndingError: the channel is closed, or being closed.
            VoucherNotCoveredError: the deposit does not cover it.
            WrongContractError: there is no such channel on the chain.
            ChainError: the chain cannot be asked now.
        """
        if not self._policy.accept:
            raise ChannelTermsError("it takes none at all: deposit into its treasury (payment: treasury)")
        if payment.delay_s < self._policy.delay_min_s:
            raise ChannelTermsError(f"its delay is {payment.delay_s} s, at least {self._policy.delay_min_s} is asked")
        terms = self._states.terms(client, payment)
        voucher, channel = verify_voucher(payment.voucher, client), terms.channel
        if voucher.channel != channel:
            raise ChannelMismatchError(
                f"{voucher.channel.account.hex()} on network {voucher.channel.network_id}",
                f"{channel.account.hex()} on network {channel.network_id}, by the terms beside it",
            )
        known = self._books.ledger.channels.get(channel.account)
        if known is not None and known.payment == payment:
            return
        if known is not None and voucher.total <= known.signed:  # before the chain is asked
            raise VoucherNotLaterError(voucher.total, known.signed)
        state = await self._look(channel.account, terms, known, covering=voucher.total)
        known = self._books.ledger.channels.get(channel.account)
        if known is not None and known.payment == payment:
            return  # booked meanwhile, by the same request sent twice
        _check_open(state, known)
        take_voucher(Tab(deposit=safe_deposit(state)), payment.voucher)
        channels = self._books.ledger.channels
        self._books.post(channels.plan_voucher(channel.account, client, payment, voucher.total, now=self._now()))

    async def check_covered(self, client: bytes) -> None:
        """Check that what a client has promised is still there, before more of it is held for a lease.

        Raises:
            ChannelEndingError, VoucherNotCoveredError: the client is taking its deposit out. What it has paid can be
                used again as soon as it was redeemed.
            ChannelTermsError: the operator's treasury or key has changed since.
            ChainError: the channel was not read lately, and cannot be read now.
        """
        for channel in self._books.ledger.channels.of_client(client):
            known = self._books.ledger.channels.get(channel)
            if known is None or not known.claim:
                continue
            terms = self._states.booked_terms(channel, client, known.payment)
            state = await self._look(channel, terms, known, covering=known.promised)
            _check_open(state, known)
            covered = safe_deposit(state).covered
            if known.promised > covered:
                raise VoucherNotCoveredError(known.promised, covered)

    async def _look(
        self, channel: bytes, terms: ChannelTerms, known: ChannelAccount | None, *, covering: int
    ) -> ChannelState:
        if known is not None and known.closing is not None:
            return await self._states.read(channel, terms)  # whether it came to that, and whether it still may
        return await self._states.current(channel, terms, covering=covering, now=self._now())

    def explain(self, client: bytes, error: InsufficientFundsError) -> BillingError:
        """What a client without funds has to do: sign a voucher, if it pays from a channel."""
        channels = self._books.ledger.channels
        latest = next((channels.get(channel) for channel in reversed(channels.of_client(client))), None)
        if latest is None:
            return error
        asked = max(latest.promised + error.needed - error.available, latest.signed + 1)
        return VoucherNeededError(asked, latest.signed)

    # --- closing together ---------------------------------------------------------------------------------------

    async def close(self, order: CloseOrder) -> AgreedClose:
        """Close a channel at once as its client signed: the operator has the total, the client the rest.

        The total is at least what the client has spent and what is held for its leases. The claim given up, and both
        signatures, are in the journal before anything is sent. The same order again sends the same bytes again.

        Raises:
            BadSignatureError: the client did not sign this close.
            ChannelRefusesError: no voucher of it was booked, it is too late, or the total is not what is owed.
            ChannelEndingError: it is closed already, or being closed.
            WrongContractError, ChainError: the channel cannot be read.
        """
        client, total, valid_until, now = order.account, order.total, order.valid_until, self._now()
        terms = self._states.terms(client, order.payment)
        channel = terms.channel
        record = close_bytes(channel, total=total, valid_until=valid_until)
        check_signature(record, order.signature, client, "channel close")
        known = self._books.ledger.channels.get(channel.account)
        if known is None:
            raise ChannelRefusesError("no voucher of it was taken: announce the close alone")
        if known.closing is not None and (known.closing.total, known.closing.valid_until) == (total, valid_until):
            await send_close(self._states, terms, known.closing)
            return known.closing
        if not now < valid_until <= now + CLOSE_VALID_MAX_S:
            raise ChannelRefusesError(f"valid_until must be within {CLOSE_VALID_MAX_S} s of {now}, got {valid_until}")
        state = await self._states.read(channel.account, terms)
        _check_open(state, known)
        self._check_total(client, known, state, total)
        agreed = AgreedClose(
            total=total,
            valid_until=valid_until,
            client_signature=order.signature,
            operator_signature=self._states.key.sign(record),
        )
        self._books.post(self._books.ledger.channels.plan_close(channel.account, agreed, now=now))
        await send_close(self._states, terms, agreed)
        return agreed

    def _check_total(self, client: bytes, known: ChannelAccount, state: ChannelState, total: int) -> None:
        owed = known.promised - min(self._books.ledger.available(client), known.promised)
        least, most = max(owed, state.redeemed), min(known.promised, state.redeemed + state.payable)
        if not least <= total <= most:
            raise ChannelRefusesError(
                f"a close at {total} nanoton in all is asked; {least} were redeemed, spent or are held for leases, and "
                f"vouchers and deposit reach to {most}: ask for a total between them, after the leases have ended"
            )

    def _now(self) -> int:
        return int(self._clock().timestamp())


async def send_close(states: ChannelStates, terms: ChannelTerms, close: AgreedClose) -> None:
    """Send the bytes of a close that both signed; whether the contract took them is read from its state."""
    order = SignedOrder(
        total=close.total,
        valid_until=close.valid_until,
        client_signature=close.client_signature,
        operator_signature=close.operator_signature,
    )
    try:
        await states.chain.send(close_message(channel_address(terms), order))
    except (MessageRejectedError, ChainError) as error:
        _log.warning("the close of %s was not taken: %s", channel_address(terms), error)


def is_pending(close: AgreedClose | None, state: ChannelState) -> bool:
    """Tell whether a close can still be executed: until then it counts as final."""
    return close is not None and state.status is not ChannelStatus.CLOSED and state.proved_at < close.valid_until


def _check_open(state: ChannelState, known: ChannelAccount | None) -> None:
    name = state.address.to_str(is_user_friendly=False)
    if state.status in _ENDING:
        raise ChannelEndingError(name, _ENDING[state.status])
    if known is not None and is_pending(known.closing, state):
        raise ChannelEndingError(name, "being closed by both")
