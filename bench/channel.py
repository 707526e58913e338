"""What each operation of a payment channel costs, at mainnet prices in the real TVM.

    python bench/channel.py

The total is all that the chain takes for one operation, from every account it touches: the client's wallet V5, the
channel, and the operator's wallet V5. The devnet runs inside this process.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.money import Nanotons, format_ton
from billing.ton.channel import ChannelState, ChannelTerms, SignedOrder, channel_address
from billing.ton.channel_desk import ClientDesk, close_together, redeem
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import NETWORK_ID, AccountId, Devnet, running_devnet
from billing.ton.wallet import Transfer, Wallet, pay
from billing.voucher import Voucher, close_bytes, sign_voucher

TON = Nanotons(1_000_000_000)
BOUNDS = {"redeem": 8_000_000, "top-up": 3_600_000}  # nanoton
DELAY = 86_400


class Bench:
    """One chain with two wallets; each channel has another nonce."""

    def __init__(self, devnet: Devnet, chain: ChainClient) -> None:
        self.devnet, self.chain = devnet, chain
        self.client_key, self.operator_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.client, self.operator = wallet(self.client_key), wallet(self.operator_key)

    def terms(self, nonce: int) -> ChannelTerms:
        return ChannelTerms(
            network_id=NETWORK_ID,
            client=self.client.address,
            client_key=self.client.public_key,
            operator=self.operator.address,
            operator_key=self.operator.public_key,
            delay_s=DELAY,
            nonce=nonce,
        )

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.devnet.node.clock.now(), UTC)

    async def prepare(self) -> None:
        """Both wallets have money and have sent something, so that their code is deployed."""
        for owner, key in ((self.client, self.client_key), (self.operator, self.operator_key)):
            await self.devnet.node.faucet(AccountId(workchain=0, id=owner.address.hash_part), 100 * TON)
            first = Transfer(destination=owner.address, amount=TON)
            await pay(self.chain, owner, key, [first], now=self.now())

    async def measure(self, name: str, terms: ChannelTerms, act: Callable[[], Awaitable[ChannelState]]) -> ChannelState:
        accounts = (self.client.address, channel_address(terms), self.operator.address)
        before = [(await self.chain.account(address)).last_lt for address in accounts]
        state = await act()
        await asyncio.sleep(0.1)
        total = 0
        for address, lt in zip(accounts, before, strict=True):
            account = await self.chain.account(address)
            total += sum(tx.cost for tx in await self.chain.transactions(account, after_lt=lt))
        bound = f"  (bound {format_ton(BOUNDS[name])})" if name in BOUNDS else ""
        print(f"{name:24} {format_ton(total)}{bound}")
        return state

    def voucher(self, terms: ChannelTerms, total: int) -> bytes:
        return sign_voucher(Voucher(channel=terms.channel, total=Nanotons(total)), self.client_key)

    def close_order(self, terms: ChannelTerms, total: int) -> SignedOrder:
        valid_until = int(self.now().timestamp()) + 60
        record = close_bytes(terms.channel, total=Nanotons(total), valid_until=valid_until)
        return SignedOrder(
            total=Nanotons(total),
            valid_until=valid_until,
            client_signature=self.client_key.sign(record),
            operator_signature=self.operator_key.sign(record),
        )

    async def run(self) -> None:
        await self.prepare()
        print(f"{'operation':24} total, TON")
        terms = self.terms(1)
        desk = ClientDesk(self.chain, terms, self.client, self.client_key)
        await self.measure("open", terms, lambda: desk.open(Nanotons(5 * TON), now=self.now()))
        await self.measure("top-up", terms, lambda: desk.top_up(TON, now=self.now()))
        await self.measure("redeem", terms, lambda: self.redeem(terms, TON))
        some = Nanotons(TON // 2)
        await self.measure("announce withdrawal", terms, lambda: desk.announce_withdrawal(some, now=self.now()))
        await self.measure("cancel", terms, lambda: desk.cancel(now=self.now()))
        await desk.announce_withdrawal(some, now=self.now())
        await self.devnet.node.advance(DELAY)
        await self.measure("finish withdrawal *", terms, lambda: desk.finish(now=self.now()))
        await self.measure("announce close", terms, lambda: desk.announce_close(now=self.now()))
        await self.devnet.node.advance(DELAY)
        await self.measure("finish close *", terms, lambda: desk.finish(now=self.now()))
        other = self.terms(2)
        await ClientDesk(self.chain, other, self.client, self.client_key).open(TON, now=self.now())
        await self.measure(
            "close together", other, lambda: close_together(self.chain, other, self.close_order(other, TON // 2))
        )
        print("* with a day's rent")

    async def redeem(self, terms: ChannelTerms, total: int) -> ChannelState:
        return await redeem(self.chain, terms, self.voucher(terms, total), self.operator_key)


def wallet(key: Ed25519PrivateKey) -> Wallet:
    return Wallet(public_key=key.public_key().public_bytes_raw(), network_id=NETWORK_ID)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_devnet(Path(folder) / "net") as devnet:
            config = ChainConfig(
                host=devnet.host, port=devnet.port, public_key=devnet.public_key, network_id=NETWORK_ID
            )
            clock = lambda: datetime.fromtimestamp(devnet.node.clock.now(), UTC)  # noqa: E731
            async with await ChainClient.connect(config, clock=clock) as chain:
                await Bench(devnet, chain).run()


if __name__ == "__main__":
    asyncio.run(main())
