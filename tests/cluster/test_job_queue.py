from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import job_queue
from cluster.errors import JobExistsError, NoEligibleHostError, QueueFullError, QueueTimeoutError
from cluster.fleet import Standing
from cluster.job_queue import RESERVE_AFTER_S, UNSATISFIABLE_AFTER_S, Job, JobQueue
from cluster.model import JobRequirement
from cluster.rules import first_loss
from tests.cluster.fleets import MODEL, NOW, active, capability, fleet

SECOND = timedelta(seconds=1)
GPU = capability().gpus[0]
LONG = {"not_after": NOW + timedelta(days=2)}


def server(name, gpus=1, **changes):
    return active(name, gpus=(GPU,) * gpus, **(LONG | changes))


def job(name, *, account="a", gpus=1, cost=1, **changes):
    need = JobRequirement(model=MODEL.root, gpus_min=gpus)
    return Job(job_id=name.encode(), account=account.encode(), requirement=need, cost=cost, **changes)


def submitted(*jobs, now=NOW):
    queue = JobQueue()
    for one in jobs:
        queue.submit(one, now=now)
    return queue


def started(queue, snapshot, now=NOW):
    return [one.job.job_id.decode() for one in queue.dispatch(snapshot, now=now)]


def where(queue, snapshot, now=NOW):
    names = {host.host_id: host.hints.name for host in snapshot.hosts}
    return {one.job.job_id.decode(): names[one.placement.host_id] for one in queue.dispatch(snapshot, now=now)}


def test_jobs_run_until_the_gpus_are_taken_and_go_on_when_some_are_free() -> None:
    snapshot, queue = fleet(server("h", 2)), submitted(job("1"), job("2"), job("3"))
    assert started(queue, snapshot) == ["1", "2"]
    assert queue.finish(b"1")
    assert started(queue, snapshot) == ["3"]


def test_a_job_is_put_where_it_leaves_the_least_room() -> None:
    snapshot = fleet(server("big", 8), server("mid", 4), server("small", 1))
    assert where(submitted(job("1"), job("2", gpus=4), job("3", gpus=8)), snapshot) == {
        "1": "small",
        "2": "mid",
        "3": "big",
    }


def test_accounts_take_turns_whatever_the_order_of_their_jobs() -> None:
    queue = submitted(*(job(f"a{n}") for n in range(50)), job("b0", account="b"), job("b1", account="b"))
    assert set(started(queue, fleet(server("h", 4)))) == {"a0", "b0", "a1", "b1"}


def test_a_job_that_cannot_be_placed_yet_holds_up_nobody() -> None:
    snapshot = fleet(server("h", 2), server("big", 8))
    queue = submitted(job("0", gpus=8))
    assert started(queue, snapshot) == ["0"]
    queue.submit(job("large", gpus=8), now=NOW)
    queue.submit(job("small"), now=NOW)
    queue.submit(job("other", account="b"), now=NOW)
    assert set(started(queue, snapshot)) == {"small", "other"}


def test_a_large_job_reserves_a_host_instead_of_waiting_for_ever_behind_small_ones() -> None:
    snapshot = fleet(server("h", 4))
    queue = submitted(*(job(f"s{n}", account=f"c{n}") for n in range(4)))
    assert len(started(queue, snapshot)) == 4
    queue.submit(job("large", gpus=4), now=NOW)
    for number in range(20):
        queue.submit(job(f"t{number}", account=f"d{number}"), now=NOW)
    late = NOW + timedelta(seconds=RESERVE_AFTER_S)
    queue.expire(snapshot, now=late)
    for number in range(3):
        queue.finish(b"s%d" % number)
        assert started(queue, snapshot, late) == []
    assert "is the next on host" in queue.explain(b"large", now=late)
    queue.finish(b"s3")
    assert started(queue, snapshot, late) == ["large"]
    queue.finish(b"large")
    assert len(started(queue, snapshot, late)) == 4, "the reservation ended with its job"


def test_what_no_host_can_ever_do_fails_with_the_reason_and_does_not_hang() -> None:
    snapshot, queue = fleet(server("h", 2)), submitted(job("1", gpus=8))
    assert queue.expire(snapshot, now=NOW + timedelta(seconds=UNSATISFIABLE_AFTER_S - 1)) == ()
    (failed,) = queue.expire(snapshot, now=NOW + timedelta(seconds=UNSATISFIABLE_AFTER_S))
    assert isinstance(failed.error, NoEligibleHostError)
    assert "h: gpus: it proved 2 GPUs, 8 are required" in str(failed.error)
    assert len(queue) == 0
    assert "8 are required" in queue.explain(b"1", now=NOW)


def test_a_job_survives_a_moment_without_its_only_host() -> None:
    queue, gap = submitted(job("1")), timedelta(seconds=UNSATISFIABLE_AFTER_S - 5)
    assert queue.expire(fleet(), now=NOW + gap) == ()
    assert queue.expire(fleet(server("h")), now=NOW + gap + SECOND) == ()
    assert queue.expire(fleet(), now=NOW + 2 * gap) == ()


def test_a_job_that_waited_as_long_as_it_wanted_fails_with_the_reason() -> None:
    snapshot, queue = fleet(server("h")), submitted(job("1"), job("2", wait_max_s=5))
    started(queue, snapshot)
    (failed,) = queue.expire(snapshot, now=NOW + 5 * SECOND)
    assert isinstance(failed.error, QueueTimeoutError)
    assert "0 slots are free, 1 are needed" in str(failed.error)


