from cluster.explain import DECISIONS_MAX, DecisionLog, describe_row, explain_host
from cluster.host_state import HealthMissed, step
from cluster.model import JobRequirement
from cluster.scheduler import place
from tests.cluster.fleets import MODEL, NOW, active, fleet

NEED = JobRequirement(model=MODEL.root)


def told(host, *others, log=None):
    return explain_host(fleet(host, *others), host.hints.name, log or DecisionLog(), now=NOW)


def test_a_host_that_may_get_leases_is_told_so() -> None:
    assert told(active("a"), active("b"))["leases"] == {MODEL.name: "yes, beside 1 other hosts"}


def test_an_idle_host_is_told_the_rule_it_loses_for_each_model() -> None:
    words = told(active("a", models=frozenset()))
    assert words["leases"] == {MODEL.name: "no; model: its evidence does not name the model"}


def test_the_last_decisions_say_what_they_meant_for_the_host() -> None:
    log, a, b = DecisionLog(), active("a"), active("b", coefficient=1300)
    for need in (NEED, JobRequirement(model=MODEL.root, coefficient_max=1200)):
        decision = place(need, fleet(a, b), now=NOW)
        log.add("placed", need, [placement.host_id for placement in decision.placements], now=NOW)
    assert [past["outcome"] for past in told(a, b, log=log)["decisions"]] == ["chosen", "chosen"]
    assert [past["outcome"] for past in told(b, a, log=log)["decisions"]] == [
        "not chosen; price: its owner asks 1300/1000 of the tariff, at most 1200 is paid",
        "not chosen; it wins every rule, other hosts were better",
    ]


def test_decisions_are_forgotten_at_some_time() -> None:
    log = DecisionLog()
    for _ in range(DECISIONS_MAX + 9):
        log.add("placed", NEED, [], now=NOW)
    assert len(log.decisions) == DECISIONS_MAX


def test_the_history_of_a_host_is_there_to_read_newest_first() -> None:
    host = active("a")
    for _ in range(3):
        host, _ = step(host, HealthMissed(reason="no answer", at=NOW))
    words = told(host)
    assert [past["state"] for past in words["history"]] == ["suspended", "active", "joining"]
    assert words["leases"][MODEL.name].startswith("no; state: it is suspended: 3 health checks missed")


def test_a_host_is_found_by_id_name_and_address_and_nobody_by_anything_else() -> None:
    host = active("a")
    for name in (host.host_id.hex(), "a", host.address):
        assert explain_host(fleet(host), name, DecisionLog(), now=NOW)["host_id"] == host.host_id.hex()
    for name in ("b", "", "00" * 8):
        assert explain_host(fleet(host), name, DecisionLog(), now=NOW) is None
    assert describe_row(host)["share"] == 1.0
