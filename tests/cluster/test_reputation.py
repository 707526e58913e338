import json
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.fleet import WEIGHT_ONE
from cluster.model import JobRequirement, Load
from cluster.reputation import WEIGHT_MIN, HostCounts, RatingFile, Ratings, Tally
from cluster.scheduler import choose
from tests.cluster.fleets import MODEL, NOW, active, fleet

SECOND = timedelta(seconds=1)


def counts(answered: int = 0, failed: int = 0) -> HostCounts:
    return HostCounts(answered=answered, failed=failed)


def ended(host, number: int, running: int = 0):
    return replace(host, load=Load(ready=True, served=number, running=running, models=frozenset({MODEL.root})))


def test_everybody_begins_with_a_full_share() -> None:
    assert Ratings().standing(active(), now=NOW).weight == WEIGHT_ONE


def test_a_host_that_always_fails_is_down_to_the_least_after_fifty_requests() -> None:
    assert Tally(at=NOW).count(0, 50, now=NOW).standing.weight == WEIGHT_MIN


def test_one_failure_among_a_hundred_costs_little_and_half_of_them_most() -> None:
    assert Tally(at=NOW).count(99, 1, now=NOW).standing.weight > 0.95 * WEIGHT_ONE
    assert Tally(at=NOW).count(50, 50, now=NOW).standing.weight < 0.2 * WEIGHT_ONE


def test_failures_fade_and_a_repaired_host_comes_back_by_its_probes() -> None:
    tally = Tally(at=NOW).count(0, 50, now=NOW)
    assert tally.count(0, 0, now=NOW - SECOND).bad == tally.bad, "a clock set back must not make failures grow"
    assert tally.count(0, 0, now=NOW + timedelta(hours=12)).standing.weight > 0.9 * WEIGHT_ONE
    for _ in range(400):
        tally = tally.count(1, 0, now=NOW)
    assert tally.standing.weight > 0.9 * WEIGHT_ONE


