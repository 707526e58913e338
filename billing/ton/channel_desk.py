"""What the two parties do with a payment channel: one message each, and the proved state after it.

All may be called again after an error, a redemption too: it pays the difference to what was redeemed. Top-ups are the
exception: after an unknown outcome, look at the balance first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Cell

from billing.credit import check_redeemable
from billing.errors import ChannelRefusesError, WrongContractError
from billing.money import Nanotons, check_nanotons
from billing.ton.channel import (
    ORDER_VALUE,
    RENT_RESERVE,
    ChannelState,
    ChannelStatus,
    ChannelTerms,
    SignedOrder,
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
    channel_account,
    channel_init,
    close_message,
    finish_body,
    parse_channel,
    read_channel,
    redeem_message,
)
from billing.ton.client import ChainClient
from billing.ton.proofs import AccountState, AccountStatus
from billing.ton.wallet import Transfer, Wallet, pay
from billing.voucher import redemption_bytes
from billing.wire import SIGNATURE_SIZE

__all__ = ["ClientDesk", "close_together", "redeem", "redemption_order"]

VALID_S = 120  # of a redemption, at least; at most twice that
DEPLOY_FEE = 1_000_000  # nanotons on top of the first deposit: what its transaction costs, twice over


class ClientDesk:
    """The client's side of one channel: its wallet sends, its clock is given with each call.

    Raises:
        ValueError: the wallet is not the one in the terms; its money could not be taken out again.
    """

    def __init__(self, chain: ChainClient, terms: ChannelTerms, wallet: Wallet, key: Ed25519PrivateKey) -> None:
        if wallet.address != terms.client:
            raise ValueError(f"the channel's client is {terms.client}, the wallet is {wallet.address}")
        self._chain, self._terms, self._wallet, self._key = chain, terms, wallet, key

    async def open(self, amount: Nanotons, *, now: datetime) -> ChannelState:
        """Deploy the channel with `amount` for vouchers; the reserve for rent comes on top, and back with the close.

        Raises:
            WrongContractError: a channel of these terms exists already: top it up, or choose another nonce.
        """
        account = await channel_account(self._chain, self._terms)
        if account.status not in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
            raise WrongContractError(str(account.address), f"the account is {account.status.value}, not new")
        value = Nanotons(check_nanotons(amount, "amount") + RENT_RESERVE + DEPLOY_FEE)
        first = Transfer(destination=account.address, amount=value, state_init=channel_init(self._terms), bounce=False)
        return await self._send(first, account, lambda state: state.payable >= amount, now)

    async def top_up(self, amount: Nanotons, *, now: datetime) -> ChannelState:
        """Add `amount` to the deposit.

        Raises:
            ChannelRefusesError: the channel is closed.
        """
        account = await channel_account(self._chain, self._terms)
        if parse_channel(account).status is ChannelStatus.CLOSED:
            raise ChannelRefusesError("it is closed")
        transfer = Transfer(destination=account.address, amount=check_nanotons(amount, "amount"))
        return await self._send(transfer, account, lambda _: True, now)

    async def announce_withdrawal(self, amount: Nanotons, *, now: datetime) -> ChannelState:
        """Announce to take `amount` out; after the terms' delay, `finish` does."""
        return await self._order(announce_withdrawal_body(amount), ChannelStatus.WITHDRAWING, now)

    async def announce_close(self, *, now: datetime) -> ChannelState:
        """Announce to take everything out and close; after the terms' delay, `finish` does."""
        return await self._order(announce_close_body(), ChannelStatus.CLOSING, now)

    async def cancel(self, *, now: datetime) -> ChannelState:
        """Take nothing out after all."""
        return await self._order(cancel_body(), ChannelStatus.OPEN, now)

    async def finish(self, *, now: datetime) -> ChannelState:
        """Take out what was announced.

        Raises:
            ChannelRefusesError: nothing was announced, or the delay is not over.
        """
        state = await read_channel(self._chain, self._terms)
        if state.status is ChannelStatus.OPEN:
            raise ChannelRefusesError("nothing was announced")
        if state.proved_at < state.due:
            raise ChannelRefusesError(f"the delay is over at unix time {state.due}, it is {state.proved_at}")
        withdrawing = state.status is ChannelStatus.WITHDRAWING
        return await self._order(finish_body(), ChannelStatus.OPEN if withdrawing else ChannelStatus.CLOSED, now)

    async def _order(self, body: Cell, after: ChannelStatus, now: datetime) -> ChannelState:
        account = await channel_account(self._chain, self._terms)
        if parse_channel(account).status is ChannelStatus.CLOSED and after is not ChannelStatus.CLOSED:
            raise ChannelRefusesError("it is closed")
        transfer = Transfer(destination=account.address, amount=ORDER_VALUE, body=body)
        return await self._send(transfer, account, lambda state: state.status is after, now)

    async def _send(
        self, transfer: Transfer, before: AccountState, done: Callable[[ChannelState], bool], now: datetime
    ) -> ChannelState:
        await pay(self._chain, self._wallet, self._key, [transfer], now=now)
        return await _wait(self._chain, before, done)


async def redeem(chain: ChainClient, terms: ChannelTerms, voucher: bytes, key: Ed25519PrivateKey) -> ChannelState:
    """Redeem a signed voucher; the operator's address is paid what is due and there, less fees of about 0.0043 TON.

    Raises:
        MalformedRecordError, BadSignatureError, ChannelMismatchError: it is no voucher for this channel.
        ChannelRefusesError: the contract would refuse it; nothing was sent.
        MessageRejectedError, ChainError, TimeoutError: nothing is lost, call again.
    """
    before = await channel_account(chain, terms)
    state = parse_channel(before)
    await chain.send(redeem_message(before.address, redemption_order(state, voucher, key)))
    return await _wait(chain, before, lambda after: after.redeemed > state.redeemed)


def redemption_order(state: ChannelState, voucher: bytes, key: Ed25519PrivateKey) -> SignedOrder:
    """The operator's order to redeem a signed voucher from a channel in this state.

    The same again for VALID_S seconds of the chain's time and more, as long as nothing was redeemed: what is sent
    again after a crash are the same bytes, without a record of them.

    Raises:
        MalformedRecordError, BadSignatureError, ChannelMismatchError: it is no voucher for this channel.
        ChannelRefusesError: the contract would refuse it.
    """
    total = check_redeemable(state.deposit(), voucher).total
    valid_until = (state.proved_at // VALID_S + 2) * VALID_S
    record = redemption_bytes(state.terms.channel, redeemed=state.redeemed, total=total, valid_until=valid_until)
    return SignedOrder(
        total=total,
        valid_until=valid_until,
        client_signature=voucher[-SIGNATURE_SIZE:],
        operator_signature=key.sign(record),
    )


async def close_together(chain: ChainClient, terms: ChannelTerms, order: SignedOrder) -> ChannelState:
    """Close at once by an order that both signed (`billing.voucher.close_bytes`); either side may send it.

    Raises:
        MessageRejectedError: a signature does not hold, it is too late, or the total is not one the deposit can pay.
    """
    before = await channel_account(chain, terms)
    parse_channel(before)
    await chain.send(close_message(before.address, order))
    return await _wait(chain, before, lambda after: after.status is ChannelStatus.CLOSED)


async def _wait(chain: ChainClient, before: AccountState, done: Callable[[ChannelState], bool]) -> ChannelState:
    """The channel's state as soon as it has a transaction more and `done` holds."""

    def happened(account: AccountState) -> bool:
        return account.last_lt > before.last_lt and account.code is not None and done(parse_channel(account))

    return parse_channel(await chain.wait_for(before.address, happened))
