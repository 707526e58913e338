"""Every operation of a payment channel, and the deposit to a treasury beside it."""

from __future__ import annotations

from collections.abc import Iterator

from pytoniq_core import Cell

from bench.costs.payouts import HighloadBench
from bench.costs.world import NETWORK_ID, TON, Cost, World, key_of, public, wallet_of
from billing.money import Nanotons
from billing.ton.channel import (
    ChannelTerms,
    SignedOrder,
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
    channel_address,
    channel_init,
    close_message,
    finish_body,
    redeem_message,
)
from billing.ton.channel_desk import ORDER_VALUE
from billing.ton.deposits import deposit_transfer
from billing.ton.wallet import Transfer
from billing.voucher import Voucher, close_bytes, redemption_bytes, sign_voucher

CLIENT_KEY, OPERATOR_KEY = key_of("client"), key_of("operator")
DELAY = 86_400


class ChannelBench:
    """A client with a deployed wallet, and payment channels that differ by their nonce."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client, self.operator = wallet_of(CLIENT_KEY), wallet_of(OPERATOR_KEY)
        for wallet, key in ((self.client, CLIENT_KEY), (self.operator, OPERATOR_KEY)):
            world.fund(wallet.address, 100)
            world.pay(wallet, key, [Transfer(destination=wallet.address, amount=Nanotons(TON))])

    def terms(self, nonce: int) -> ChannelTerms:
        return ChannelTerms(
            network_id=NETWORK_ID,
            client=self.client.address,
            client_key=public(CLIENT_KEY),
            operator=self.operator.address,
            operator_key=public(OPERATOR_KEY),
            delay_s=DELAY,
            nonce=nonce,
        )

    def operations(self) -> Iterator[tuple[str, Cost]]:
        """Each once, in the life of two channels."""
        first, second = self.terms(1), self.terms(2)
        yield "open", self._open(first)
        yield "top-up", self._pay(Transfer(destination=channel_address(first), amount=Nanotons(TON)))
        yield "redeem", self.world.send(self._redemption(first, TON))
        yield "announce_withdrawal", self._order(first, announce_withdrawal_body(Nanotons(TON // 2)))
        yield "cancel", self._order(first, cancel_body())
        self._order(first, announce_withdrawal_body(Nanotons(TON // 2)))
        self.world.now += DELAY
        yield "finish, withdrawal *", self._order(first, finish_body())
        yield "announce_close", self._order(first, announce_close_body())
        self.world.now += DELAY
        yield "finish, close *", self._order(first, finish_body())
        self._open(second)
        yield "close, by both", self.world.send(self._close(second, TON // 2))

    def deposit(self, highload: HighloadBench) -> Cost:
        """A deposit to a highload treasury in the client's name."""
        return self._pay(deposit_transfer(highload.wallet.address, public(CLIENT_KEY), Nanotons(TON)))

    def _pay(self, transfer: Transfer) -> Cost:
        return self.world.pay(self.client, CLIENT_KEY, [transfer])

    def _open(self, terms: ChannelTerms) -> Cost:
        init = channel_init(terms)
        opening = Transfer(destination=channel_address(terms), amount=Nanotons(5 * TON), state_init=init, bounce=False)
        return self._pay(opening)

    def _order(self, terms: ChannelTerms, body: Cell) -> Cost:
        return self._pay(Transfer(destination=channel_address(terms), amount=ORDER_VALUE, body=body))

    def _redemption(self, terms: ChannelTerms, total: int) -> bytes:
        amount, until = Nanotons(total), self.world.now + 60
        record = redemption_bytes(terms.channel, redeemed=Nanotons(0), total=amount, valid_until=until)
        voucher = sign_voucher(Voucher(channel=terms.channel, total=amount), CLIENT_KEY)
        return redeem_message(channel_address(terms), self._signed(amount, until, voucher[-64:], record))

    def _close(self, terms: ChannelTerms, total: int) -> bytes:
        amount, until = Nanotons(total), self.world.now + 60
        record = close_bytes(terms.channel, total=amount, valid_until=until)
        return close_message(channel_address(terms), self._signed(amount, until, CLIENT_KEY.sign(record), record))

    def _signed(self, total: Nanotons, until: int, client_signature: bytes, record: bytes) -> SignedOrder:
        return SignedOrder(
            total=total,
            valid_until=until,
            client_signature=client_signature,
            operator_signature=OPERATOR_KEY.sign(record),
        )