@pytest.mark.parametrize(("hosts", "per_second"), [(2, 1), (2, 20), (30, 20)])
def test_a_host_that_fails_in_a_millisecond_gets_less_than_one_percent_after_fifty_requests(hosts, per_second) -> None:
    """It is always idle, so by load alone it would get everything; the good ones are busy."""
    ratings, random, given_to_bad, given = Ratings(), Random(7), 0, 0
    records = [ended(active(f"good {n}"), 0) for n in range(hosts - 1)] + [ended(active("bad"), 0)]
    bad, answered, failed = records[-1].host_id, dict.fromkeys([r.host_id for r in records], 0), 0
    need = JobRequirement(model=MODEL.root)
    for second in range(8_000 // per_second):
        now = NOW + second * SECOND
        rated = []
        for record in records:
            host_id = record.host_id
            seen = counts(answered[host_id], failed if host_id == bad else 0)
            busy = ended(record, answered[host_id], running=0 if host_id == bad else 4)
            standing = ratings.observe(busy, seen, now=now)
            fresh = replace(record.capability, not_after=now + SECOND)
            rated.append(replace(busy, standing=standing, capability=fresh))
        snapshot = fleet(*rated)
        for _ in range(per_second):
            (placement,) = choose(need, snapshot, now=now, salt=random.randbytes(8))
            if failed >= 50:
                given += 1
                given_to_bad += placement.host_id == bad
            if placement.host_id == bad:
                failed += 1
            else:
                answered[placement.host_id] += 1
    if failed < 50:  # caught before: fewer than 50 requests in all went to it
        assert failed < 0.01 * 8_000
    else:
        assert given_to_bad < 0.01 * given


def test_answers_that_the_enclave_knows_nothing_of_are_failures() -> None:
    """Somebody between relay and enclave says 200 to everything."""
    ratings, host = Ratings(), active()
    for number in range(60):
        standing = ratings.observe(ended(host, 0), counts(answered=number), now=NOW + number * SECOND)
    assert (standing.failures, standing.weight) == (58, WEIGHT_MIN)


def test_answers_of_the_last_second_and_those_still_running_are_no_failures() -> None:
    ratings, host = Ratings(), active()
    ratings.observe(ended(host, 0), counts(), now=NOW)
    ratings.observe(ended(host, 0, running=1), counts(answered=3), now=NOW)
    standing = ratings.observe(ended(host, 2, running=1), counts(answered=3), now=NOW)
    assert (standing.attempts, standing.failures) == (3, 0)


def test_requests_past_the_relay_count_for_nobody() -> None:
    ratings, host = Ratings(), active()
    for number in range(5):
        standing = ratings.observe(ended(host, number * 100), counts(), now=NOW)
    assert (standing.attempts, standing.failures) == (0, 0)


def test_a_relay_or_enclave_that_begins_anew_changes_nothing() -> None:
    ratings, host = Ratings(), active()
    ratings.observe(ended(host, 0), counts(), now=NOW)
    ratings.observe(ended(host, 9), counts(answered=9, failed=9), now=NOW)
    before = ratings.observe(ended(host, 9), counts(answered=9, failed=9), now=NOW)
    assert (before.attempts, before.failures) == (18, 9)
    for again in (counts(), counts(answered=1)):
        assert ratings.observe(ended(host, 9), again, now=NOW) == before
    assert ratings.observe(ended(host, 0), counts(answered=1), now=NOW) == before


def test_a_new_enclave_on_the_same_cpu_keeps_its_reputation() -> None:
    ratings, host = Ratings(), active("a")
    ratings.observe(host, counts(), now=NOW)
    failing = ratings.observe(host, counts(failed=50), now=NOW)
    restarted = active("b", platform_id=host.capability.platform_id)
    assert ratings.standing(restarted, now=NOW) == failing
    assert ratings.standing(active("c"), now=NOW).weight == WEIGHT_ONE


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 5)), max_size=30))
def test_no_outcome_is_invented(rounds) -> None:
    ratings, host, answered, failed, done = Ratings(), active(), 0, 0, 0
    ratings.observe(ended(host, 0), counts(), now=NOW)
    for more, failures, finished, running in rounds:
        answered, failed, done = answered + more, failed + failures, done + finished
        standing = ratings.observe(ended(host, done, running), counts(answered, failed), now=NOW)
        assert failed <= standing.failures <= standing.attempts <= answered + failed
        assert WEIGHT_MIN <= standing.weight <= WEIGHT_ONE


def test_ratings_survive_a_restart(tmp_path) -> None:
    path, ratings, host = tmp_path / "reputation", Ratings(), active()
    file = RatingFile(path)
    file.save(ratings, now=NOW)
    assert not path.exists(), "nothing changed"
    ratings.observe(host, counts(), now=NOW)
    standing = ratings.observe(host, counts(failed=50), now=NOW)
    file.save(ratings, now=NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert RatingFile(path).load().standing(host, now=NOW) == standing
    ratings.observe(host, counts(failed=60), now=NOW)
    file.save(ratings, now=NOW + SECOND)
    assert RatingFile(path).load().standing(host, now=NOW) == standing, "not more often than every ten seconds"


@pytest.mark.parametrize(
    "damage", ["", "[]", "{", '{"zz": [0,0,0,0,0]}', '{"00": [0,0]}', '{"00": [0,-1,0,0,0]}', '{"00": [0,NaN,0,0,0]}']
)
def test_a_damaged_file_is_named(tmp_path, damage) -> None:
    path = tmp_path / "reputation"
    path.write_text(damage)
    with pytest.raises(ConfigError, match="remove it"):
        RatingFile(path).load()


def test_a_file_is_what_it_says(tmp_path) -> None:
    path, ratings = tmp_path / "reputation", Ratings()
    ratings.observe(active(), counts(), now=NOW)
    ratings.observe(active(), counts(failed=3), now=NOW)
    RatingFile(path).save(ratings, now=NOW)
    assert json.loads(path.read_text()) == {active().capability.platform_id.hex(): [NOW.timestamp(), 0, 3, 3, 3]}