def test_the_queue_has_limits(monkeypatch) -> None:
    monkeypatch.setattr(job_queue, "ACCOUNT_JOBS_MAX", 2)
    monkeypatch.setattr(job_queue, "JOBS_MAX", 3)
    queue = submitted(job("1"), job("2"))
    with pytest.raises(QueueFullError):
        queue.submit(job("3"), now=NOW)
    queue.submit(job("4", account="b"), now=NOW)
    with pytest.raises(QueueFullError):
        queue.submit(job("5", account="c"), now=NOW)


def test_a_job_id_is_used_once_while_it_waits_and_while_it_runs() -> None:
    queue = submitted(job("1"))
    for _ in range(2):
        with pytest.raises(JobExistsError):
            queue.submit(job("1", account="b"), now=NOW)
        queue.dispatch(fleet(server("h")), now=NOW)


def test_a_cancelled_job_is_not_started_and_one_that_runs_gives_its_room_back() -> None:
    snapshot, queue = fleet(server("h")), submitted(job("1"), job("2"), job("3"))
    assert started(queue, snapshot) == ["1"]
    assert queue.cancel(b"2")
    assert queue.cancel(b"1")
    assert not queue.cancel(b"9")
    assert started(queue, snapshot) == ["3"]


def test_a_host_that_fails_at_once_and_is_always_free_does_not_get_the_jobs() -> None:
    bad = replace(server("bad"), standing=Standing(weight=1000))
    snapshot, queue = fleet(server("good"), bad), submitted(*(job(f"{n}") for n in range(2000)))
    given: Counter[str] = Counter()
    while len(queue) > 100:
        for name, host in where(queue, snapshot).items():
            given[host] += 1
            if host == "bad":
                queue.finish(name.encode())
        running = [name for name, claim in queue.slots.claims.items()]
        queue.finish(running[0])
        snapshot = replace(snapshot, version=snapshot.version + 1)
    assert given["bad"] < 0.01 * sum(given.values())


def test_the_only_host_of_little_reputation_is_used_after_a_while() -> None:
    snapshot = fleet(replace(server("bad"), standing=Standing(weight=1)))
    queue, late = submitted(job("1")), NOW + timedelta(seconds=RESERVE_AFTER_S)
    assert started(queue, snapshot) == []
    queue.expire(snapshot, now=late)
    assert started(queue, snapshot, late) == ["1"]


def test_requirements_of_jobs_long_gone_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(job_queue, "KINDS_MAX", 4)
    queue, snapshot = submitted(job("0")), fleet(server("h", 1))
    assert started(queue, snapshot) == ["0"]
    for number in range(1, 40):
        one = job(f"{number}")
        need = replace(one.requirement, duration_s=number)
        queue.submit(replace(one, requirement=need), now=NOW)
        queue.finish(b"%d" % (number - 1))
        assert started(queue, snapshot) == [f"{number}"]
    assert len(queue._kinds) <= 6


def test_why_a_job_waits_is_said() -> None:
    snapshot, queue = fleet(server("h"), active("cpu", gpus=(), **LONG)), submitted(job("1"), job("2"))
    started(queue, snapshot)
    words = queue.explain(b"2", now=NOW + SECOND)
    assert words.startswith("it has waited for 1 s; 2 hosts do not take it, 1 of them by room (h: 0 slots are free")
    assert "1 of them by gpus (cpu: it proved 0 GPUs" in words
    assert "slots of host" in queue.explain(b"1", now=NOW)
    queue.finish(b"1")
    assert "it was placed on host h" in queue.explain(b"1", now=NOW)
    assert queue.explain(b"never", now=NOW) == ""


def test_a_host_that_left_and_came_back_still_runs_what_it_ran() -> None:
    snapshot, queue = fleet(server("h")), submitted(job("1"), job("2"))
    started(queue, snapshot)
    assert started(queue, fleet()) == started(queue, snapshot) == []
    queue.finish(b"1")
    assert started(queue, snapshot) == ["2"]


WHAT = st.sampled_from(["submit", "finish", "cancel", "dispatch", "fleet"])
STEPS = st.lists(st.tuples(WHAT, st.integers(0, 7), st.sampled_from([1, 2, 4])), max_size=60)


@given(STEPS)
def test_no_gpu_is_given_twice_and_no_job_runs_where_it_loses_a_rule(steps) -> None:
    hosts = [server("a", 1), server("b", 2), server("c", 4), active("d", gpus=(), **LONG)]
    snapshot, queue, needs, now = fleet(*hosts), JobQueue(), {}, NOW
    for number, (what, index, gpus) in enumerate(steps):
        now += SECOND
        names = [b"%d" % n for n in range(number)]
        if what == "submit":
            one = job(f"{number}", account=str(index), gpus=gpus)
            needs[one.job_id] = one
            queue.submit(one, now=now)
        elif what in {"finish", "cancel"} and names:
            getattr(queue, what)(names[index % len(names)])
        elif what == "fleet":
            snapshot = fleet(*hosts[index % 4 :])
        elif what == "dispatch":
            for one in queue.dispatch(snapshot, now=now):
                host = snapshot.host(one.placement.host_id)
                assert first_loss(host, one.job.requirement, now=now) is None
        used: Counter[bytes] = Counter()
        for claim in queue.slots.claims.values():
            used[claim.host_id] += claim.slots
        assert all(used[host.host_id] <= max(1, len(host.capability.gpus)) for host in hosts)
