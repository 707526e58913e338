import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.floor_store import FloorStore
from attestation.roots import PRODUCTION
from attestation.verdict import Tier
from cluster.address_book import AddressBook, HostKey
from cluster.errors import AdmissionRefusedError, ConfigError, SoleSurvivorError, TroubleError
from cluster.fleet import HostState, Window
from cluster.health_rounds import LATE_ROUNDS_MAX, LATE_S
from cluster.host_state import MISSES_MAX
from cluster.host_table import PAST_MAX
from cluster.lateness import Lateness
from cluster.model import HostHints, JobRequirement
from cluster.registry import Registry
from cluster.reputation import WEIGHT_MIN, HostCounts, RatingFile
from cluster.scheduler import place
from tests.cluster.enclaves import POLICY, TERMS, Clock, Gate, OpenEnclave, RouteMap

HINTS = HostHints(name="home", coefficient=900)


class World:
    """A registry and all it touches."""

    def __init__(self, folder) -> None:
        self.enclave = OpenEnclave("a")
        self.gate = Gate(a=self.enclave)
        self.routes = RouteMap()
        self.clock = Clock()
        self.path = folder / "book"
        self.registry = self.start()

    def start(self, **changes) -> Registry:
        parts = {"policy": POLICY, "terms": TERMS, **changes}
        kept = {"book": AddressBook(self.path), "floors": FloorStore(self.path.with_name("floors"))}
        kept["ratings"] = RatingFile(self.path.with_name("reputation"))
        return Registry(gate=self.gate, routes=self.routes, clock=self.clock, **kept, **parts)

    def state(self, index: int = 0) -> HostState:
        return self.registry.snapshot().hosts[index].state

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.registry.round()
            self.clock.forward(1)
            await asyncio.sleep(0)
        await self.registry.settled()


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


