"""The vault contract in the real TVM: what its owner may do, money that comes in, rent, get-methods."""

from __future__ import annotations

import pytest
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.crypto.crc import crc16

from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.channel import OP_PAYOUT
from billing.ton.deposits import deposit_body
from billing.ton.owner import HANDOVER_DELAY_S, order_body
from billing.ton.vault import (
    NO_KEY,
    OP_CLAIM,
    OP_WITHDRAW,
    RENT_RESERVE,
    adopt_key_body,
    propose_key_body,
    revoke_key_body,
    withdraw_body,
)
from tests.contracts.harness import HOT_KEY, NOW, OWNER, STRANGER, TON, VaultInVm
from tests.contracts.vaults import (
    BAD_SIGNATURE,
    CELL_UNDERFLOW,
    MALFORMED_BODY,
    NO_KEY_SET,
    NO_SUCH_SURPLUS,
    NOT_THE_OWNER,
    OTHER_KEY,
    TOO_EARLY,
    UNDERFUNDED,
    UNKNOWN_OPERATION,
    entitled,
    inside,
    order,
    outside,
    paid,
    paid_to,
    payee,
    refusal,
)


def test_the_owner_replaces_the_hot_key_a_day_after_proposing_it(vault: VaultInVm) -> None:
    public_key = OTHER_KEY.public_key().public_bytes_raw()
    assert vault.send(OWNER, propose_key_body(public_key)).exit_code == 0
    assert (vault.state().next_key, vault.state().adopt_from) == (public_key, NOW + HANDOVER_DELAY_S)
    assert refusal(vault, vault.sign(order(TON), key=OTHER_KEY)) == BAD_SIGNATURE
    assert vault.order(order(TON)).exit_code == 0  # until then the old one works
    vault.now += HANDOVER_DELAY_S
    assert vault.send(OWNER, adopt_key_body()).exit_code == 0
    assert (vault.state().public_key, vault.state().next_key) == (public_key, NO_KEY)
    assert refusal(vault, vault.sign(order(TON))) == BAD_SIGNATURE
    assert vault.order(order(TON), key=OTHER_KEY).exit_code == 0


def test_a_key_adopted_before_the_day_is_over_is_refused(vault: VaultInVm) -> None:
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    vault.now += HANDOVER_DELAY_S - 1
    assert vault.send(OWNER, adopt_key_body()).exit_code == TOO_EARLY


def test_a_key_that_was_not_proposed_cannot_be_adopted(vault: VaultInVm) -> None:
    assert vault.send(OWNER, adopt_key_body()).exit_code == NO_KEY_SET
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    vault.now += HANDOVER_DELAY_S
    vault.send(OWNER, adopt_key_body())
    assert vault.send(OWNER, adopt_key_body()).exit_code == NO_KEY_SET


def test_a_stolen_hot_key_is_revoked_at_once(vault: VaultInVm) -> None:
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    message = vault.sign(order(TON))
    assert vault.send(OWNER, revoke_key_body()).exit_code == 0
    assert (vault.state().public_key, vault.state().next_key) == (NO_KEY, NO_KEY)
    assert refusal(vault, message) == NO_KEY_SET


def test_nobody_signs_for_a_revoked_key(vault: VaultInVm) -> None:
    """32 zero bytes are a point of small order: signatures under it can be made by anybody."""
    vault.send(OWNER, revoke_key_body())
    cell = inside(vault.sign(order(TON))).refs[0]
    for scalar in range(8):
        forged = begin_cell().store_bytes(bytes(31) + bytes([scalar]) + bytes(32)).store_ref(cell).end_cell()
        assert refusal(vault, outside(vault, forged)) == NO_KEY_SET


def test_a_key_of_zeros_cannot_be_proposed(vault: VaultInVm) -> None:
    assert vault.send(OWNER, order_body(0x43560011, 0).store_uint(0, 256).end_cell()).exit_code == NO_KEY_SET
    with pytest.raises(ValueError, match="32 bytes"):
        propose_key_body(NO_KEY)


def test_the_owner_withdraws_what_is_held_for_nobody(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(40 * TON), held=40 * TON))
    free = vault.account().balance - RENT_RESERVE - 40 * TON
    assert vault.send(OWNER, withdraw_body(Nanotons(free + 1))).exit_code == NO_SUCH_SURPLUS
    outcome = vault.send(OWNER, withdraw_body(Nanotons(free), query_id=3))
    assert outcome.exit_code == 0
    ((destination, value),) = paid(outcome)
    assert destination == payee_of(OWNER)
    assert free < value < free + TON // 20
    assert vault.account().balance >= 40 * TON + RENT_RESERVE
    assert paid_to(vault.claim(entitled(40 * TON), payee(0))) == 40 * TON
    assert vault.send(OWNER, withdraw_body(Nanotons(1))).exit_code == NO_SUCH_SURPLUS


