"""The vault contract in the real TVM: what payees claim, and every refusal by its exit code."""

from __future__ import annotations

from hashlib import sha256

import pytest
from pytoniq_core import Address
from pytoniq_core.tlb.transaction import Transaction as FullTransaction

from billing.entitlements import Entitlements
from billing.ton.cells import address_of, payee_of
from billing.ton.owner import order_body
from billing.ton.vault import (
    OP_CLAIM,
    RENT_RESERVE,
    claim_body,
    revoke_key_body,
)
from tests.contracts.harness import OWNER, STRANGER, TON, VaultInVm
from tests.contracts.vaults import (
    CELL_UNDERFLOW,
    NOT_IN_THE_ROOT,
    NOTHING_DUE,
    UNDERFUNDED,
    VALUE_TOO_LOW,
    WRONG_WORKCHAIN,
    entitled,
    order,
    paid_to,
    payee,
)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 16, 33])
def test_every_payee_claims_what_is_anchored_for_it(vault: VaultInVm, count: int) -> None:
    after = entitled(*[TON + i for i in range(count)])
    vault.order(order(after=after, held=50 * TON))
    for i in range(count):
        assert paid_to(vault.claim(after, payee(i))) == TON + i
    state = vault.state()
    assert state.claimed == frozenset(range(count))
    assert (state.claims, state.held) == (count, max(50 * TON - sum(after.amounts.values()), 0))


def test_a_claim_costs_the_vault_nothing_but_the_claim(vault: VaultInVm) -> None:
    after = entitled(*[TON] * 100)
    vault.order(order(after=after))
    before = vault.account().balance
    assert paid_to(vault.claim(after, payee(7))) == TON
    assert vault.account().balance == before - TON


def test_a_claim_pays_what_is_new_since_the_last_one(vault: VaultInVm) -> None:
    """The books know the claim when they sign the next root, so its leaf holds what was earned since."""
    for amount in (TON, 2 * TON, 1):
        vault.order(order(after=entitled(amount, TON)))
        assert paid_to(vault.claim(entitled(amount, TON), payee(0))) == amount
        assert vault.claim(entitled(amount, TON), payee(0)).exit_code == NOTHING_DUE


def test_a_replayed_claim_is_refused(vault: VaultInVm) -> None:
    after = entitled(TON, TON)
    vault.order(order(after=after))
    vault.claim(after, payee(0))
    assert vault.claim(after, payee(0)).exit_code == NOTHING_DUE
    vault.order(order(after=entitled(0, TON)))
    assert vault.claim(after, payee(0)).exit_code == NOT_IN_THE_ROOT


def test_an_order_forgets_what_was_claimed_under_the_root_before(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON, TON)))
    vault.claim(entitled(TON, TON), payee(0))
    vault.order(order(after=entitled(0, TON)))
    assert (vault.state().claimed, vault.state().claims) == (frozenset(), 1)