async def test_a_host_is_challenged_with_a_fresh_nonce_each_time(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.registry.admit("a", HINTS)
    assert len(set(world.gate.nonces)) == 2
    assert all(len(nonce) == 32 for nonce in world.gate.nonces)


async def test_an_admitted_host_is_active_routed_and_in_the_snapshot(world) -> None:
    admission = await world.registry.admit("a", HINTS)
    assert admission.accepted
    assert world.routes.hosts == {world.enclave.host_id: "a"}
    host = world.registry.snapshot().host(world.enclave.host_id)
    assert (host.state, host.hints.coefficient) == (HostState.ACTIVE, 900)
    assert world.registry.key(world.enclave.host_id).payee == world.enclave.payee


async def test_a_foreign_model_is_refused_with_reason_and_checks(world) -> None:
    world.gate.enclaves["a"] = OpenEnclave("a", models=(b"\x99" * 32,))
    admission = await world.registry.admit("a", HINTS)
    assert (admission.accepted, admission.error) == (False, "ModelNotAllowedError")
    assert admission.checks[-1].outcome == "failed"
    assert world.routes.hosts == {}
    assert world.state() is HostState.REFUSED


async def test_an_open_host_is_refused_where_confidential_ones_are_required(world) -> None:
    strict = replace(
        POLICY,
        unsafe_accept_open_hosts=False,
        required_tier=Tier.CONFIDENTIAL,
        roots=PRODUCTION,
    )
    admission = await world.start(policy=strict).admit("a", HINTS)
    assert (admission.accepted, admission.error) == (False, "TierError")


async def test_evidence_for_another_nonce_is_refused_as_a_replay(world) -> None:
    recorded = world.enclave.evidence(b"\x07" * 32)
    world.enclave.evidence = lambda nonce: recorded
    admission = await world.registry.admit("a", HINTS)
    assert (admission.accepted, admission.error) == (False, "FreshnessError")


async def test_garbage_instead_of_evidence_is_refused(world) -> None:
    world.enclave.evidence = lambda nonce: b"\xff" * 40
    assert (await world.registry.admit("a", HINTS)).error == "MalformedEvidenceError"


async def test_an_address_where_nobody_answers_is_told_so_and_not_kept(world) -> None:
    admission = await world.registry.admit("nowhere", HINTS)
    assert (admission.accepted, admission.error) == (False, "EnclaveUnreachableError")
    assert world.registry.snapshot().hosts == ()


async def test_a_dead_enclave_leaves_route_and_placement_within_three_rounds(world) -> None:
    await world.registry.admit("a", HINTS)
    world.enclave.alive = False
    await world.rounds(3)
    assert world.state() is HostState.SUSPENDED
    assert world.routes.hosts == {}
    requirement = JobRequirement(model=TERMS.models[0].root, tier=Tier.OPEN)
    assert place(requirement, world.registry.snapshot(), now=world.clock()).placements == ()


async def test_a_host_that_comes_back_is_challenged_before_it_is_used(world) -> None:
    await world.registry.admit("a", HINTS)
    world.enclave.alive = False
    await world.rounds(3)
    world.enclave.alive = True
    asked = len(world.gate.nonces)
    await world.rounds(2)
    assert world.state() is HostState.ACTIVE
    assert len(world.gate.nonces) == asked + 1
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_a_restarted_enclave_is_another_host_and_the_old_one_is_gone(world) -> None:
    await world.registry.admit("a", HINTS)
    world.gate.enclaves["a"] = newer = OpenEnclave("b")
    await world.rounds(2)
    snapshot = world.registry.snapshot()
    assert snapshot.host(newer.host_id).state is HostState.ACTIVE
    assert snapshot.host(world.enclave.host_id).state is HostState.GONE
    assert world.routes.hosts == {newer.host_id: "a"}


async def bind(world) -> None:
    challenge = world.registry.challenge_node(world.enclave.host_id, "node-1")
    await world.registry.bind_node(world.enclave.host_id, "node-1", world.enclave.prove(challenge))


async def test_an_address_in_front_of_somebody_elses_enclave_does_not_take_its_traffic(world) -> None:
    await world.registry.admit("a", HINTS)
    await bind(world)
    world.gate.enclaves["thief"] = world.enclave
    admission = await world.registry.admit("thief", HINTS)
    assert (admission.accepted, admission.error) == (False, "AdmissionRefusedError")
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_a_host_that_passes_challenges_on_to_another_one_later_is_refused_and_the_other_is_undisturbed(
    world,
) -> None:
    """Also before a Ray node is bound to the other one: only the enclave's or the operator's word could trouble it."""
    world.gate.enclaves["thief"] = OpenEnclave("thief")
    for address in ("a", "thief"):
        assert (await world.registry.admit(address, HINTS)).accepted
    world.gate.enclaves["thief"] = world.enclave
    await world.rounds(2)
    states = {host.address: host.state for host in world.registry.snapshot().hosts[:2]}
    assert states == {"a": HostState.ACTIVE, "thief": HostState.REFUSED}
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_of_two_addresses_that_the_operator_named_none_gets_traffic_before_a_node_proved_itself(
    world,
) -> None:
    await world.registry.admit("a", HINTS)
    world.gate.enclaves["thief"] = world.enclave
    assert not (await world.registry.admit("thief", HINTS)).accepted
    await world.rounds(3)
    assert {host.state for host in world.registry.snapshot().hosts} == {HostState.QUARANTINED}
    assert world.routes.hosts == {}
    with pytest.raises(AdmissionRefusedError, match="name one address"):
        await world.registry.release(world.enclave.host_id, "looked at it")
    await world.registry.release(world.enclave.host_id, "looked at it", address="a")
    await world.rounds(1)
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_a_quarantine_of_both_addresses_outlives_a_restart_until_the_operator_releases_one(world) -> None:
    await world.registry.admit("a", HINTS)
    world.gate.enclaves["copy"] = world.enclave
    await world.registry.admit("copy", HINTS)
    for _ in range(2):
        world.registry = world.start()
        await world.registry.restore()
        await world.rounds(2)
        assert [(host.address, host.state) for host in world.registry.snapshot().hosts] == [
            ("a", HostState.QUARANTINED)
        ]
    assert not (await world.registry.admit("copy", HINTS)).accepted, "nor does it come in at the other address"
    await world.registry.release(world.enclave.host_id, "the copy is off", address="a")
    await world.rounds(1)
    assert world.routes.hosts == {world.enclave.host_id: "a"}
    world.registry = world.start()
    await world.registry.restore()
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_a_quarantined_host_that_went_away_is_released_by_its_id(world) -> None:
    await world.registry.admit("a", HINTS)
    world.gate.enclaves["copy"] = world.enclave
    await world.registry.admit("copy", HINTS)
    registry = world.start()  # which has asked nobody yet
    await registry.release(world.enclave.host_id, "looked at it")
    assert (await registry.admit("a", HINTS)).accepted
    with pytest.raises(AdmissionRefusedError, match="nowhere"):
        await registry.release(world.enclave.host_id, "again")


def test_the_address_book_keeps_a_bounded_number_of_quarantines(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.address_book.HOLDS_MAX", 2)
    book = AddressBook(tmp_path / "book")
    for number in range(3):
        book.hold(bytes([number] * 8), "twice")
    again = AddressBook(tmp_path / "book")
    assert [again.hold_of(bytes([number] * 8)) for number in range(3)] == [None, "twice", "twice"]


async def test_a_banned_machine_stays_out_under_new_keys_and_over_a_restart_until_it_is_released(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.registry.expel(world.enclave.host_id, "complaints")
    assert world.state() is HostState.BANNED
    registry = world.start()
    for again in (world.registry, registry):
        admission = await again.admit("a", HINTS)
        assert (admission.accepted, "banned: complaints" in admission.reason) == (False, True)
    await registry.release(world.enclave.host_id, "appeal")  # of an open host the instance is the machine
    assert (await world.start().admit("a", HINTS)).accepted


async def test_a_released_host_may_join_again(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.registry.expel(world.enclave.host_id, "complaints")
    await world.registry.release(world.enclave.host_id, "appeal")
    assert (await world.registry.admit("a", HINTS)).accepted
    history = [past.state for past in world.registry.snapshot().host(world.enclave.host_id).history]
    assert history == ["joining", "active", "banned", "gone", "joining", "active"]


async def test_the_last_host_of_a_model_is_not_drained_before_another_serves_it(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.rounds(1)
    window = Window(start=world.clock(), end=None, reason="disk")
    with pytest.raises(SoleSurvivorError, match="place it elsewhere first"):
        await world.registry.plan(world.enclave.host_id, window)
    later = replace(window, start=world.clock() + timedelta(seconds=2))
    await world.registry.plan(world.enclave.host_id, later)
    await world.rounds(4)
    assert world.state() is HostState.ACTIVE
    world.gate.enclaves["b"] = OpenEnclave("b")
    await world.registry.admit("b", HINTS)
    await world.rounds(2)
    assert world.registry.snapshot().host(world.enclave.host_id).state is HostState.DRAINING
    assert len(world.routes.hosts) == 2, "what it has begun goes on"
    await world.registry.plan(world.enclave.host_id, None)
    assert world.registry.snapshot().host(world.enclave.host_id).state is HostState.ACTIVE


async def test_announced_maintenance_is_remembered_over_a_restart(world) -> None:
    await world.registry.admit("a", HINTS)
    window = Window(start=world.clock(), end=world.clock() + timedelta(hours=1), reason="disk", forced=True)
    await world.registry.plan(world.enclave.host_id, window)
    registry = world.start()
    (admission,) = await registry.restore()
    assert (admission.accepted, registry.snapshot().hosts[0].state) == (True, HostState.DRAINING)
    assert registry.snapshot().hosts[0].window == window
    await registry.plan(world.enclave.host_id, None)
    registry = world.start()
    await registry.restore()
    assert registry.snapshot().hosts[0].state is HostState.ACTIVE


async def test_two_last_hosts_of_a_model_are_not_drained_together(world) -> None:
    world.gate.enclaves["b"] = other = OpenEnclave("b")
    for address in ("a", "b"):
        await world.registry.admit(address, HINTS)
    await world.rounds(1)
    window = Window(start=world.clock() + timedelta(seconds=1), end=None, reason="both")
    for host in (world.enclave, other):
        await world.registry.plan(host.host_id, window)
    await world.rounds(3)
    states = sorted(host.state for host in world.registry.snapshot().hosts)
    assert states == [HostState.ACTIVE, HostState.DRAINING]


async def test_a_forced_maintenance_begins_at_once(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.rounds(1)
    window = Window(start=world.clock(), end=None, reason="fire", forced=True)
    record = await world.registry.plan(world.enclave.host_id, window)
    assert record.state is HostState.DRAINING


async def test_what_the_relay_saw_fail_costs_reputation_also_over_a_restart(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.rounds(1)
    world.routes.counts = {world.enclave.host_id: HostCounts(answered=0, failed=50)}
    await world.rounds(1)
    standing = world.registry.snapshot().hosts[0].standing
    assert (standing.weight, standing.failures) == (WEIGHT_MIN, 50)
    world.registry = world.start()
    await world.registry.restore()
    await world.rounds(1)
    assert world.registry.snapshot().hosts[0].standing.failures == 50


async def test_an_enclave_that_moved_is_taken_in_at_its_new_address_once_the_old_one_is_silent(world) -> None:
    await world.registry.admit("a", HINTS)
    del world.gate.enclaves["a"]
    world.gate.enclaves["b"] = world.enclave
    await world.rounds(3)
    assert (await world.registry.admit("b", HINTS)).accepted
    assert world.routes.hosts == {world.enclave.host_id: "b"}


async def test_evidence_is_renewed_while_the_host_serves(world) -> None:
    await world.registry.admit("a", HINTS)
    first = world.registry.snapshot().hosts[0].capability
    world.clock.forward(301)
    await world.rounds(2)
    renewed = world.registry.snapshot().hosts[0]
    assert renewed.state is HostState.ACTIVE
    assert renewed.capability.not_after > first.not_after


async def test_a_host_that_no_longer_meets_changed_terms_is_refused(world) -> None:
    await world.registry.admit("a", HINTS)
    none = replace(TERMS.reference, models=frozenset())
    await world.registry.update_terms(replace(TERMS, seqno=2, reference=none, models=()))
    assert world.state() is HostState.REFUSED
    assert world.routes.hosts == {}


async def test_an_operator_that_was_closed_is_so_in_the_next_picture_and_its_hosts_stay(world) -> None:
    await world.registry.admit("a", HINTS)
    before = world.registry.snapshot()
    await world.registry.update_terms(TERMS.without_operator())
    after = await world.registry.wait_snapshot(before.version, timeout_s=1)
    assert (before.closed, after.closed) == ("", "the registry names it no more")
    assert world.state() is HostState.ACTIVE
    await world.registry.update_terms(TERMS)
    assert world.registry.snapshot().closed == ""


async def test_a_restarted_registry_asks_for_fresh_evidence_and_remembers_keys(world) -> None:
    await world.registry.admit("a", HINTS)
    asked = len(world.gate.nonces)
    registry = world.start()
    assert registry.snapshot().hosts == ()
    (admission,) = await registry.restore()
    assert admission.accepted
    assert len(world.gate.nonces) == asked + 1
    assert registry.key(world.enclave.host_id).receipt == world.enclave.receipt


async def test_after_a_restart_a_host_that_changed_for_the_worse_is_not_taken_over(world) -> None:
    await world.registry.admit("a", HINTS)
    world.enclave.models = (b"\x99" * 32,)
    registry = world.start()
    (admission,) = await registry.restore()
    assert not admission.accepted


async def test_a_relay_in_trouble_gets_the_map_in_a_later_round(world) -> None:
    world.routes.trouble = TroubleError("relay restarts")
    await world.registry.admit("a", HINTS)
    assert world.routes.hosts == {}
    world.routes.trouble = None
    await world.rounds(1)
    assert world.routes.hosts == {world.enclave.host_id: "a"}


async def test_waiting_for_a_snapshot_ends_with_the_next_change(world) -> None:
    version = world.registry.snapshot().version
    waiting = asyncio.create_task(world.registry.wait_snapshot(version, timeout_s=10))
    await asyncio.sleep(0)
    await world.registry.admit("a", HINTS)
    assert (await waiting).version > version


async def test_waiting_for_a_snapshot_without_a_change_ends_with_the_time(world) -> None:
    version = world.registry.snapshot().version
    assert (await world.registry.wait_snapshot(version, timeout_s=0.01)).version == version


async def test_a_node_is_bound_by_a_signature_of_the_enclave(world) -> None:
    await world.registry.admit("a", HINTS)
    challenge = world.registry.challenge_node(world.enclave.host_id, "node-1")
    await world.registry.bind_node(world.enclave.host_id, "node-1", world.enclave.prove(challenge))
    assert world.registry.snapshot().hosts[0].node_id == "node-1"


@pytest.mark.parametrize("attack", ["another node", "another enclave", "replay"])
async def test_a_node_that_cannot_prove_itself_is_not_bound(world, attack) -> None:
    await world.registry.admit("a", HINTS)
    host = world.enclave.host_id
    challenge = world.registry.challenge_node(host, "node-1")
    proof = (OpenEnclave("b") if attack == "another enclave" else world.enclave).prove(challenge)
    if attack == "replay":
        await world.registry.bind_node(host, "node-1", proof)
    with pytest.raises(AdmissionRefusedError):
        await world.registry.bind_node(host, "node-2" if attack == "another node" else "node-1", proof)


async def test_an_expelled_host_stays_out_after_a_restart(world) -> None:
    await world.registry.admit("a", HINTS)
    await world.registry.expel(world.enclave.host_id, "complaints")
    assert world.routes.hosts == {}
    assert await world.start().restore() == ()


async def test_the_key_of_a_refused_host_ends_then_also_over_a_restart(world) -> None:
    await world.registry.admit("a", HINTS)
    world.clock.forward(5)
    await world.registry.expel(world.enclave.host_id, "complaints")
    ended = int(world.clock().timestamp())
    assert world.registry.key(world.enclave.host_id).ended_at == ended
    assert world.start().key(world.enclave.host_id).ended_at == ended


async def test_a_host_that_fails_a_later_challenge_earns_nothing_until_it_is_admitted_again(world) -> None:
    await world.registry.admit("a", HINTS)
    none = replace(TERMS.reference, models=frozenset())
    await world.registry.update_terms(replace(TERMS, seqno=2, reference=none, models=()))
    assert world.registry.key(world.enclave.host_id).ended_at == int(world.clock().timestamp())
    await world.registry.update_terms(replace(TERMS, seqno=3))
    assert (await world.registry.admit("a", HINTS)).accepted
    assert world.registry.key(world.enclave.host_id).ended_at is None


async def test_a_host_that_went_away_keeps_its_key_for_receipts_on_their_way(world) -> None:
    await world.registry.admit("a", HINTS)
    world.enclave.alive = False
    await world.rounds(70)
    assert world.state() is HostState.GONE
    assert world.registry.key(world.enclave.host_id).ended_at is None


def test_a_host_that_keeps_proving_itself_is_not_pushed_out_of_the_address_book(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cluster.address_book.KEYS_MAX", 3)
    book = AddressBook(tmp_path / "book")
    keys = [HostKey(host_id=bytes([i]) * 8, receipt=b"r" * 32, payee=b"p" * 33) for i in range(6)]
    for key in keys[1:]:
        book.remember("a", HINTS, keys[0])
        book.remember("b", HINTS, key)
    assert book.key(keys[0].host_id) == keys[0]
    assert book.key(keys[1].host_id) is None


async def test_refused_strangers_do_not_pile_up(world) -> None:
    for number in range(PAST_MAX + 10):
        world.gate.enclaves[f"x{number}"] = OpenEnclave(f"x{number}", models=(b"\x99" * 32,))
        world.clock.forward(1)
        await world.registry.admit(f"x{number}", HINTS)
    assert len(world.registry.snapshot().hosts) <= PAST_MAX


def test_a_damaged_address_book_is_named(tmp_path) -> None:
    path = tmp_path / "book"
    path.write_text('{"address": 3}\n')
    with pytest.raises(ConfigError, match="line 1"):
        AddressBook(path)


async def test_preferred_roots_are_in_the_next_snapshot_and_the_same_ones_change_nothing(world) -> None:
    before = world.registry.snapshot()
    await world.registry.prefer_models(frozenset({b"\x11" * 32}))
    after = world.registry.snapshot()
    assert (after.preferred, after.version > before.version) == ({b"\x11" * 32}, True)
    await world.registry.prefer_models(after.preferred)
    assert world.registry.snapshot().version == after.version


@pytest.mark.parametrize(("late_s", "state"), [(LATE_S / 2, HostState.SUSPENDED), (LATE_S * 2, HostState.ACTIVE)])
async def test_silence_does_not_count_while_the_registry_comes_late_itself(world, late_s: float, state) -> None:
    registry = world.registry = world.start(lateness=lambda: late_s)
    await registry.admit("a", HINTS)
    world.gate.silent.add("a")
    for _ in range(MISSES_MAX):
        await registry.round()
    assert world.state() is state


async def test_a_registry_that_is_late_for_long_counts_silence_in_the_end(world) -> None:
    registry = world.registry = world.start(lateness=lambda: LATE_S * 2)
    await registry.admit("a", HINTS)
    world.gate.silent.add("a")
    for _ in range(LATE_ROUNDS_MAX + MISSES_MAX):
        await registry.round()
    assert world.state() is HostState.SUSPENDED


async def test_a_dead_host_is_suspended_however_late_the_registry_is(world) -> None:
    registry = world.registry = world.start(lateness=lambda: LATE_S * 2)
    await registry.admit("a", HINTS)
    del world.gate.enclaves["a"]  # the connection is refused
    for _ in range(MISSES_MAX):
        await registry.round()
    assert world.state() is HostState.SUSPENDED


async def test_a_registry_that_restarts_takes_no_host_from_the_relay_before_all_were_asked(world) -> None:
    world.gate.enclaves["b"] = other = OpenEnclave("b")
    for address in ("a", "b"):
        await world.registry.admit(address, HINTS)
    both, seen = dict(world.routes.hosts), []
    set_hosts = world.routes.set_hosts

    async def watch(hosts, *, only: bool) -> None:
        await set_hosts(hosts, only=only)
        seen.append(dict(world.routes.hosts))

    world.routes.set_hosts = watch
    del world.gate.enclaves["b"]
    registry = world.start()
    await registry.restore()
    assert seen and all(hosts == both for hosts in seen)
    await registry.round()
    assert world.routes.hosts == {world.enclave.host_id: "a"} and other.host_id in both


async def test_a_blocked_event_loop_is_noticed() -> None:
    lateness = Lateness()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(lateness.run())
        await asyncio.sleep(0.01)
        time.sleep(0.5)
        assert lateness.take() >= 0.3
        running.cancel()
