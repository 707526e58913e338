"""A devnet on which a client pays an operator from its channel; the operator's books, which may be reopened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.books import Books
from billing.money import Nanotons
from billing.payment import CloseOrder, Payment
from billing.ton.channel import ChannelState, ChannelTerms, channel_address, read_channel
from billing.ton.channel_desk import ClientDesk
from billing.ton.channel_office import ChannelOffice, ChannelPolicy
from billing.ton.channel_states import ChannelStates
from billing.ton.channel_watch import ChannelWatch, WatchReport
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet
from billing.ton.settler import Settler
from billing.voucher import Voucher, close_bytes, sign_voucher
from tests.billing.ton.world import CLIENT_KEY, TON, TREASURY_KEY, chain_clock, treasury, wallet_of

OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(b"\x74" * 32)
CLIENT = CLIENT_KEY.public_key().public_bytes_raw()
WALLET = wallet_of(CLIENT_KEY)
DELAY = 86_400
TERMS = ChannelTerms(
    network_id=NETWORK_ID,
    client=WALLET.address,
    client_key=CLIENT,
    operator=treasury().address,
    operator_key=OPERATOR_KEY.public_key().public_bytes_raw(),
    delay_s=DELAY,
    nonce=7,
)
CHANNEL = TERMS.channel.account
POLICY = ChannelPolicy(threshold=Nanotons(TON // 2))


def voucher(total: int, *, key: Ed25519PrivateKey = CLIENT_KEY, terms: ChannelTerms = TERMS) -> bytes:
    return sign_voucher(Voucher(channel=terms.channel, total=Nanotons(total)), key)


def payment(total: int, **changes: Any) -> Payment:
    fields: dict[str, Any] = {"wallet": WALLET.address.hash_part, "delay_s": DELAY, "nonce": TERMS.nonce}
    return Payment(**(fields | {"voucher": voucher(total)} | changes))


@dataclass
class Office:
    """The operator's side over one journal."""

    devnet: Devnet
    chain: ChainClient
    path: Path
    policy: ChannelPolicy = POLICY
    books: Books = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.books = Books.open(self.path)
        clock = chain_clock(self.devnet)
        self.states = ChannelStates(network_id=NETWORK_ID, payee=treasury().address, key=OPERATOR_KEY)
        self.states.attach(self.chain)
        self.office = ChannelOffice(books=self.books, states=self.states, policy=self.policy, clock=clock)
        self.watch = ChannelWatch(books=self.books, states=self.states, policy=self.policy, clock=clock)
        self.settler = Settler(chain=self.chain, books=self.books, wallet=treasury(), key=TREASURY_KEY, clock=clock)

    def restart(self) -> None:
        self.books.close()
        self.open()

    @property
    def client(self) -> ClientDesk:
        return ClientDesk(self.chain, TERMS, WALLET, CLIENT_KEY)

    @property
    def claim(self) -> int:
        known = self.books.ledger.channels.get(CHANNEL)
        return known.claim if known else 0

    @property
    def available(self) -> int:
        return self.books.ledger.available(CLIENT)

    def now(self) -> dict[str, Any]:
        return {"now": chain_clock(self.devnet)()}

    async def take(self, total: int, **changes: Any) -> None:
        await self.office.take(CLIENT, payment(total, **changes))

    async def state(self) -> ChannelState:
        return await read_channel(self.chain, TERMS)

    async def round(self, **changes: int) -> WatchReport:
        return await self.watch.round(**changes)

    async def book(self) -> None:
        """Book what reached the treasury; chain and books then agree to the nanoton."""
        report = await self.settler.tick()
        assert report.reconciliation.difference == 0
        assert self.books.ledger.imbalance() == 0

    async def close(self, total: int, *, valid_s: int = 300, key: Ed25519PrivateKey = CLIENT_KEY) -> Any:
        valid_until = self.devnet.node.clock.now() + valid_s
        signature = key.sign(close_bytes(TERMS.channel, total=Nanotons(total), valid_until=valid_until))
        order = CloseOrder(
            account=CLIENT, payment=payment(1), total=Nanotons(total), valid_until=valid_until, signature=signature
        )
        return await self.office.close(order)

    async def fees(self) -> int:
        """All that the chain took from the client, the channel and the treasury."""
        total = 0
        for address in (WALLET.address, channel_address(TERMS), treasury().address):
            account = await self.chain.account(address)
            total += sum(transaction.cost for transaction in await self.chain.transactions(account))
        return total
