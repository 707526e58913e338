from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.verdict import TeeKind, Tier
from cluster.fleet import HealthMissed, step
from cluster.model import JobRequirement, Load
from cluster.scheduler import place
from tests.cluster.fleets import MODEL, NOW, active, fleet

BUSY = Load(ready=True, running=8, waiting=4, models=frozenset({MODEL.root}))
OWNER = b"\0" + b"\x77" * 32


def names(decision, hosts):
    by_id = {host.host_id: host.hints.name for host in hosts}
    return [by_id[placement.host_id] for placement in decision.placements]


def need(**changes):
    return JobRequirement(model=MODEL.root, **changes)


@pytest.mark.parametrize(
    ("host", "requirement", "rule"),
    [
        pytest.param(active(tier=Tier.OPEN), need(), "tier", id="open-host-for-private-prompts"),
        pytest.param(active(tier=Tier.CONFIDENTIAL_CPU), need(), "tier", id="no-confidential-gpu"),
        pytest.param(active(), need(tees=frozenset({TeeKind.SEV_SNP})), "tee", id="another-tee"),
        pytest.param(active(), need(gpus_min=2), "gpus", id="too-few-gpus"),
        pytest.param(active(models=frozenset()), need(), "model", id="model-not-attested"),
        pytest.param(active(coefficient=1500), need(coefficient_max=1200), "price", id="too-dear"),
        pytest.param(active(load=Load(ready=True)), need(loaded=True), "loaded", id="model-not-loaded"),
        pytest.param(active(not_after=NOW), need(), "evidence", id="expired-evidence"),
        pytest.param(active(verified_at=NOW + timedelta(seconds=5)), need(), "evidence", id="verdict-of-the-future"),
    ],
)
def test_a_host_that_loses_a_rule_is_not_chosen_and_the_rule_is_named(host, requirement, rule) -> None:
    decision = place(requirement, fleet(host), now=NOW)
    assert decision.placements == ()
    assert [loss.rule for loss in decision.losses] == [rule]


def test_a_suspended_host_is_not_chosen() -> None:
    host = active()
    for _ in range(3):
        host, _ = step(host, HealthMissed(reason="no answer", at=NOW))
    decision = place(need(), fleet(host), now=NOW)
    assert decision.placements == ()
    assert decision.losses[0].rule == "state"


def test_labels_and_names_do_not_buy_a_placement() -> None:
    host = active(tier=Tier.OPEN)
    boast = replace(host, hints=replace(host.hints, labels=(("tee", "tdx"), ("gpu", "h100"), ("tier", "confidential"))))
    assert place(need(), fleet(boast), now=NOW).placements == ()


def test_a_stronger_host_may_do_weaker_work() -> None:
    assert place(need(tier=Tier.OPEN), fleet(active()), now=NOW).placements


def test_the_least_loaded_host_comes_first_then_the_cheapest() -> None:
    hosts = (active("busy", load=BUSY), active("dear", coefficient=1100), active("cheap"))
    assert names(place(need(hosts=3), fleet(*hosts), now=NOW), hosts) == ["cheap", "dear", "busy"]


def test_different_owners_are_preferred_to_the_same_owner_twice() -> None:
    hosts = (active("one", payee=OWNER), active("two", payee=OWNER), active("other", load=BUSY))
    chosen = names(place(need(hosts=2), fleet(*hosts), now=NOW), hosts)
    assert "other" in chosen


def test_one_owner_may_fill_up_when_nobody_else_is_there() -> None:
    hosts = (active("one", payee=OWNER), active("two", payee=OWNER))
    assert len(place(need(hosts=2), fleet(*hosts), now=NOW).placements) == 2


def test_decisions_from_one_snapshot_spread_over_equal_hosts() -> None:
    hosts = [active(name) for name in "abc"]
    first = {names(place(need(), fleet(*hosts), now=NOW, salt=bytes([n])), hosts)[0] for n in range(40)}
    assert first == {"a", "b", "c"}


@given(st.integers(0, 6), st.integers(1, 4))
def test_every_host_is_either_chosen_or_explained(count, wanted) -> None:
    hosts = [active(str(n), coefficient=1000 + n, tier=list(Tier)[n % 3]) for n in range(count)]
    decision = place(need(hosts=wanted), fleet(*hosts), now=NOW)
    chosen = {placement.host_id for placement in decision.placements}
    explained = {loss.host_id for loss in decision.losses}
    assert chosen | explained == {host.host_id for host in hosts}
    assert not chosen & explained
    assert len(chosen) <= wanted
