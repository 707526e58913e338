"""Messages of governance: the registry alone and beside 100 operators, the vault's owner, and the hand-over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from pytoniq_core import Address, Cell

from bench.costs.payouts import OWNER_KEY, HighloadBench, VaultBench
from bench.costs.world import NETWORK_ID, TON, Cost, World, key_of, public, wallet_of
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.cells import payee_of
from billing.ton.outgoing import OutMessage
from billing.ton.owner import HANDOVER_DELAY_S, accept_owner_body, cancel_owner_body, propose_owner_body
from billing.ton.registry import (
    CHANGE_VALUE,
    LogCheckpoint,
    Measurement,
    ModelTerms,
    OperatorTerms,
    anchor_body,
    registry_address,
    registry_init,
    remove_checkpoint_body,
    remove_measurement_body,
    remove_model_body,
    remove_operator_body,
    remove_price_body,
    remove_rim_body,
    set_checkpoint_body,
    set_measurement_body,
    set_model_body,
    set_operator_body,
    set_policy_body,
    set_price_body,
    set_rim_body,
)
from billing.ton.settler import ANCHOR_VALUE
from billing.ton.vault import adopt_key_body, propose_key_body, revoke_key_body, withdraw_body
from billing.ton.wallet import Transfer

NEXT_OWNER_KEY = key_of("next owner")
TARIFF = Tariff(prompt_price=10**9, cached_price=10**8, completion_price=4 * 10**9, reasoning_price=4 * 10**9)
MODEL = ModelTerms(name="a model of thirty letters' name", tariff=TARIFF, context=32_768)
MEASUREMENT = Measurement(kind=1, label="engine image 7, torch 2.13")


def digest(name: str) -> bytes:
    """A key of the registry that is the same at each run."""
    return sha256(name.encode()).digest()


def operator(name: str, wallet: Address | None = None) -> OperatorTerms:
    """An operator's terms with one endpoint."""
    return OperatorTerms(
        name=name,
        public_key=digest(name),
        endpoints=("https://gateway.operator.example",),
        wallet=wallet or Address((0, digest(f"wallet of {name}"))),
        fee_permille=50,
    )


class RegistryBench:
    """A registry with an operator of id 1, and so many others, and so many entries in every other list."""

    def __init__(self, world: World, treasury: Address, *, others: int = 0, entries: int = 0) -> None:
        self.world, self.owner = world, wallet_of(OWNER_KEY)
        operators = {i + 2: operator(f"operator {i}") for i in range(others)} | {1: operator("ours", treasury)}
        init = registry_init(network_id=NETWORK_ID, owner=self.owner.address, operators=operators)
        self.address = registry_address(init)
        world.fund(self.owner.address, 1000)
        world.fund(self.address, 1)
        opening = Transfer(destination=self.address, amount=Nanotons(TON // 5), state_init=init, bounce=False)
        self.deployment = world.pay(self.owner, OWNER_KEY, [opening])
        bodies: list[Cell] = []
        for i in range(entries):
            bodies.append(set_measurement_body(digest(f"image {i}"), MEASUREMENT))
            bodies.append(set_rim_body(digest(f"rim {i}")))
            bodies.append(set_model_body(digest(f"model {i}"), MODEL))
        if bodies:
            world.pay(self.owner, OWNER_KEY, [self._change(body) for body in bodies])

    def _change(self, body: Cell) -> Transfer:
        return Transfer(destination=self.address, amount=CHANGE_VALUE, body=body)

    def order(self, body: Cell) -> Cost:
        """One message of the owner, from its wallet V5."""
        return self.world.pay(self.owner, OWNER_KEY, [self._change(body)])

    def orders(self) -> Iterator[tuple[str, Cost]]:
        """Every operation of the owner once."""
        key, root = digest("new"), digest("log")
        bodies = {
            "set_measurement": set_measurement_body(key, MEASUREMENT),
            "remove_measurement": remove_measurement_body(key),
            "set_rim": set_rim_body(key),
            "remove_rim": remove_rim_body(key),
            "set_model": set_model_body(key, MODEL),
            "remove_model": remove_model_body(key),
            "set_operator (new)": set_operator_body(5000, operator("new")),
            "set_operator (new terms)": set_operator_body(5000, replace(operator("new"), fee_permille=60)),
            "set_price": set_price_body(5000, key, TARIFF),
            "remove_price": remove_price_body(5000, key),
            "remove_operator": remove_operator_body(5000),
            "set_policy": set_policy_body(key),
            "set_checkpoint": set_checkpoint_body(LogCheckpoint(log=key, size=100, root=root)),
            "remove_checkpoint": remove_checkpoint_body(),
        }
        for name, body in bodies.items():
            yield name, self.order(body)

    def anchor(self, highload: HighloadBench, epoch: int, payouts: tuple[OutMessage, ...] = ()) -> Cost:
        """An anchor by the treasury, alone or riding on a batch."""
        body = anchor_body(epoch, digest(f"epoch {epoch}"))
        message = OutMessage(destination=payee_of(self.address), amount=ANCHOR_VALUE, body=body)
        return highload.send((*payouts, message))


def hand_over(world: World, address: Address) -> Iterator[tuple[str, Cost]]:
    """The owner's messages of a hand-over, with a day between; a registry or a vault."""
    owner, heir = wallet_of(OWNER_KEY), wallet_of(NEXT_OWNER_KEY)
    world.fund(heir.address, 10)
    world.pay(heir, NEXT_OWNER_KEY, [Transfer(destination=heir.address, amount=Nanotons(TON))])  # deployed
    for name, body in (
        ("propose_owner", propose_owner_body(heir.address)),
        ("cancel_owner", cancel_owner_body()),
    ):
        yield name, world.pay(owner, OWNER_KEY, [Transfer(destination=address, amount=CHANGE_VALUE, body=body)])
    again = Transfer(destination=address, amount=CHANGE_VALUE, body=propose_owner_body(heir.address))
    world.pay(owner, OWNER_KEY, [again])
    world.now += HANDOVER_DELAY_S
    acceptance = Transfer(destination=address, amount=CHANGE_VALUE, body=accept_owner_body())
    yield "accept_owner *", world.pay(heir, NEXT_OWNER_KEY, [acceptance])


def vault_owner(world: World, vault: VaultBench) -> Iterator[tuple[str, Cost]]:
    """Every operation of the vault's owner once, the hand-over apart."""

    def order(body: Cell) -> Cost:
        return world.pay(vault.owner, OWNER_KEY, [Transfer(destination=vault.address, amount=CHANGE_VALUE, body=body)])

    yield "withdraw", order(withdraw_body(Nanotons(TON)))
    yield "propose_key", order(propose_key_body(public(key_of("next hot"))))
    world.now += HANDOVER_DELAY_S
    yield "adopt_key *", order(adopt_key_body())
    yield "revoke_key", order(revoke_key_body())
