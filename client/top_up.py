"""Keeps the payment channel's deposit up, within a bound a day: what is sent is journaled first, and never twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from billing.errors import DeadRequestError, TransferSkippedError
from billing.money import Nanotons
from billing.ton.channel import ChannelState, ChannelStatus, ChannelTerms, channel_account, parse_channel
from billing.ton.channel_states import safe_deposit
from billing.ton.client import ChainClient
from billing.ton.transfer_desk import plan_transfer, send_request, wait_delivered
from billing.ton.transfer_request import TransferRequest
from billing.ton.wallet import Transfer
from client.config import TOP_UP_MIN, ChannelSettings
from client.top_up_store import TopUpStore
from client.wallet import Wallet

__all__ = ["TopUps", "plan_top_up"]

DAY_S = 86_400
VALID_S = 300  # seconds of chain time in which the wallet takes a top-up; afterwards it is void
ARRIVAL_S = 30.0  # for the channel to get what the wallet sent

_log = logging.getLogger(__name__)


def is_short(settings: ChannelSettings, left: int) -> bool:
    """Whether so little is left that the settings want a top-up; never if they want none."""
    return left * 1000 < settings.deposit * settings.top_up_below


def plan_top_up(settings: ChannelSettings, *, left: int, sent_today: int) -> Nanotons:
    """How much to put in now, 0 for nothing: back up to the deposit of the settings, as far as the day's bound allows.

    Args:
        settings: share, deposit and bound.
        left: nanotons that vouchers can still promise.
        sent_today: nanotons put in during the last DAY_S.
    """
    if not is_short(settings, left):
        return Nanotons(0)
    amount = min(settings.deposit - left, settings.top_up_daily_max - sent_today)
    return Nanotons(amount if amount >= TOP_UP_MIN else 0)


class TopUps:
    """Tops up the channels of one wallet. One call at a time."""

    def __init__(
        self,
        settings: ChannelSettings,
        wallet: Wallet,
        chain: ChainClient,
        store: TopUpStore,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings, self._wallet, self._chain, self._store = settings, wallet, chain, store
        self._clock = clock

    async def keep_up(self, terms: ChannelTerms, promised: int) -> ChannelState | None:
        """See an earlier top-up through, and make one if too little is left; the channel's state afterwards, if read.

        Args:
            terms: the channel's.
            promised: nanotons that vouchers have promised or are about to, in all.

        Raises:
            BalanceTooLowError: the wallet cannot pay it.
            BillingError, ChainError, TimeoutError: it was not made, or is not seen yet; call again.
        """
        if not self._settings.top_up_below:
            return None
        if (earlier := self._store.open(terms.channel)) is not None:
            await self._send(earlier)
        account = await channel_account(self._chain, terms)
        state = parse_channel(account)
        now = int(self._clock().timestamp())
        sent = self._store.sent_since(terms.channel, now - DAY_S)
        left = safe_deposit(state).covered - promised
        amount = plan_top_up(self._settings, left=left, sent_today=sent)
        if not amount or state.status is not ChannelStatus.OPEN:
            if is_short(self._settings, left):
                _log.warning("%d nanoton are left in the payment channel, and %d were put in today", left, sent)
            return state
        transfer = Transfer(destination=account.address, amount=amount)
        planned = await plan_transfer(
            self._chain, self._wallet.account, [transfer], purpose="top up a payment channel", valid_s=VALID_S
        )
        request = planned.request.sign(self._wallet.key)
        request = self._store.begin(terms.channel, request, now=now)
        _log.info("topping up the payment channel by %d nanoton", request.amount)
        await self._send(request)
        return parse_channel(await channel_account(self._chain, terms))

    async def _send(self, request: TransferRequest) -> None:
        """Send a journaled request, or find what became of it; its end is noted once the channel has the money."""
        try:
            done = await send_request(self._chain, request)
        except (DeadRequestError, TransferSkippedError) as error:
            self._store.end(request, arrived=False)
            _log.warning("a top-up of the payment channel was not made: %s", error)
            return
        await wait_delivered(self._chain, request.transfers[0].destination, done, timeout_s=ARRIVAL_S)
        self._store.end(request, arrived=True)
