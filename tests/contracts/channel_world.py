"""A payment channel in the real TVM, its two parties, and what each of them signs."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell

from billing.money import Nanotons
from billing.ton.channel import (
    ChannelState,
    ChannelTerms,
    SignedOrder,
    channel_init,
    close_message,
    finish_body,
    parse_channel,
    redeem_message,
)
from billing.voucher import Voucher, close_bytes, redemption_bytes, sign_voucher
from tests.contracts.harness import NOW, TON, TREASURY, ContractInVm, Outcome

CLIENT = Address((0, sha256(b"client").digest()))
CLIENT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(b"\x12" * 32)
THIEF_KEY = Ed25519PrivateKey.from_private_bytes(b"\x13" * 32)
DELAY = 86_400
TERMS = ChannelTerms(
    network_id=-777,
    client=CLIENT,
    client_key=CLIENT_KEY.public_key().public_bytes_raw(),
    operator=TREASURY,
    operator_key=OPERATOR_KEY.public_key().public_bytes_raw(),
    delay_s=DELAY,
    nonce=1,
)


class ChannelInVm(ContractInVm):
    """A channel, alone in its own world; every message is one that production code builds."""

    def __init__(self, terms: ChannelTerms = TERMS, *, deposit: int = 5 * TON) -> None:
        super().__init__(channel_init(terms))
        self.terms = terms
        assert self.send(CLIENT, value=deposit, init=self.init).exit_code == 0

    def state(self) -> ChannelState:
        return parse_channel(self.account())

    def redemption(
        self,
        total: int,
        *,
        redeemed: int | None = None,
        client_key: Ed25519PrivateKey = CLIENT_KEY,
        operator_key: Ed25519PrivateKey = OPERATOR_KEY,
        terms: ChannelTerms | None = None,
        valid_until: int | None = None,
    ) -> bytes:
        """The message that redeems `total`; the keyword arguments are what an attacker would try."""
        channel = (terms or self.terms).channel
        amount, until = Nanotons(total), self.now + 60 if valid_until is None else valid_until
        start = self.state().redeemed if redeemed is None else Nanotons(redeemed)
        redemption = redemption_bytes(channel, redeemed=start, total=amount, valid_until=until)
        order = SignedOrder(
            total=amount,
            valid_until=until,
            client_signature=sign_voucher(Voucher(channel=channel, total=amount), client_key)[-64:],
            operator_signature=operator_key.sign(redemption),
        )
        return redeem_message(self.address, order)

    def redeem(self, total: int) -> Outcome:
        return self.external(self.redemption(total))

    def agreement(
        self,
        total: int,
        *,
        client_key: Ed25519PrivateKey = CLIENT_KEY,
        operator_key: Ed25519PrivateKey = OPERATOR_KEY,
        terms: ChannelTerms | None = None,
        valid_until: int | None = None,
    ) -> bytes:
        """The message that closes with `total` for the operator."""
        until = self.now + 60 if valid_until is None else valid_until
        record = close_bytes((terms or self.terms).channel, total=Nanotons(total), valid_until=until)
        order = SignedOrder(
            total=Nanotons(total),
            valid_until=until,
            client_signature=client_key.sign(record),
            operator_signature=operator_key.sign(record),
        )
        return close_message(self.address, order)

    def close(self, total: int) -> Outcome:
        return self.external(self.agreement(total))

    def external(self, boc: bytes) -> Outcome:
        return self.execute(Cell.one_from_boc(boc))

    def order(self, body: Cell, *, sender: Address = CLIENT, value: int = TON // 100) -> Outcome:
        return self.send(sender, body, value=value)

    def finish(self) -> Outcome:
        return self.order(finish_body())


def paid_to(outcome: Outcome, address: Address) -> int:
    """What the messages of one transaction carry to an address."""
    payee = b"\x00" + address.hash_part
    return sum(message.value for message in outcome.transaction.outgoing if message.destination == payee)


__all__ = [
    "CLIENT",
    "CLIENT_KEY",
    "DELAY",
    "NOW",
    "OPERATOR_KEY",
    "TERMS",
    "THIEF_KEY",
    "TON",
    "ChannelInVm",
    "paid_to",
]