@pytest.mark.parametrize("order_of_claims", ["ascending", "descending"])
def test_leaves_on_all_pages_of_the_record_are_claimed_once(vault: VaultInVm, order_of_claims: str) -> None:
    names = sorted(payee_of(payee(i)) for i in range(20_000))
    after = Entitlements(amounts=dict.fromkeys(names, TON // 1000))
    vault.order(order(after=after))
    places = [0, 1, 959, 960, 1919, 1920, 9599, 9600, 19_999]
    for place in places if order_of_claims == "ascending" else reversed(places):
        claimer = address_of(names[place])
        assert paid_to(vault.claim(after, claimer)) == TON // 1000
        assert vault.claim(after, claimer).exit_code == NOTHING_DUE
    assert vault.state().claimed == frozenset(places)


def test_a_claim_under_a_root_that_was_replaced_is_refused(vault: VaultInVm) -> None:
    """What was pushed is no longer in the root, so it cannot be claimed as well."""
    before = entitled(5 * TON, TON)
    vault.order(order(after=before))
    vault.order(order(5 * TON, after=entitled(0, TON)))
    assert vault.claim(before, payee(0)).exit_code == NOT_IN_THE_ROOT
    assert paid_to(vault.claim(entitled(0, TON), payee(1))) == TON


def test_somebody_elses_claim_is_refused(vault: VaultInVm) -> None:
    after = entitled(TON, 2 * TON, 3 * TON)
    vault.order(order(after=after))
    body = claim_body(after.index(payee_of(payee(1))), 2 * TON, after.path(payee_of(payee(1))))
    for thief in (STRANGER, payee(0), OWNER):
        assert vault.send(thief, body).exit_code == NOT_IN_THE_ROOT
    assert vault.send(payee(1), body).exit_code == 0


def test_a_payee_outside_the_basechain_cannot_claim_with_the_same_account(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    twin = Address((-1, payee(0).hash_part))
    assert vault.send(twin, claim_body(0, TON, ())).exit_code == WRONG_WORKCHAIN


@pytest.mark.parametrize("forgery", ["more", "less", "flipped-sibling", "flipped-side", "cut", "longer", "of-another"])
def test_a_claim_whose_path_does_not_hold_is_refused(vault: VaultInVm, forgery: str) -> None:
    after = entitled(*[TON + i for i in range(9)])
    vault.order(order(after=after))
    amount, path = TON + 2, list(after.path(payee_of(payee(2))))
    match forgery:
        case "more":
            amount += 1
        case "less":
            amount -= 1
        case "flipped-sibling":
            path[1] = (path[1][0], bytes([path[1][1][0] ^ 1]) + path[1][1][1:])
        case "flipped-side":
            path[0] = (not path[0][0], path[0][1])
        case "cut":
            path.pop()
        case "longer":
            path.append((True, bytes(32)))
        case "of-another":
            path = list(after.path(payee_of(payee(3))))
    assert vault.send(payee(2), claim_body(after.index(payee_of(payee(2))), amount, path)).exit_code == NOT_IN_THE_ROOT
    assert vault.state().claimed == frozenset()


def test_nothing_can_be_claimed_from_a_vault_that_anchored_nothing(vault: VaultInVm) -> None:
    assert vault.send(payee(0), claim_body(0, TON, ())).exit_code == NOT_IN_THE_ROOT


def test_a_node_of_the_tree_is_no_leaf(vault: VaultInVm) -> None:
    """A leaf's hash begins with another byte than a node's, and has another length."""
    after = entitled(TON, TON)
    vault.order(order(after=after))
    assert vault.send(payee(0), claim_body(0, 0, ())).exit_code == NOT_IN_THE_ROOT


def test_an_underfunded_claim_is_refused_and_good_again_once_funded(vault: VaultInVm) -> None:
    after = entitled(500 * TON, TON)
    vault.order(order(after=after, held=501 * TON))
    before = vault.state()
    outcome = vault.claim(after, payee(0), value=TON)
    assert outcome.exit_code == UNDERFUNDED
    (bounce,) = outcome.transaction.outgoing
    assert bounce.bounced
    assert bounce.value > TON - 20_000_000
    assert vault.state() == before
    assert paid_to(vault.claim(after, payee(1))) == TON
    vault.send(STRANGER, value=500 * TON)
    assert paid_to(vault.claim(after, payee(0))) == 500 * TON
    assert vault.claim(after, payee(0)).exit_code == NOTHING_DUE


def test_a_claim_cannot_spend_the_rent(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    left = vault.account().balance
    vault.order(order(left - TON - RENT_RESERVE // 2))
    vault.order(order(after=entitled(TON)))
    assert vault.claim(entitled(TON), payee(0), value=TON).exit_code == UNDERFUNDED


def test_a_claim_with_too_little_attached_is_refused_and_good_later(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    assert vault.claim(after, payee(0), value=9_999_999).exit_code == VALUE_TOO_LOW
    assert paid_to(vault.claim(after, payee(0), value=10_000_000)) == TON


def test_the_smallest_value_pays_the_deepest_claim(vault: VaultInVm) -> None:
    """Nobody loses the attached value: what the vault insists on is enough for a tree of 4096 payees."""
    after = Entitlements(amounts={b"\0" + sha256(b"%d" % i).digest(): TON for i in range(4096)})
    vault.order(order(after=after))
    lucky = Address((0, sha256(b"17").digest()))
    assert paid_to(vault.claim(after, lucky, value=10_000_000)) == TON


def test_a_claim_never_bounces_back_so_nothing_has_to_be_restored(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    outcome = vault.claim(entitled(TON), payee(0))
    (payment,) = FullTransaction.deserialize(outcome.cell.begin_parse()).out_msgs
    assert payment.info.bounce is False


def test_a_claim_of_noise_is_refused(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON, TON)))
    short = order_body(OP_CLAIM, 0).store_uint(TON, 128).store_bit(1).store_uint(1, 255).end_cell()
    assert vault.send(payee(0), short).exit_code == CELL_UNDERFLOW
    assert vault.send(payee(0), order_body(OP_CLAIM, 0).store_uint(TON, 127).end_cell()).exit_code == CELL_UNDERFLOW


def test_the_largest_leaf_is_refused_for_lack_of_money_not_by_accident(vault: VaultInVm) -> None:
    after = Entitlements(amounts={payee_of(payee(0)): (1 << 63) - 1})
    vault.order(order(after=after))
    assert vault.claim(after, payee(0)).exit_code == UNDERFUNDED


def test_claims_go_on_without_a_hot_key(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    vault.send(OWNER, revoke_key_body())
    assert paid_to(vault.claim(entitled(TON), payee(0))) == TON
