"""Payouts and anchors: vault, highload wallet v3 and wallet V5 beside each other, and claims against the vault."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

from pytoniq_core import Address
from pytoniq_core.tlb.account import StateInit

from bench.costs.world import NETWORK_ID, TON, Cost, World, key_of, public, wallet_of
from bench.vault import with_claims
from billing.entitlements import Entitlements
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.highload import query_id_of, treasury_wallet
from billing.ton.outgoing import OutMessage
from billing.ton.vault import CLAIM_VALUE, claim_of, parse_vault, vault_address, vault_init
from billing.ton.vault_order import Order, sign_order
from billing.ton.wallet import Transfer

HOT_KEY, OWNER_KEY, PAYEE_KEY, WALLET_KEY = (key_of(name) for name in ("hot", "owner", "payee", "wallet"))
NOBODY = Entitlements(amounts={})


def payments(count: int, seed: str) -> tuple[OutMessage, ...]:
    """One TON to each of so many accounts that do not exist yet."""
    names = (sha256(f"{seed} {i}".encode()).digest() for i in range(count))
    return tuple(OutMessage(destination=b"\0" + name, amount=Nanotons(TON)) for name in names)


class VaultBench:
    """A deployed vault with money."""

    def __init__(self, world: World, claimed_by: Mapping[bytes, int] = MappingProxyType({})) -> None:
        """With `claimed_by`, what these and one more payee are owed is anchored, and these have claimed it."""
        self.world, self.anchored = world, bool(claimed_by)
        self.owner = wallet_of(OWNER_KEY)
        init = vault_init(network_id=NETWORK_ID, owner=self.owner.address, public_key=public(HOT_KEY))
        self.init = init
        if claimed_by:
            entitlements = owed_to(claimed_by)
            claimed = set(map(entitlements.index, claimed_by))
            self.init = StateInit(code=init.code, data=with_claims(init.data, entitlements, claimed))
        self.address = vault_address(self.init)
        world.fund(self.owner.address, 1000)
        world.fund(self.address, 1_000_000)
        opening = Transfer(destination=self.address, amount=Nanotons(TON), state_init=self.init, bounce=False)
        self.deployment = world.pay(self.owner, OWNER_KEY, [opening])

    def order(self, messages: tuple[OutMessage, ...], entitlements: Entitlements = NOBODY) -> Cost:
        """Push payments, and anchor the entitlements."""
        state = self.world.account(self.address)
        signed = sign_order(
            Order(messages=messages, root=entitlements.root, held=1000 * TON),
            vault=self.address,
            state=parse_vault(state),
            key=HOT_KEY,
            created_at=self.world.now,
            after_lt=state.last_lt,
        )
        return self.world.send(signed.boc)

    def claim(self, others: Mapping[bytes, int]) -> Cost:
        """A first claim of one payee, from its wallet V5, out of a root over it and the others."""
        payee = wallet_of(PAYEE_KEY)
        self.world.fund(payee.address, 10)
        self.world.pay(payee, PAYEE_KEY, [Transfer(destination=payee.address, amount=Nanotons(TON))])  # deployed
        entitlements = owed_to(others)
        if not self.anchored:
            self.order((), entitlements)
        body = claim_of(entitlements, payee.address)
        return self.world.pay(payee, PAYEE_KEY, [Transfer(destination=self.address, amount=CLAIM_VALUE, body=body)])


class HighloadBench:
    """A deployed highload wallet v3 with money."""

    def __init__(self, world: World) -> None:
        self.world, self.key, self.sequence = world, key_of("treasury"), 0
        self.wallet = treasury_wallet(public(self.key), NETWORK_ID)
        world.fund(self.wallet.address, 1_000_000)
        self.deployment = self.send(payments(1, "highload deployment"))

    def send(self, messages: tuple[OutMessage, ...]) -> Cost:
        """Send messages under the next query id."""
        signed = self.wallet.sign(
            messages,
            key=self.key,
            query_id=query_id_of(self.sequence),
            created_at=self.world.now,
            after_lt=0,
            deploy=self.sequence == 0,
        )
        self.sequence += 1
        return self.world.send(signed.boc)


def deploy_wallet(world: World) -> Cost:
    """The first message of a wallet V5, with one payment."""
    return _pay(world, payments(1, "wallet deployment"))


def wallet_payout(world: World, count: int) -> Cost:
    """Pay from a wallet V5 that is deployed."""
    if world.account(wallet_of(WALLET_KEY).address).code is None:
        deploy_wallet(world)
    return _pay(world, payments(count, f"wallet {count}"))


def _pay(world: World, messages: tuple[OutMessage, ...]) -> Cost:
    wallet = wallet_of(WALLET_KEY)
    world.fund(wallet.address, 1000)
    transfers = [
        Transfer(destination=Address((0, each.destination[1:])), amount=each.amount, bounce=False) for each in messages
    ]
    return world.pay(wallet, WALLET_KEY, transfers)


def owed_to(others: Mapping[bytes, int]) -> Entitlements:
    """What the others are owed, and a TON to the payee that claims."""
    return Entitlements(amounts={**others, payee_of(wallet_of(PAYEE_KEY).address): TON})


def claimants(count: int) -> dict[bytes, int]:
    """So many payees with a TON each."""
    return {b"\0" + sha256(f"payee {i}".encode()).digest(): TON for i in range(count)}
