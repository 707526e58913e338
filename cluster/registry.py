"""The registry: every host's record, kept true by challenges and health checks. Plain asyncio; the actor wraps it."""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from attestation.floor_store import FloorStore
from attestation.policy import AppraisalPolicy
from cluster.address_book import AddressBook, HostKey
from cluster.admission import (
    Admission,
    NetworkTerms,
    appraise,
    check_node_proof,
    check_still_allowed,
    node_challenge,
)
from cluster.enclave_client import EnclaveControlError, EnclaveGate
from cluster.errors import (
    AdmissionRefusedError,
    EnclaveSilentError,
    EnclaveUnreachableError,
    SoleSurvivorError,
    TroubleError,
)
from cluster.fleet import ENDED, ROUTED, WAITING, WATCHED, FleetSnapshot, HostRecord, HostState, Window
from cluster.host_state import (
    Action,
    Admitted,
    Ban,
    Bound,
    Event,
    HealthMissed,
    HealthSeen,
    Planned,
    Quarantine,
    Rated,
    Refused,
    Released,
    Tick,
    gone,
    joining,
    sole_models,
    step,
)
from cluster.lateness import Lateness
from cluster.model import HostHints, Load
from cluster.reputation import NO_COUNTS, HostCounts, RatingFile, key_of, machine_of

PERIOD_S = 1.0
LATE_S = 0.3  # a third of a health check's time: who comes so late himself cannot tell who is silent
LATE_ROUNDS_MAX = 10  # in a row; afterwards silence counts whoever is late
CHALLENGES_MAX = 512  # of those who ask to join, at the same time; each may keep us waiting for seconds
PAST_MAX = 64  # refused and replaced hosts that stay visible
NONCES_MAX = 1024
_log = logging.getLogger(__name__)


class Routes(Protocol):
    """The relay: its map from host id to address, and what became of the requests."""

    async def set_hosts(self, hosts: Mapping[bytes, str], *, only: bool) -> None:
        """Make these hosts reachable, and `only` these."""
        ...

    async def outcomes(self) -> Mapping[bytes, HostCounts]:
        """How requests to each host ended since the relay started."""
        ...


