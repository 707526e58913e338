"""Payment channels as their operator knows them: terms by what clients send, states proved and kept for a while."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.credit import Deposit
from billing.errors import ChainUnreachableError, ChannelTermsError
from billing.money import Nanotons
from billing.payment import Payment
from billing.ton.channel import ChannelState, ChannelStatus, ChannelTerms, channel_account, parse_channel
from billing.ton.client import ChainClient

__all__ = ["SAFETY_MARGIN", "ChannelStates", "safe_deposit"]

SAFETY_MARGIN = Nanotons(1_000_000)  # of a deposit, not counted: five weeks of rent
READS_AT_ONCE, READS_WAITING_MAX = 4, 64


def safe_deposit(state: ChannelState) -> Deposit:
    """The deposit, less what rent may take before it is redeemed."""
    deposit = state.deposit()
    return replace(deposit, payable=Nanotons(max(deposit.payable - SAFETY_MARGIN, 0)))


class ChannelStates:
    """The channels of one operator; one that nobody has read yet is read when it is asked for."""

    def __init__(self, *, network_id: int, payee: Address, key: Ed25519PrivateKey) -> None:
        """`payee` is the treasury, `key` the operator's in the registry: both stand in every channel's terms."""
        self.key = key
        self._network_id, self._payee = network_id, payee
        self._chain: ChainClient | None = None
        self._states: dict[bytes, ChannelState] = {}
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._waiting = 0

    def attach(self, chain: ChainClient) -> None:
        """Give it the way to the chain."""
        self._chain = chain

    @property
    def chain(self) -> ChainClient:
        """The way to the chain.

        Raises:
            ChainUnreachableError: there was none yet.
        """
        if self._chain is None:
            raise ChainUnreachableError("payment channels", "not connected yet")
        return self._chain

    def terms(self, client: bytes, payment: Payment) -> ChannelTerms:
        """The terms of the channel that a client (Ed25519 key, 32 bytes) pays this operator from.

        Raises:
            ChannelTermsError: the contract knows no such terms.
        """
        try:
            return ChannelTerms(
                network_id=self._network_id,
                client=Address((0, payment.wallet)),
                client_key=client,
                operator=self._payee,
                operator_key=self.key.public_key().public_bytes_raw(),
                delay_s=payment.delay_s,
                nonce=payment.nonce,
            )
        except ValueError as error:
            raise ChannelTermsError(str(error)) from error

    def booked_terms(self, channel: bytes, client: bytes, payment: Payment) -> ChannelTerms:
        """The terms of a channel in the books.

        Raises:
            ChannelTermsError: it was made for another treasury or key than the operator has now.
        """
        terms = self.terms(client, payment)
        if terms.channel.account != channel:
            raise ChannelTermsError(
                "it was made for an earlier treasury or key of this operator: redeem it with those, before they change"
            )
        return terms

    def known(self, channel: bytes) -> ChannelState | None:
        """The state last read of the channel with this account id."""
        return self._states.get(channel)

    async def current(self, channel: bytes, terms: ChannelTerms, *, covering: int, now: int) -> ChannelState:
        """The state last read, if nothing announced since can have been used at `now` and it covers so many nanotons;
        otherwise as `read`."""
        state = self._states.get(channel)
        if state is not None and state.status is ChannelStatus.OPEN:
            deposit = safe_deposit(state)
            if now < deposit.good_until and deposit.covered >= covering:
                return state
        return await self.read(channel, terms)

    async def read(self, channel: bytes, terms: ChannelTerms) -> ChannelState:
        """The channel's state, proved now.

        Raises:
            WrongContractError: there is no such channel.
            ChainError: the chain cannot be asked, or too many wait for it.
        """
        if self._waiting >= READS_WAITING_MAX:
            raise ChainUnreachableError("payment channels", f"{self._waiting} wait to be read already")
        self._waiting += 1
        try:
            async with self._reading:
                state = parse_channel(await channel_account(self.chain, terms))
        finally:
            self._waiting -= 1
        newest = self._states.get(channel)
        if newest is None or state.block >= newest.block:
            self._states[channel] = newest = state
        return newest
