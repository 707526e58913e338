from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.verdict import Tier
from billing.lease_request import OPEN_HOSTS_MAX, LeaseRequest
from billing.money import Nanotons
from cluster.errors import (
    LeaseRequestError,
    NoEligibleHostError,
    OperatorClosedError,
    StaleRequestError,
    UnknownModelError,
)
from cluster.fleet import Window
from cluster.lease import LEASE_S, check_ordered, lease_id, plan_lease, split_budget
from cluster.model import Load
from tests.cluster.fleets import MODEL, NOW, active, fleet, name_bytes

REQUEST = LeaseRequest(
    operator=b"\x01" * 32,
    account=b"\x02" * 32,
    model=MODEL.name,
    tier="confidential",
    hosts=3,
    budget=Nanotons(1_000_000),
    request_id=b"\x03" * 16,
    issued_at=int(NOW.timestamp()),
)
FLEET = fleet(active("a"), active("b", coefficient=900), active("c", tier=Tier.OPEN))


def test_a_lease_names_eligible_hosts_and_its_slices_sum_to_the_budget() -> None:
    plan = plan_lease(REQUEST, FLEET, now=NOW)
    assert {host.hints.name for host in plan.candidates} == {"a", "b"}
    assert plan.grant.amount == REQUEST.budget
    assert plan.grant.tariff == MODEL.tariff
    assert plan.grant.not_after == REQUEST.issued_at + LEASE_S
    assert {part.coefficient for part in plan.grant.hosts} == {1000, 900}


def test_candidates_come_in_the_order_of_the_grant() -> None:
    plan = plan_lease(REQUEST, FLEET, now=NOW)
    assert [host.host_id for host in plan.candidates] == [part.host_id for part in plan.grant.hosts]


def test_a_model_may_be_asked_by_name_or_by_root() -> None:
    assert plan_lease(replace(REQUEST, model=MODEL.root.hex()), FLEET, now=NOW).model is MODEL


def test_the_same_request_names_the_same_lease_and_another_another() -> None:
    assert lease_id(REQUEST) == lease_id(replace(REQUEST))
    for change in ({"request_id": b"\x04" * 16}, {"budget": Nanotons(2_000_000)}, {"account": b"\x05" * 32}):
        assert lease_id(replace(REQUEST, **change)) != lease_id(REQUEST)


@pytest.mark.parametrize("seconds", [-61, 61])
def test_a_replayed_or_predated_request_is_refused(seconds) -> None:
    with pytest.raises(StaleRequestError, match="check the clock"):
        plan_lease(REQUEST, FLEET, now=NOW + timedelta(seconds=seconds))


def test_an_operator_that_governance_closed_gives_no_lease() -> None:
    with pytest.raises(OperatorClosedError, match="takes no new leases: governance has suspended it"):
        plan_lease(REQUEST, replace(FLEET, closed="governance has suspended it"), now=NOW)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match=MODEL.name):
        plan_lease(replace(REQUEST, model="gpt-9"), FLEET, now=NOW)


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(LeaseRequestError, match="confidential-cpu"):
        plan_lease(replace(REQUEST, tier="secret"), FLEET, now=NOW)


def test_a_budget_that_buys_nothing_is_refused() -> None:
    with pytest.raises(LeaseRequestError, match="too small"):
        plan_lease(replace(REQUEST, budget=Nanotons(999)), FLEET, now=NOW)


def test_a_private_request_never_falls_back_to_an_open_host() -> None:
    with pytest.raises(NoEligibleHostError) as refusal:
        plan_lease(REQUEST, fleet(active("c", tier=Tier.OPEN)), now=NOW)
    assert "c: tier: it is open, confidential is required" in str(refusal.value)


def test_a_host_that_has_not_loaded_the_model_gets_no_lease() -> None:
    with pytest.raises(NoEligibleHostError, match="not loaded"):
        plan_lease(REQUEST, fleet(active("a", load=Load(ready=True))), now=NOW)


def test_a_lease_rather_names_hosts_whose_maintenance_begins_after_it() -> None:
    soon = Window(start=NOW + timedelta(seconds=60), end=None, reason="disk")
    leaving = replace(active("a"), window=soon)
    assert [host.hints.name for host in plan_lease(REQUEST, fleet(leaving, active("b")), now=NOW).candidates] == ["b"]
    last = plan_lease(REQUEST, fleet(leaving), now=NOW + timedelta(seconds=59))
    assert [host.hints.name for host in last.candidates] == ["a"], "the last one serves until another one does"


def test_a_large_fleet_is_refused_in_a_short_message() -> None:
    hosts = [active(f"c{number}", tier=Tier.OPEN) for number in range(500)]
    with pytest.raises(NoEligibleHostError) as refusal:
        plan_lease(REQUEST, fleet(*hosts), now=NOW)
    assert "500 hosts: 500 by tier" in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_an_empty_fleet_says_to_retry() -> None:
    with pytest.raises(NoEligibleHostError, match="retry"):
        plan_lease(REQUEST, fleet(), now=NOW)


@given(st.integers(1_000, 10**15), st.integers(1, 3))
def test_splitting_a_budget_neither_makes_nor_loses_money(budget, parts) -> None:
    slices = split_budget(Nanotons(budget), parts)
    assert sum(slices) == budget
    assert max(slices) - min(slices) <= 1


OPEN = replace(REQUEST, tier="open", hosts=6)


def test_an_open_lease_names_open_hosts_of_different_owners_only_and_is_reviewed() -> None:
    owned = [active(f"o{number}", tier=Tier.OPEN, payee=name_bytes(f"owner{number % 4}", 33)) for number in range(8)]
    plan = plan_lease(OPEN, fleet(active("a"), *owned), now=NOW)
    assert plan.grant.review
    assert {host.capability.tier for host in plan.candidates} == {Tier.OPEN}
    owners = [host.owner for host in plan.candidates]
    assert len(owners) == len(set(owners)) == 4
    assert plan.grant.amount == OPEN.budget


def test_an_open_lease_never_falls_to_attested_hosts_nor_a_sealed_one_to_open_hosts() -> None:
    with pytest.raises(NoEligibleHostError, match="only open is wanted"):
        plan_lease(OPEN, fleet(active("a")), now=NOW)
    for tier in (Tier.CONFIDENTIAL, Tier.CONFIDENTIAL_CPU):
        sealed = replace(REQUEST, tier=tier.value)
        assert not plan_lease(sealed, FLEET, now=NOW).grant.review
        with pytest.raises(NoEligibleHostError, match="it is open"):
            plan_lease(sealed, fleet(active("c", tier=Tier.OPEN)), now=NOW)


def test_the_books_take_a_reviewed_grant_for_an_open_request_and_for_no_other() -> None:
    sealed = plan_lease(REQUEST, FLEET, now=NOW).grant
    check_ordered(sealed, REQUEST)
    with pytest.raises(LeaseRequestError, match="reviewed of open hosts only"):
        check_ordered(replace(sealed, review=True), REQUEST)
    unreviewed = replace(plan_lease(OPEN, FLEET, now=NOW).grant, review=False)
    with pytest.raises(LeaseRequestError, match="reviewed of open hosts only"):
        check_ordered(unreviewed, OPEN)


def test_only_an_open_request_may_name_more_than_three_hosts() -> None:
    assert OPEN.hosts == OPEN_HOSTS_MAX
    for wrong in ({"tier": "confidential"}, {"hosts": 7}):
        with pytest.raises(ValueError, match="hosts must be 1 to"):
            replace(OPEN, **wrong)
