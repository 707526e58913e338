"""What the tests on the devnet share: keys, funded wallets, a deployed registry, money owed to payees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.books import Books
from billing.entries import OPERATOR_CAPITAL, Entry, EntryKind, Posting, payee_account
from billing.settlement import SettlementPolicy
from billing.ton.cells import address_of
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import NETWORK_ID, AccountId, Devnet
from billing.ton.highload import HighloadWallet, treasury_wallet
from billing.ton.registry import OperatorTerms, registry_address, registry_init
from billing.ton.vault import vault_init
from billing.ton.vault_sender import EntitlementFiles, VaultSender
from billing.ton.wallet import Transfer, Wallet, pay

TON = 1_000_000_000
TREASURY_KEY = Ed25519PrivateKey.from_private_bytes(b"\x71" * 32)
OWNER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x72" * 32)
CLIENT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x73" * 32)
EVERYBODY = SettlementPolicy(threshold=1, dust=0, max_age_s=0)  # type: ignore[arg-type]  # plain numbers of nanoton


def config_of(devnet: Devnet, **changes: object) -> ChainConfig:
    fields = {
        "host": devnet.host,
        "port": devnet.port,
        "public_key": devnet.public_key,
        "network_id": NETWORK_ID,
        "init_block": devnet.init_block,
    }
    return ChainConfig(**(fields | changes))  # type: ignore[arg-type]


def chain_clock(devnet: Devnet) -> Callable[[], datetime]:
    return lambda: datetime.fromtimestamp(devnet.node.clock.now(), UTC)


async def fund(devnet: Devnet, address: Address, amount: int) -> None:
    await devnet.node.faucet(AccountId(workchain=address.wc, id=address.hash_part), amount)


def treasury(timeout_s: int = 600) -> HighloadWallet:
    return treasury_wallet(TREASURY_KEY.public_key().public_bytes_raw(), NETWORK_ID, timeout_s=timeout_s)


def vault_sender(folder: Path, *, timeout_s: int = 120) -> VaultSender:
    """The treasury as a vault: the hot key is the treasury's, the owner's wallet is the registry owner's."""
    public_key = TREASURY_KEY.public_key().public_bytes_raw()
    init = vault_init(network_id=NETWORK_ID, owner=wallet_of(OWNER_KEY).address, public_key=public_key)
    return VaultSender(init=init, files=EntitlementFiles(folder=folder), timeout_s=timeout_s)


def wallet_of(key: Ed25519PrivateKey) -> Wallet:
    return Wallet(public_key=key.public_key().public_bytes_raw(), network_id=NETWORK_ID)


def payees(count: int, *, seed: str = "payee") -> list[bytes]:
    return [b"\x00" + sha256(f"{seed}{i}".encode()).digest() for i in range(count)]


def owe(books: Books, amounts: dict[bytes, int], *, at: int) -> None:
    """Give payees earnings out of the operator's capital, which the treasury must hold already."""
    number = len(books.ledger.balances())
    postings = [Posting(account=payee_account(payee), amount=amount) for payee, amount in amounts.items()]
    postings.append(Posting(account=OPERATOR_CAPITAL, amount=-sum(amounts.values())))
    for i in range(0, len(amounts), 500):
        part = postings[:-1][i : i + 500]
        total = sum(posting.amount for posting in part)
        source = Posting(account=OPERATOR_CAPITAL, amount=-total)
        name = f"test-earnings:{number}:{i}"
        books.commit(Entry(id=name, kind=EntryKind.FUNDING, postings=(*part, source), at=at))


async def balances(chain: ChainClient, addresses: Sequence[bytes]) -> list[int]:
    return [(await chain.account(address_of(address))).balance for address in addresses]


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A deployed registry and its owner's wallet."""

    address: Address
    owner: Wallet

    async def change(self, chain: ChainClient, now: datetime, *transfers: Transfer) -> None:
        await pay(chain, self.owner, OWNER_KEY, transfers, now=now)


async def deploy_registry(devnet: Devnet, chain: ChainClient, *, operator_wallet: Address | None = None) -> Registry:
    owner = wallet_of(OWNER_KEY)
    operator = OperatorTerms(
        name="test operator",
        public_key=b"o" * 32,
        endpoints=("http://127.0.0.1:8000",),
        wallet=operator_wallet or treasury().address,
        fee_permille=50,
    )
    init = registry_init(network_id=NETWORK_ID, owner=owner.address, operators={1: operator})
    address = registry_address(init)
    await fund(devnet, owner.address, 10 * TON)
    first = Transfer(destination=address, amount=TON // 5, state_init=init, bounce=False)  # type: ignore[arg-type]
    await pay(chain, owner, OWNER_KEY, [first], now=chain_clock(devnet)())
    return Registry(address=address, owner=owner)
