"""Watches every payment channel that owes something, and redeems in time.

Nothing here needs a record of its own, so a crash at any point loses nothing: the voucher is in the journal; a
redemption is bound to the contract's counter and made anew as the same bytes for two minutes, so it pays once however
often it is sent; what it paid is booked from the treasury's proved history.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from billing.books import Books
from billing.channel_book import ChannelAccount
from billing.credit import REDEMPTION_MIN, Tab, plan_redemption
from billing.errors import BillingError, MessageRejectedError
from billing.money import Nanotons
from billing.ton.channel import ChannelState, ChannelStatus, redeem_message
from billing.ton.channel_desk import redemption_order
from billing.ton.channel_office import ChannelPolicy, is_pending, send_close
from billing.ton.channel_states import ChannelStates

__all__ = ["ChannelWatch", "WatchReport"]

READS_PER_DELAY = 24  # a channel with a claim is read so often within its delay, at least

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    """What one round over the channels did."""

    read: int  # channels whose state was proved
    sent: int  # redemptions sent
    lost: int  # nanotons written off
    trouble: tuple[str, ...]  # which channels could not be seen to, and why


class ChannelWatch:
    """The books are those of the `ChannelOffice`. Rounds may overlap: what they send twice pays once."""

    def __init__(
        self,
        *,
        books: Books,
        states: ChannelStates,
        policy: ChannelPolicy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._books, self._states, self._policy, self._clock = books, states, policy, clock
        self._unpayable: dict[bytes, Nanotons] = {}  # claims that a contract could not pay when it was last read

    async def round(self, *, needed: int = 0) -> WatchReport:
        """Read every channel with a claim that is due, and redeem what cannot or need not wait.

        A claim is redeemed when it reaches the threshold, when it is old, when the client has announced to take money
        out, or when the treasury needs it.

        Args:
            needed: nanotons that the treasury lacks for payouts: then small claims are redeemed too, the largest first.

        Raises:
            ChainError: the chain could not be asked; nothing is lost, try again.
        """
        read, sent, lost, trouble = 0, 0, 0, []
        for channel, known in sorted(self._books.ledger.channels.claims(), key=lambda item: -item[1].claim):
            small = needed > 0 or self._now() >= known.since + self._policy.max_age_s
            least = REDEMPTION_MIN if small else self._policy.threshold
            if not (self._is_worthwhile(channel, known, least) or self._is_due(channel, known)):
                continue
            try:
                terms = self._states.booked_terms(channel, known.client, known.payment)
                state = await self._states.read(channel, terms)
                read += 1
                lost += self._write_off(channel, known, state)
                amount = await self._redeem(channel, known, state, least)
            except BillingError as error:
                trouble.append(f"payment channel {channel.hex()}: {type(error).__name__}: {error}")
                continue
            sent, needed = sent + bool(amount), needed - amount
        return WatchReport(read=read, sent=sent, lost=lost, trouble=tuple(trouble))

    def _is_worthwhile(self, channel: bytes, known: ChannelAccount, least: Nanotons) -> bool:
        return known.claim >= least and self._unpayable.get(channel) != known.claim

    def _is_due(self, channel: bytes, known: ChannelAccount) -> bool:
        state = self._states.known(channel)
        return state is None or self._now() >= state.proved_at + known.payment.delay_s // READS_PER_DELAY

    async def _redeem(self, channel: bytes, known: ChannelAccount, state: ChannelState, least: Nanotons) -> int:
        """Send the latest voucher, if it is time; returns what it will pay, before its fee."""
        if known.closing is not None and is_pending(known.closing, state):
            await send_close(self._states, state.terms, known.closing)
            return 0
        tab = Tab(deposit=state.deposit(), voucher=known.payment.voucher, signed=known.signed)
        amount = plan_redemption(tab, threshold=least)
        if amount is None:
            if state.redeemed == known.redeemed:
                self._unpayable[channel] = known.claim
            return 0
        order = redemption_order(state, known.payment.voucher, self._states.key)
        try:
            await self._states.chain.send(redeem_message(state.address, order))
        except MessageRejectedError as error:  # one under way, mostly: the next proved state shows it
            _log.info("a redemption from %s was not taken: %s", state.address, error)
        return amount

    def _write_off(self, channel: bytes, known: ChannelAccount, state: ChannelState) -> int:
        """Book the loss on a closed channel, once every payment it made is in the treasury's books."""
        if state.status is not ChannelStatus.CLOSED or state.redeemed > known.redeemed:
            return 0
        lost, available = known.claim, self._books.ledger.available(known.client)
        self._books.post(self._books.ledger.channels.plan_loss(channel, available, now=self._now()))
        _log.error("payment channel %s was closed with %d nanoton of vouchers not redeemed", channel.hex(), lost)
        return lost

    def _now(self) -> int:
        return int(self._clock().timestamp())