class Registry:
    """Records of all hosts, and the snapshots made of them."""

    def __init__(
        self,
        *,
        gate: EnclaveGate,
        routes: Routes,
        book: AddressBook,
        floors: FloorStore,
        policy: AppraisalPolicy,
        terms: NetworkTerms,
        ratings: RatingFile,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lateness: Callable[[], float] | None = None,
    ) -> None:
        self._gate = gate
        self._routes = routes
        self._book = book
        self._floors = floors
        self._policy = policy
        self._terms = terms
        self._clock = clock
        self._lateness = Lateness()
        self._take_lateness = lateness or self._lateness.take
        self._late_rounds = 0
        self._rating_file, self._ratings = ratings, ratings.load()
        self._records: dict[str, HostRecord] = {}  # by address: one enclave listens there
        self._past: deque[HostRecord] = deque(maxlen=PAST_MAX)
        self._preferred: frozenset[bytes] = frozenset()
        self._nonces: dict[bytes, bytes] = {}  # host id -> open node challenge
        self._challenging = asyncio.Semaphore(CHALLENGES_MAX)
        self._busy: set[str] = set()  # addresses under challenge now
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._routes_stale = True
        self._restoring = False  # until every known host was asked, the relay forgets none
        self._appraised = floors.floors
        # versions must grow over restarts too, or a waiting gateway would take an old one for the newest
        self._version = int(clock().timestamp() * 1000)

    # --- reading -----------------------------------------------------------------------------------------------

    def snapshot(self) -> FleetSnapshot:
        """The fleet now."""
        return FleetSnapshot(
            version=self._version,
            at=self._clock(),
            hosts=(*self._records.values(), *self._past),
            models=self._terms.models,
            preferred=self._preferred,
            operator=self._terms.operator,
            closed=self._terms.closed,
        )

    async def wait_snapshot(self, version: int, *, timeout_s: float) -> FleetSnapshot:
        """The fleet once it is newer than `version`, or as it is after `timeout_s`."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version > version), timeout_s)
        return self.snapshot()

    def key(self, host_id: bytes) -> HostKey | None:
        """Receipt key and payee of an instance that was admitted at some time; None for a stranger."""
        return self._book.key(host_id)

    @property
    def terms(self) -> NetworkTerms:
        """What the on-chain registry says, as last read."""
        return self._terms

    # --- changing ----------------------------------------------------------------------------------------------

    async def admit(self, address: str, hints: HostHints) -> Admission:
        """Challenge the enclave at `address` with a fresh nonce; take it in or say why not."""
        try:
            async with self._challenging:  # not for renewals: strangers must not keep members waiting
                event = await self._challenge(address)
        except EnclaveUnreachableError as error:
            return Admission(address=address, accepted=False, reason=str(error), error=type(error).__name__)
        record = await self._settle(address, hints, event)
        accepted = record.state in ROUTED
        return Admission(
            address=address,
            accepted=accepted,
            reason=record.reason,
            host_id=record.host_id if accepted else None,
            error=record.error or ("" if accepted else "AdmissionRefusedError"),
            checks=record.capability.checks if accepted and record.capability else record.checks,
            capability=record.capability if accepted else None,
        )

    async def restore(self) -> tuple[Admission, ...]:
        """Challenge every address of the address book anew; nothing is taken over without fresh evidence."""
        known = self._book.addresses()
        self._restoring = True
        try:
            return tuple(await asyncio.gather(*(self.admit(address, hints) for address, hints in known.items())))
        finally:
            self._restoring, self._routes_stale = False, True

    async def update_terms(self, terms: NetworkTerms) -> None:
        """Take over what chain and log say now.

        A host that was denied is refused at once, whether it answers or not. After a change of reference values, or of
        the log, every other one is challenged.
        """
        before, self._terms = self._terms, terms
        if terms == before:
            return
        await self._publish()
        for record in self._current(*WATCHED):
            refused = check_still_allowed(record.capability, terms, now=self._clock()) if record.capability else None
            if refused is not None:
                await self._step(record.address, refused)
        if (terms.reference, terms.log) != (before.reference, before.log):
            await asyncio.gather(*(self._renew(record.address) for record in self._current(*ROUTED)))

    async def prefer_models(self, roots: frozenset[bytes]) -> None:
        """Say which roots leases are for, where a name has several, see cluster.rollout."""
        if roots != self._preferred:
            self._preferred = roots
            await self._publish()

    async def round(self) -> None:
        """One health check of every host that is not at an end, and what follows from it."""
        self._take_lateness()  # between the rounds it does not matter
        checked = self._current(*WATCHED)
        silences = await asyncio.gather(*(self._check(record) for record in checked))
        pairs = zip(checked, silences, strict=True)
        await self._note_silent([(record, missed) for record, missed in pairs if missed is not None])
        await self._rate()
        self._reappraise()
        for record in self._current(*WATCHED):
            if record.address in self._records:  # an enclave may move while the relay hears of the one before it
                now = self._clock()
                begins = record.window is not None and record.window.covers(now)
                sole = sole_models(record, self._records.values()) if begins else frozenset[bytes]()
                await self._step(record.address, Tick(at=now, sole=sole))
        self._routes_stale = True  # a relay that restarted has forgotten everything; the same map again changes nothing
        await self._sync_routes()

    async def run(self) -> None:
        """Rounds, one a second, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lateness.run())
            while True:
                began = loop.time()
                await self.round()
                await asyncio.sleep(max(0.0, PERIOD_S - (loop.time() - began)))

    def challenge_node(self, host_id: bytes, node_id: str) -> bytes:
        """What the enclave's control socket has to sign for `bind_node`; AdmissionRefusedError for an unknown host."""
        self._record_of(host_id, *ROUTED)
        if len(self._nonces) >= NONCES_MAX:
            self._nonces.clear()
        self._nonces[host_id] = secrets.token_bytes(32)
        return node_challenge(self._nonces[host_id], node_id)

    async def bind_node(self, host_id: bytes, node_id: str, proof: bytes) -> None:
        """Note that a Ray node runs beside this host's enclave. AdmissionRefusedError when the proof does not hold."""
        record = self._record_of(host_id, *ROUTED)
        nonce = self._nonces.pop(host_id, None)
        if nonce is None or record.capability is None:
            raise AdmissionRefusedError(f"no challenge is open for host {host_id.hex()}: ask for one first")
        check_node_proof(record.capability, nonce=nonce, node_id=node_id, proof=proof)
        await self._step(record.address, Bound(node_id=node_id))

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """Announce maintenance of a host, or (None) call it off; returns its record afterwards.

        A window that begins later waits then, if need be, for another host of each model; one that begins now is
        refused.

        Raises:
            AdmissionRefusedError: no such host.
            SoleSurvivorError: it would begin now, is not forced, and nobody else serves a model of this host.
        """
        record, now = self._record_of(host_id, *WATCHED), self._clock()
        if window is not None and window.covers(now) and not window.forced and record.state is HostState.ACTIVE:
            sole = sole_models(record, self._records.values())
            if sole:
                raise SoleSurvivorError(record.label, tuple(sorted(root.hex() for root in sole)))
        self._book.plan(record.address, window)
        return await self._step(record.address, Planned(window=window, at=now))

    async def count_job(self, host_id: bytes, *, ok: bool) -> None:
        """Count how a job ended for its host's reputation; a host that has left in between is passed over."""
        if (record := self.routed(host_id)) is not None:
            standing = self._ratings.count_job(record, ok=ok, now=self._clock())
            await self._step(record.address, Rated(standing=standing))

    def routed(self, host_id: bytes) -> HostRecord | None:
        """The host with this id that the relay sends requests to; None when there is none."""
        return self._find(host_id, *ROUTED)

    async def leave(self, host_id: bytes, reason: str) -> None:
        """Let a host go that is in order: no route, no more challenges. Nothing happens when there is none."""
        record = self.routed(host_id)
        if record is None:
            return
        self._records[record.address] = gone(record, reason, self._clock())
        self._book.forget(record.address)
        self._routes_stale = True
        self._prune()
        await self._sync_routes()
        await self._publish()

    async def expel(self, host_id: bytes, reason: str) -> None:
        """Ban a host and the machine it runs on, for a reason the operator gives; `release` lifts it."""
        record = self._record_of(host_id, *WATCHED)
        self._book.ban(key_of(record), reason)
        await self._step(record.address, Ban(reason=reason, at=self._clock()))
        self._book.forget(record.address)

    async def release(self, host_id: bytes, reason: str, *, address: str = "") -> None:
        """Lift a quarantine, after which the host is challenged anew, or a ban, after which it may join again.

        Args:
            host_id: whose; or the banned machine's id, when the registry has restarted since and knows no host there.
            reason: for its owner to read.
            address: where the right one is, when the same host is quarantined at two; the other one's record ends.
        """
        released = (HostState.QUARANTINED, HostState.BANNED)
        same = [record for record in self._current(*released) if record.host_id == host_id]
        if not same and self._book.ban_of(host_id.hex()) is not None:
            self._book.pardon(host_id.hex())
            return
        chosen = [record for record in same if address in {"", record.address}]
        if len(chosen) != 1:
            places = ", ".join(record.address for record in same) or "nowhere"
            raise AdmissionRefusedError(f"host {host_id.hex()} is quarantined or banned at {places}: name one address")
        (record,), now = chosen, self._clock()
        for other in same:
            if other is not record:
                self._retire(other, now)
                del self._records[other.address]
        self._book.pardon(key_of(record))
        await self._step(record.address, Released(reason=reason, at=now))

    # --- inside ------------------------------------------------------------------------------------------------

    async def _challenge(self, address: str) -> Admitted | Refused:
        nonce = secrets.token_bytes(32)
        try:
            data = await self._gate.fetch_evidence(address, nonce)
        except EnclaveControlError as error:
            return Refused(error=type(error).__name__, reason=str(error), checks=(), at=self._clock())
        floors, now = self._floors.floors, self._clock()
        event = appraise(data, self._policy, self._terms, nonce=nonce, now=now, floors=floors)
        if isinstance(event, Admitted):
            self._floors.raise_by(event.capability.marks)  # nothing waited since they were read
        return event

    async def _settle(self, address: str, hints: HostHints, event: Admitted | Refused) -> HostRecord:
        """Apply the outcome of a challenge to the record at `address`, or to a new one."""
        event = self._check_banned(event)
        twin = self._twin(address, event) if isinstance(event, Admitted) else None
        record = self._records.get(address)
        newcomer = record is None or record.state in ENDED
        if record is not None and isinstance(event, Admitted) and record.host_id != event.capability.host_id:
            newcomer = True  # another enclave instance took the address over
        if newcomer:
            if record is not None:
                self._retire(record, event.at)
            record = joining(address, hints, now=event.at, history=record.history if record is not None else ())
            record = replace(record, window=self._book.window(address))
        if record is None:
            raise RuntimeError("a newcomer has a record by now")
        record = self._records[address] = replace(record, hints=hints)
        if isinstance(event, Admitted) and twin is not None:
            after = await self._quarantine_both(record, twin, event)
        else:
            if isinstance(event, Admitted):
                self._book.remember(address, hints, HostKey.of(event.capability))
            after = await self._step(address, event)
        self._prune()
        return after

    def _check_banned(self, event: Admitted | Refused) -> Admitted | Refused:
        if isinstance(event, Admitted) and (reason := self._book.ban_of(machine_of(event.capability))) is not None:
            reason = f"machine {machine_of(event.capability)} is banned: {reason}; ask the operator"
            return Refused(error="AdmissionRefusedError", reason=reason, checks=(), at=event.at)
        return event

    def _twin(self, address: str, event: Admitted) -> HostRecord | None:
        """The record of the same enclave at another address, unless the enclave has moved away from there."""
        for other in [*self._records.values()]:
            if other.address == address or other.host_id != event.capability.host_id or other.state in ENDED:
                continue
            if other.state not in WAITING:
                return other
            self._retire(other, event.at)  # it moved
            del self._records[other.address]
        return None

    async def _quarantine_both(self, newcomer: HostRecord, twin: HostRecord, event: Admitted) -> HostRecord:
        """Two addresses answer for one enclave: somebody passes challenges on, or its keys are in two places.

        The one beside which a Ray node proved to run stays, and the newcomer is refused: else anybody who can reach an
        enclave could stop its traffic. Where none proved that, nobody can tell which is right, and both are out of
        traffic until the operator releases one.
        """
        reason = f"host {event.capability.host_id.hex()} answers at {twin.address} and at {newcomer.address}"
        if twin.node_id is not None:
            reason = f"{reason}; it is active at the first address, stop it there first"
            refused = Refused(error="AdmissionRefusedError", reason=reason, checks=(), at=event.at)
            return await self._step(newcomer.address, refused)
        await self._step(twin.address, Quarantine(reason=reason, at=event.at))
        self._records[newcomer.address] = replace(newcomer, capability=event.capability)
        return await self._step(newcomer.address, Quarantine(reason=reason, at=event.at))

    def _prune(self) -> None:
        """Keep the newest of the hosts that are refused or gone."""
        ended = [record for record in self._records.values() if record.state in ENDED]
        for record in sorted(ended, key=lambda record: record.since)[:-PAST_MAX]:
            del self._records[record.address]

    def _retire(self, record: HostRecord, now: datetime) -> None:
        if record.state not in ENDED:
            record = gone(record, "another enclave took its place", now)
        self._past.append(record)
        self._routes_stale = True

    async def _check(self, record: HostRecord) -> HealthMissed | None:
        """Ask once and note the answer; returns a silence, which is not noted yet."""
        try:
            health = await self._gate.fetch_health(record.address)
            load, answering = Load.from_health(health), health.get("host_id")
        except EnclaveSilentError as error:
            return HealthMissed(reason=str(error), at=self._clock())
        except (EnclaveUnreachableError, EnclaveControlError, ValueError) as error:
            await self._note(record, HealthMissed(reason=str(error), at=self._clock()))
            return None
        if record.host_id is None or answering != record.host_id.hex():
            await self._note(record, HealthMissed(reason="another enclave answers", at=self._clock()))
            self._background(self._renew(record.address))
            return None
        await self._note(record, HealthSeen(load=load, at=self._clock()))
        return None

    async def _note_silent(self, silent: Sequence[tuple[HostRecord, HealthMissed]]) -> None:
        """Count silences, unless this process was too late itself to hear."""
        late_s = self._take_lateness()
        self._late_rounds = self._late_rounds + 1 if late_s > LATE_S else 0
        if silent and 0 < self._late_rounds <= LATE_ROUNDS_MAX:
            _log.warning("%d hosts were not heard, and this process came %.1f s late: not counted", len(silent), late_s)
            return
        for record, missed in silent:
            await self._note(record, missed)

    async def _rate(self) -> None:
        """Measure what became of the requests; a relay that does not answer is asked again in the next round."""
        try:
            outcomes = await self._routes.outcomes()
        except TroubleError as error:
            _log.warning("the relay did not say what became of requests: %s", error)
            return
        now = self._clock()
        for record in self._current(*ROUTED):
            standing = self._ratings.observe(record, outcomes.get(record.host_id or b"", NO_COUNTS), now=now)
            if standing != record.standing:
                await self._step(record.address, Rated(standing=standing))
        self._ratings.forget_others({record.host_id for record in self._records.values() if record.host_id})
        self._rating_file.save(self._ratings, now=now)

    def _reappraise(self) -> None:
        """Challenge every host whose evidence rests on vendors' lists with a lower number than has been seen since."""
        floors = self._floors.floors
        if floors == self._appraised:
            return
        self._appraised = floors
        numbers = {mark.series: mark.number for mark in floors.marks}
        for record in self._current(*ROUTED):
            marks = record.capability.marks.marks if record.capability else ()
            if any(mark.number < numbers.get(mark.series, 0) for mark in marks):
                self._background(self._renew(record.address))

    async def _note(self, record: HostRecord, event: Event) -> None:
        """Apply a health event, unless the record was replaced while the enclave was asked."""
        current = self._records.get(record.address)
        if current is not None and current.host_id == record.host_id and current.state not in ENDED:
            await self._step(record.address, event)

    async def _renew(self, address: str) -> None:
        """Challenge the enclave at a known address once more; one challenge at a time for each address."""
        record = self._records.get(address)
        if record is None or address in self._busy:
            return
        self._busy.add(address)
        try:
            event = await self._challenge(address)
        except EnclaveUnreachableError as error:
            await self._note(record, HealthMissed(reason=str(error), at=self._clock()))
        else:
            await self._settle(address, record.hints, event)
        finally:
            self._busy.discard(address)

    async def _step(self, address: str, event: Event) -> HostRecord:
        before = self._records[address]
        after, actions = step(before, event)
        self._records[address] = after
        if Action.CHALLENGE in actions:
            self._background(self._renew(address))
        if after.state in {HostState.REFUSED, HostState.BANNED} and after.host_id is not None:
            self._book.end(after.host_id, at=int(after.since.timestamp()))
        if after.state is not before.state:
            _log.info("host %s at %s is %s: %s", after.label, address, after.state, after.reason)
        if Action.OPEN_ROUTE in actions or Action.CLOSE_ROUTE in actions:
            self._routes_stale = True
            await self._sync_routes()
        if after != replace(before, misses=after.misses, challenged_at=after.challenged_at):
            await self._publish()
        return after

    async def _sync_routes(self) -> None:
        """Tell the relay who is active. When it does not answer, the next round tries again."""
        if not self._routes_stale:
            return
        hosts = {record.host_id: record.address for record in self._current(*ROUTED) if record.host_id}
        try:
            await self._routes.set_hosts(hosts, only=not self._restoring)
            self._routes_stale = False
        except TroubleError as error:
            _log.warning("the relay did not take the host map: %s", error)

    async def _publish(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()

    def _current(self, *states: HostState) -> list[HostRecord]:
        return [record for record in self._records.values() if record.state in states]

    def _find(self, host_id: bytes, *states: HostState) -> HostRecord | None:
        return next((record for record in self._current(*states) if record.host_id == host_id), None)

    def _record_of(self, host_id: bytes, *states: HostState) -> HostRecord:
        record = self._find(host_id, *states)
        if record is None:
            names = ", ".join(sorted(states))
            raise AdmissionRefusedError(f"host {host_id.hex()} is not {names}; see `chrysalis hosts`")
        return record

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a renewal failed", exc_info=task.exception())
