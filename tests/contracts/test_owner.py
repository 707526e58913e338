"""The hand-over of registry and vault: proposed by the owner, a day to see it coming, accepted by the new one."""

from __future__ import annotations

import pytest
from pytoniq_core import Address, Cell, begin_cell

from billing.ton.owner import (
    HANDOVER_DELAY_S,
    OP_ACCEPT_OWNER,
    OP_PROPOSE_OWNER,
    Ownership,
    accept_owner_body,
    cancel_owner_body,
    order_body,
    propose_owner_body,
)
from billing.ton.registry import set_rim_body
from billing.ton.vault import revoke_key_body
from tests.contracts.harness import NOW, OWNER, STRANGER, TON, TREASURY, RegistryInVm, VaultInVm

NEW_OWNER = Address((0, b"\x4e" * 32))
NOT_THE_OWNER, WRONG_WORKCHAIN, MALFORMED_BODY, NOT_THE_NEXT_OWNER, TOO_EARLY = 401, 405, 408, 409, 410
CELL_UNDERFLOW = 9
POWER = {RegistryInVm: set_rim_body(b"\x11" * 32), VaultInVm: revoke_key_body()}  # what only an owner can do
Contract = RegistryInVm | VaultInVm


@pytest.fixture(params=[RegistryInVm, VaultInVm], ids=["registry", "vault"])
def contract(request: pytest.FixtureRequest) -> Contract:
    contract: Contract = request.param()
    contract.send(STRANGER, value=TON, init=contract.init)
    return contract


def test_the_new_owner_accepts_a_day_later_and_the_old_one_has_no_power_left(contract: Contract) -> None:
    assert contract.send(OWNER, propose_owner_body(NEW_OWNER)).exit_code == 0
    expected = Ownership(owner=OWNER, next_owner=NEW_OWNER, accept_from=NOW + HANDOVER_DELAY_S)
    assert contract.state().ownership == expected
    contract.now += HANDOVER_DELAY_S
    assert contract.send(NEW_OWNER, accept_owner_body()).exit_code == 0
    assert contract.state().ownership == Ownership(owner=NEW_OWNER)
    assert contract.send(OWNER, POWER[type(contract)]).exit_code == NOT_THE_OWNER
    assert contract.send(NEW_OWNER, POWER[type(contract)]).exit_code == 0


def test_the_owner_keeps_its_power_until_the_new_one_accepts(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    contract.now += 10 * HANDOVER_DELAY_S
    assert contract.send(NEW_OWNER, POWER[type(contract)]).exit_code == NOT_THE_OWNER
    assert contract.send(OWNER, POWER[type(contract)]).exit_code == 0


def test_an_acceptance_before_the_day_is_over_is_refused(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    contract.now += HANDOVER_DELAY_S - 1
    assert contract.send(NEW_OWNER, accept_owner_body()).exit_code == TOO_EARLY
    assert contract.state().ownership.owner == OWNER


@pytest.mark.parametrize("sender", [OWNER, STRANGER, TREASURY], ids=["owner", "stranger", "operator"])
def test_an_acceptance_by_anyone_but_the_proposed_one_is_refused(contract: Contract, sender: Address) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    contract.now += HANDOVER_DELAY_S
    assert contract.send(sender, accept_owner_body()).exit_code == NOT_THE_NEXT_OWNER


def test_an_acceptance_of_nothing_is_refused(contract: Contract) -> None:
    for sender in (OWNER, STRANGER):
        assert contract.send(sender, accept_owner_body()).exit_code == NOT_THE_NEXT_OWNER


def test_an_acceptance_replayed_by_the_old_owner_is_refused(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    contract.now += HANDOVER_DELAY_S
    contract.send(NEW_OWNER, accept_owner_body())
    for sender in (OWNER, NEW_OWNER):
        assert contract.send(sender, accept_owner_body()).exit_code == NOT_THE_NEXT_OWNER


def test_a_proposal_that_was_taken_back_cannot_be_accepted(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    assert contract.send(OWNER, cancel_owner_body()).exit_code == 0
    assert contract.state().ownership == Ownership(owner=OWNER)
    contract.now += HANDOVER_DELAY_S
    assert contract.send(NEW_OWNER, accept_owner_body()).exit_code == NOT_THE_NEXT_OWNER


def test_another_proposal_replaces_the_first_and_starts_a_day_of_its_own(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(STRANGER))
    contract.now += HANDOVER_DELAY_S
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    assert contract.send(STRANGER, accept_owner_body()).exit_code == NOT_THE_NEXT_OWNER
    assert contract.send(NEW_OWNER, accept_owner_body()).exit_code == TOO_EARLY


@pytest.mark.parametrize("body", [propose_owner_body(STRANGER), cancel_owner_body()], ids=["propose", "cancel"])
@pytest.mark.parametrize("sender", [STRANGER, TREASURY, NEW_OWNER], ids=["stranger", "operator", "proposed"])
def test_a_hand_over_by_anyone_but_the_owner_is_refused(contract: Contract, sender: Address, body: Cell) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    before = contract.state()
    contract.now += HANDOVER_DELAY_S
    assert contract.send(sender, body).exit_code == NOT_THE_OWNER
    assert contract.state() == before


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        pytest.param(order_body(OP_PROPOSE_OWNER, 0).end_cell(), CELL_UNDERFLOW, id="nobody"),
        pytest.param(
            order_body(OP_PROPOSE_OWNER, 0).store_address(NEW_OWNER).store_bit(1).end_cell(), MALFORMED_BODY, id="tail"
        ),
        pytest.param(
            order_body(OP_PROPOSE_OWNER, 0).store_address(Address((-1, bytes(32)))).end_cell(),
            WRONG_WORKCHAIN,
            id="masterchain",
        ),
        pytest.param(order_body(OP_PROPOSE_OWNER, 0).store_uint(0, 2).end_cell(), CELL_UNDERFLOW, id="no-address"),
        pytest.param(
            order_body(OP_PROPOSE_OWNER, 0)
            .store_uint(0b101, 3)
            .store_uint(5, 5)
            .store_uint(3, 5)
            .store_int(0, 8)
            .store_bytes(NEW_OWNER.hash_part)
            .end_cell(),
            WRONG_WORKCHAIN,
            id="anycast",
        ),
        pytest.param(
            order_body(OP_PROPOSE_OWNER, 0)
            .store_uint(0b110, 3)
            .store_uint(256, 9)
            .store_int(0, 32)
            .store_bytes(NEW_OWNER.hash_part)
            .end_cell(),
            WRONG_WORKCHAIN,
            id="of-any-length",
        ),
    ],
)
def test_a_malformed_proposal_is_refused(contract: Contract, body: Cell, exit_code: int) -> None:
    before = contract.state()
    assert contract.send(OWNER, body).exit_code == exit_code
    assert contract.state() == before


def test_an_acceptance_with_a_tail_is_refused(contract: Contract) -> None:
    contract.send(OWNER, propose_owner_body(NEW_OWNER))
    contract.now += HANDOVER_DELAY_S
    body = order_body(OP_ACCEPT_OWNER, 0).store_bit(1).end_cell()
    assert contract.send(NEW_OWNER, body).exit_code == MALFORMED_BODY
    assert contract.send(OWNER, begin_cell().store_uint(OP_ACCEPT_OWNER, 32).end_cell()).exit_code == CELL_UNDERFLOW


def test_what_came_with_a_proposal_comes_back(contract: Contract) -> None:
    (change,) = contract.send(OWNER, propose_owner_body(NEW_OWNER, query_id=5), value=TON).transaction.outgoing
    assert change.value > TON - 20_000_000
