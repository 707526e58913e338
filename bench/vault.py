"""What the vault costs on the chain: an order, an anchor, a payout and a claim, in the real TVM at mainnet prices.

    python bench/vault.py

Every figure is the whole cost, all hops: for an order what left the vault beyond the payments, for a claim what the
payee's wallet has less than before plus the claim. The devnet runs in this process. Fees depend on the clock only by
storage, so one run is enough; it prints the gas beside them.
"""

import asyncio
import tempfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, HashMap, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.entitlements import Entitlements
from billing.ton.cells import payee_of
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import NETWORK_ID, AccountId, Devnet, running_devnet
from billing.ton.outgoing import OutMessage
from billing.ton.vault import CLAIM_VALUE, PAGE_KEY_BITS, PAGE_LEAVES, claim_of, read_vault, vault_address, vault_init
from billing.ton.vault_order import Order, sign_order
from billing.ton.wallet import Transfer, Wallet, pay

TON = 1_000_000_000
HOT_KEY, PAYEE_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2))
PAYOUT_BOUND, ANCHOR_BOUND, CLAIM_BOUND = 700_000, 1_700_000, 12_000_000


class Bench:
    """A vault on a devnet."""

    def __init__(self, devnet: Devnet, chain: ChainClient, *, all_but_own: Entitlements | None = None) -> None:
        self.devnet, self.chain = devnet, chain
        public_key = HOT_KEY.public_key().public_bytes_raw()
        self.init = vault_init(network_id=NETWORK_ID, owner=Address((0, b"o" * 32)), public_key=public_key)
        self.wallet = Wallet(public_key=PAYEE_KEY.public_key().public_bytes_raw(), network_id=NETWORK_ID)
        if all_but_own:
            claimed = set(range(len(all_but_own.amounts))) - {all_but_own.index(payee_of(self.wallet.address))}
            self.init = StateInit(code=self.init.code, data=with_claims(self.init.data, all_but_own, claimed))
        self.address = vault_address(self.init)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.devnet.node.clock.now(), UTC)

    async def fund(self, address: Address, tons: int) -> None:
        await self.devnet.node.faucet(AccountId(workchain=address.wc, id=address.hash_part), tons * TON)

    async def deploy(self) -> None:
        await self.fund(self.wallet.address, 1000)
        await self.fund(self.address, 1_000_000)
        opening = Transfer(destination=self.address, amount=TON, state_init=self.init, bounce=False)
        await pay(self.chain, self.wallet, PAYEE_KEY, [opening], now=self.now())
        await self.chain.wait_for(self.address, lambda state: state.data is not None)

    async def order(self, payouts: int, entitlements: Entitlements) -> int:
        """Fees of one order, nanotons."""
        before = await self.chain.account(self.address)
        vault = await read_vault(self.chain, self.address)
        names = [sha256(f"{vault.seqno} {i}".encode()).digest() for i in range(payouts)]
        messages = tuple(OutMessage(destination=b"\0" + name, amount=TON) for name in names)
        signed = sign_order(
            Order(messages=messages, root=entitlements.root, held=1000 * TON),
            vault=self.address,
            state=vault,
            key=HOT_KEY,
            created_at=before.head.time,
            after_lt=before.last_lt,
        )
        await self.chain.send(signed.boc)
        after = await self.chain.wait_for(self.address, lambda state: state.last_lt > before.last_lt)
        (transaction,) = await self.chain.transactions(after, after_lt=before.last_lt)
        assert len(transaction.outgoing) == payouts
        return before.balance - after.balance - payouts * TON

    async def claim(self, entitlements: Entitlements) -> int:
        """What a claim cost the payee, nanotons; the vault loses the claim and nothing else."""
        payee, vault = await self.balances()
        body = claim_of(entitlements, self.wallet.address)
        claim = Transfer(destination=self.address, amount=CLAIM_VALUE, body=body)
        await pay(self.chain, self.wallet, PAYEE_KEY, [claim], now=self.now())
        await self.devnet.node.tick()
        amount = entitlements.amounts[payee_of(self.wallet.address)]
        payee_after, vault_after = await self.balances()
        assert payee_after > payee + amount - CLAIM_VALUE, "the claim was refused"
        assert 0 <= vault - vault_after - amount < 1000, "the claim cost the vault more than its storage"
        return payee + amount - payee_after

    async def balances(self) -> tuple[int, int]:
        return tuple([(await self.chain.account(a)).balance for a in (self.wallet.address, self.address)])


def with_claims(data: Cell, entitlements: Entitlements, claimed: set[int]) -> Cell:
    """A vault's first data, as if `entitlements` were anchored and the leaves at these indexes paid."""
    rest = data.begin_parse().skip_bits(1 + 32 + 256)
    head = begin_cell().store_bit(1).store_uint(1, 32).store_bytes(entitlements.root).store_bits(rest.load_bits(416))
    head.store_ref(record(claimed))
    return head.store_ref(data.refs[0]).store_ref(data.refs[1]).end_cell()


def record(claimed: set[int]) -> Cell:
    """The record of claims with these leaves marked."""
    pages = HashMap(PAGE_KEY_BITS, value_serializer=lambda bits, builder: builder.store_bits(bits))
    for number in sorted({index // PAGE_LEAVES for index in claimed}):
        first = number * PAGE_LEAVES
        pages.set(number, "".join(str(int(index in claimed)) for index in range(first, first + PAGE_LEAVES)))
    return pages.serialize()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_devnet(Path(folder) / "net") as devnet:
            config = ChainConfig(
                host=devnet.host, port=devnet.port, public_key=devnet.public_key, network_id=NETWORK_ID
            )
            clock = devnet.node.clock
            async with await ChainClient.connect(
                config, clock=lambda: datetime.fromtimestamp(clock.now(), UTC)
            ) as chain:
                bench = Bench(devnet, chain)
                await bench.deploy()
                await measure(bench)


async def measure(bench: Bench) -> None:
    print(f"{'payouts':>8} {'fee, TON':>10} {'a payout':>10}")
    for count in (0, 1, 16, 64, 128, 250):
        fee = await bench.order(count, Entitlements(amounts={}))
        bound = (
            f"  (bound {PAYOUT_BOUND / TON:.4f})"
            if count >= 64
            else f"  (bound {ANCHOR_BOUND / TON:.4f})" * (not count)
        )
        each = f"{fee / count / TON:10.6f}" if count else f"{'anchor':>10}"
        print(f"{count:8} {fee / TON:10.6f} {each}{bound}")
    heads = f"{'payees':>8} {'anchor':>10} {'claim, TON':>12} {'all others claimed before':>26}"
    print(f"\n{heads}  (bound {CLAIM_BOUND / TON:.3f})")
    for count in (1, 16, 256, 1024, 4096, 16_384):
        others = {b"\0" + sha256(f"payee {i}".encode()).digest(): TON for i in range(count - 1)}
        entitlements = Entitlements(amounts=others | {payee_of(bench.wallet.address): TON})
        anchor = await bench.order(0, entitlements)
        first, late = await bench.claim(entitlements), ""
        if others:
            full = Bench(bench.devnet, bench.chain, all_but_own=entitlements)
            await full.deploy()
            late = f"{await full.claim(entitlements) / TON:.6f}"
        print(f"{count:8} {anchor / TON:10.6f} {first / TON:12.6f} {late:>26}")


if __name__ == "__main__":
    asyncio.run(main())