def test_what_comes_with_a_withdrawal_is_no_surplus(vault: VaultInVm) -> None:
    free = vault.account().balance - RENT_RESERVE
    assert vault.send(OWNER, withdraw_body(Nanotons(free + 1)), value=50 * TON).exit_code == NO_SUCH_SURPLUS


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(propose_key_body(b"\x01" * 32), id="propose-key"),
        pytest.param(adopt_key_body(), id="adopt-key"),
        pytest.param(revoke_key_body(), id="revoke-key"),
        pytest.param(withdraw_body(Nanotons(1)), id="withdraw"),
        pytest.param(order_body(0x43560099, 0).end_cell(), id="unknown"),
    ],
)
@pytest.mark.parametrize("sender", [STRANGER, payee(0)], ids=["stranger", "payee"])
def test_an_owners_operation_by_anyone_else_is_refused(vault: VaultInVm, sender: Address, body: Cell) -> None:
    vault.order(order(after=entitled(TON)))
    vault.send(OWNER, propose_key_body(b"\x02" * 32))
    vault.now += HANDOVER_DELAY_S
    before = vault.state()
    assert vault.send(sender, body).exit_code == NOT_THE_OWNER
    assert vault.state() == before


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        pytest.param(order_body(0x43560099, 0).end_cell(), UNKNOWN_OPERATION, id="unknown-operation"),
        pytest.param(begin_cell().store_uint(OP_WITHDRAW, 32).end_cell(), CELL_UNDERFLOW, id="no-query-id"),
        pytest.param(begin_cell().store_uint(OP_WITHDRAW, 31).end_cell(), CELL_UNDERFLOW, id="half-an-operation"),
        pytest.param(order_body(0x43560011, 0).store_uint(1, 255).end_cell(), CELL_UNDERFLOW, id="short-key"),
        pytest.param(order_body(0x43560013, 0).store_bit(1).end_cell(), MALFORMED_BODY, id="tail"),
        pytest.param(order_body(0x43560013, 0).store_ref(Cell.empty()).end_cell(), MALFORMED_BODY, id="hidden-cell"),
    ],
)
def test_a_malformed_message_of_the_owner_is_refused(vault: VaultInVm, body: Cell, exit_code: int) -> None:
    before = vault.state()
    assert vault.send(OWNER, body).exit_code == exit_code
    assert vault.state() == before


def test_the_hot_key_has_no_power_over_owner_or_keys(vault: VaultInVm) -> None:
    before = vault.state()
    vault.order(order(TON))
    after = vault.state()
    assert (after.ownership, after.public_key, after.next_key) == (before.ownership, before.public_key, NO_KEY)


@pytest.mark.parametrize(
    ("body", "bounced"),
    [
        pytest.param(None, False, id="empty"),
        pytest.param(deposit_body(b"\x01" * 32), False, id="deposit"),
        pytest.param(begin_cell().store_uint(0, 32).store_bytes(b"hello").end_cell(), False, id="comment"),
        pytest.param(order_body(0xD53276DB, 0).end_cell(), False, id="change"),
        pytest.param(begin_cell().store_uint(OP_PAYOUT, 32).store_uint(TON, 64).end_cell(), False, id="from-a-channel"),
        pytest.param(begin_cell().store_uint(0xFFFFFFFF, 32).store_uint(OP_CLAIM, 32).end_cell(), True, id="bounced"),
        pytest.param(revoke_key_body(), True, id="bounced-order-of-the-owner"),
    ],
)
def test_plain_money_is_kept_and_changes_nothing(vault: VaultInVm, body: Cell | None, bounced: bool) -> None:
    before, balance = vault.state(), vault.account().balance
    outcome = vault.send(OWNER, body, value=TON, bounced=bounced)
    assert (outcome.exit_code, paid(outcome)) == (0, [])
    assert vault.account().balance > balance + TON - 1_000_000
    assert vault.state() == before


def test_a_message_nobody_understands_bounces_with_its_money(vault: VaultInVm) -> None:
    outcome = vault.send(STRANGER, order_body(0x12345678, 0).end_cell(), value=TON)
    assert outcome.aborted
    assert outcome.transaction.outgoing[0].value > TON - 20_000_000


def test_a_vault_in_debt_for_its_storage_pays_it_from_the_next_money_and_owes_what_it_owed(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    vault.order(order(vault.account().balance - RENT_RESERVE - 2_900_000, after=after))
    before = vault.state()
    vault.now += 7 * 365 * 86_400
    assert vault.claim(after, payee(0), value=TON).exit_code == UNDERFUNDED
    vault.send(STRANGER, value=3 * TON)
    assert vault.state() == before
    assert paid_to(vault.claim(after, payee(0))) == TON


def test_get_methods_answer_with_two_values(vault: VaultInVm) -> None:
    after = entitled(TON, TON)
    vault.order(order(after=after, held=9))
    vault.claim(after, payee(0))
    vault.send(OWNER, propose_key_body(b"\x01" * 32))

    def get(name: str, *arguments: int) -> list[object]:
        result, stack = vault.get(int.from_bytes(crc16(name.encode()), "big") & 0xFFFF | 0x10000, list(arguments))
        assert result.exit_code == 0
        assert len(stack) == 2
        return stack

    assert get("get_version") == [-777, 1]
    assert get("get_owner") == [0, int.from_bytes(OWNER.hash_part, "big")]
    assert get("get_key") == [int.from_bytes(HOT_KEY.public_key().public_bytes_raw(), "big"), 1]
    assert get("get_anchor") == [int.from_bytes(after.root, "big"), 0]
    pages, claims = get("get_claimed")
    assert isinstance(pages, Cell) and claims == 1
    assert pages.bits.to01().endswith("1" + "0" * 959)
    owner, next_key = get("get_proposals")
    assert isinstance(owner, Cell) and isinstance(next_key, Cell)
    assert owner.hash == vault.state().ownership.cell().hash
    assert next_key.begin_parse().load_bytes(32) == b"\x01" * 32
