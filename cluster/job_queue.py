"""Jobs that wait for a host: fair between accounts, bounded, and never for ever. Pure: time and fleet are arguments.

A job is placed on the host that it fills best. The first LOOK_AHEAD jobs of each account are tried in the accounts'
turn (cluster.fair_queue), so one that cannot be placed yet holds up nobody else. One that is first in its account and
has waited for RESERVE_AFTER_S although a host large enough exists reserves that host: nothing else starts there before.
A host of little reputation is open to a small share of the jobs only, else a host that fails at once, and is therefore
always free, would get them all.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from random import Random

from cluster.errors import ClusterError, JobExistsError, NoEligibleHostError, QueueFullError, QueueTimeoutError
from cluster.fair_queue import FairQueue
from cluster.fleet import WEIGHT_ONE, FleetSnapshot, HostRecord
from cluster.fleet_index import FactsCache, FleetIndex
from cluster.model import JobRequirement, Loss, Placement
from cluster.placement import Replica
from cluster.rules import first_loss, lost, summary
from cluster.scheduler import explain, placement_of
from cluster.slots import Slots, slots_of

JOBS_MAX = 200_000
ACCOUNT_JOBS_MAX = 100_000
LOOK_AHEAD = 8
LOOKED_AT = 32  # hosts of equal room that are looked at before all of the fleet is
UNSATISFIABLE_AFTER_S = 30.0  # for hosts that are just being renewed, or joining
RESERVE_AFTER_S = 60.0
RESERVE_AT_ONCE = 8
KINDS_MAX = 4096
WAIT_MAX_S = 24 * 3600.0
PAST_MAX = 1024  # decisions kept to be explained


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work that takes slots of one host until it is finished."""

    job_id: bytes
    account: bytes
    requirement: JobRequirement
    cost: int  # what its account is charged in the queue, for example GPU-seconds
    weight: int = 1  # its account's, compared with others
    wait_max_s: float = WAIT_MAX_S

    @property
    def slots(self) -> int:
        """Slots of a host it takes."""
        return max(1, self.requirement.gpus_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A job got its place."""

    job: Job
    placement: Placement
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job will not be placed; the error says why."""

    job: Job
    error: ClusterError


@dataclass(slots=True)
class _Waiting:
    job: Job
    kind: int  # number of its requirement
    since: datetime
    fits_at: datetime  # when some host was last seen that could take it if nothing ran there
    reserved: bytes | None = None


@dataclass(slots=True)
class JobQueue:
    """Jobs that wait and jobs that run."""

    slots: Slots = field(default_factory=Slots)
    _queue: FairQueue[_Waiting] = field(default_factory=FairQueue)
    _accounts: dict[bytes, bytes] = field(default_factory=dict)  # job -> account, of those that wait
    _reserved: dict[bytes, bytes] = field(default_factory=dict)  # host -> job
    _kinds: dict[JobRequirement, int] = field(default_factory=dict)
    _blocked: dict[int, int] = field(default_factory=dict)  # kind -> how many of `_freed` were looked at
    _freed: list[bytes] = field(default_factory=list)  # hosts that got room since the fleet changed
    _past: "deque[tuple[bytes, str]]" = field(default_factory=lambda: deque(maxlen=PAST_MAX))
    _fleet: FleetSnapshot | None = None
    _cache: FactsCache = field(default_factory=FactsCache)

    def __len__(self) -> int:
        return len(self._queue)

    def waiting(self, account: bytes) -> int:
        """How many jobs of an account wait."""
        return self._queue.waiting(account)

    def submit(self, job: Job, *, now: datetime) -> None:
        """Let a job wait for its place.

        Raises:
            JobExistsError: one of this id waits or runs.
            QueueFullError: as many jobs wait as are allowed, of all accounts or of this one.
        """
        if job.job_id in self._accounts or job.job_id in self.slots.claims:
            raise JobExistsError(job.job_id.hex())
        if len(self._queue) >= JOBS_MAX or self._queue.waiting(job.account) >= ACCOUNT_JOBS_MAX:
            raise QueueFullError(len(self._queue), self._queue.waiting(job.account))
        if len(self._kinds) > max(KINDS_MAX, 2 * len(self._queue)):
            self._number_kinds()
        kind = self._kinds.setdefault(job.requirement, len(self._kinds))
        waiting = _Waiting(job, kind=kind, since=now, fits_at=now)
        self._queue.add(job.job_id, waiting, account=job.account, cost=job.cost, weight=job.weight)
        self._accounts[job.job_id] = job.account

    def cancel(self, job_id: bytes) -> bool:
        """Forget a job that waits, free the slots of one that runs; False when there is none."""
        waiting = self._remove(job_id)
        if waiting is not None:
            self._past.append((job_id, "it was cancelled before it was placed"))
        return self.finish(job_id) or waiting is not None

    def finish(self, job_id: bytes) -> bool:
        """Free the slots of a job that ended; False when none ran."""
        claim = self.slots.release(job_id)
        if claim is not None:
            self._freed.append(claim.host_id)
        return claim is not None

    def placement(self, job_id: bytes, fleet: FleetSnapshot) -> Placement | None:
        """Where a job runs; None when it does not, or its host has left."""
        claim = self.slots.claims.get(job_id)
        host = FleetIndex.of(fleet).host(claim.host_id) if claim else None
        return placement_of(host) if host is not None else None

    def adopt(self, job: Job, host_id: bytes, *, fleet: FleetSnapshot) -> bool:
        """Note that a job runs on a host already; False when that host has no room for it."""
        self._follow(fleet)
        if job.job_id in self.slots.claims:
            return self.slots.claims[job.job_id].host_id == host_id
        if self.slots.free(host_id) < job.slots:
            return False
        self._remove(job.job_id)
        self.slots.take(job.job_id, host_id, job.slots)
        return True

    def hold_replicas(self, old: Iterable[bytes], replicas: Iterable[Replica]) -> None:
        """Exchange the slots of model replicas, named by their claims, for those of a new plan."""
        for name in old:
            self.finish(name)
        for replica in replicas:
            if 0 < replica.gpus <= self.slots.free(replica.host_id):
                self.slots.take(replica.claim, replica.host_id, replica.gpus)
        self._blocked.clear()

    def dispatch(self, fleet: FleetSnapshot, *, now: datetime) -> tuple[Started, ...]:
        """Start whatever can start now, in the order of the accounts' turns."""
        self._follow(fleet)
        started: list[Started] = []
        while (one := self._start_one(fleet, now)) is not None:
            started.append(one)
        return tuple(started)

    def expire(self, fleet: FleetSnapshot, *, now: datetime) -> tuple[Failed, ...]:
        """Give up jobs that no host could take for UNSATISFIABLE_AFTER_S, or that waited too long; once a second."""
        self._follow(fleet)
        satisfiable: dict[int, bool] = {}
        failed: list[Failed] = []
        for waiting in [*self._queue]:
            if waiting.kind not in satisfiable:
                satisfiable[waiting.kind] = any(self._takers(waiting.job, fleet, now))
            if satisfiable[waiting.kind]:
                waiting.fits_at = now
            error = self._overdue(waiting, fleet, now)
            if error is not None:
                self._remove(waiting.job.job_id)
                self._past.append((waiting.job.job_id, str(error)))
                failed.append(Failed(job=waiting.job, error=error))
        self._reserve(fleet, now)
        return tuple(failed)

    def explain(self, job_id: bytes, *, now: datetime) -> str:
        """Why a job is where it is, in a sentence or two; empty for one that is not remembered."""
        claim = self.slots.claims.get(job_id)
        if claim is not None:
            return f"it has {claim.slots} slots of host {claim.host_id.hex()}"
        account = self._accounts.get(job_id)
        if account is None or self._fleet is None:
            return next((words for past, words in reversed(self._past) if past == job_id), "")
        waiting = self._queue.item(account, job_id)
        text = f"it has waited for {(now - waiting.since).total_seconds():.0f} s"
        if waiting.reserved is not None:
            return f"{text} and is the next on host {waiting.reserved.hex()}"
        return f"{text}; {summary(self._losses(waiting.job, self._fleet, now))}"

    # --- inside ------------------------------------------------------------------------------------------------------

    def _follow(self, fleet: FleetSnapshot) -> None:
        if fleet is self._fleet:
            return
        self._fleet = fleet
        index = FleetIndex.of(fleet, self._cache)
        self.slots.follow({host.host_id: slots_of(host) for host in fleet.active() if host.host_id})
        self._blocked.clear()
        self._freed.clear()
        self._reserved = {host: job for host, job in self._reserved.items() if index.host(host) is not None}

    def _number_kinds(self) -> None:
        """Forget the requirements of jobs that wait no longer."""
        self._kinds.clear()
        self._blocked.clear()
        for waiting in self._queue:
            waiting.kind = self._kinds.setdefault(waiting.job.requirement, len(self._kinds))

    def _start_one(self, fleet: FleetSnapshot, now: datetime) -> Started | None:
        for account, items in self._queue.fronts(LOOK_AHEAD):
            for job_id, waiting in items:
                host = self._find_host(waiting, fleet, now)
                if host is not None and host.host_id is not None:
                    self._queue.take(account, job_id)
                    del self._accounts[job_id]
                    self._reserved.pop(waiting.reserved or b"", None)
                    self.slots.take(job_id, host.host_id, waiting.job.slots)
                    self._past.append((job_id, f"it was placed on host {host.label} at {now:%H:%M:%S} UTC"))
                    waited_s = (now - waiting.since).total_seconds()
                    return Started(job=waiting.job, placement=placement_of(host), waited_s=waited_s)
        return None

    def _find_host(self, waiting: _Waiting, fleet: FleetSnapshot, now: datetime) -> HostRecord | None:
        job, index = waiting.job, FleetIndex.of(fleet)

        def usable(host_id: bytes) -> HostRecord | None:
            if self.slots.free(host_id) < job.slots or self._reserved.get(host_id, job.job_id) != job.job_id:
                return None
            host = index.host(host_id)
            if host is None or first_loss(host, job.requirement, now=now) is not None:
                return None
            return host if waiting.reserved == host_id or _open_to(host, job) else None

        if waiting.reserved is not None and (host := usable(waiting.reserved)) is not None:
            return host
        seen = self._blocked.get(waiting.kind)
        if seen is not None:  # nothing in the fleet had room: only what was freed since can have
            found = next((host for host in map(usable, self._freed[seen:]) if host is not None), None)
        else:
            found = self._best_fit(job, usable) or self._any(job, index, usable)
        if found is None and waiting.reserved is None:
            self._blocked[waiting.kind] = len(self._freed)
        return found

    def _best_fit(self, job: Job, usable: Callable[[bytes], HostRecord | None]) -> HostRecord | None:
        """A host that the job leaves least room on; of those drawn with equal room, by reputation and then price."""
        random = Random(job.job_id)
        for hosts in self.slots.with_room(job.slots):
            drawn = list(hosts) if len(hosts) <= LOOKED_AT else random.sample(list(hosts), LOOKED_AT)
            fitting = [host for host in map(usable, drawn) if host is not None]
            if fitting:
                return min(fitting, key=lambda host: (-random.random() * host.standing.weight, host.hints.coefficient))
        return None

    def _any(self, job: Job, index: FleetIndex, usable: Callable[[bytes], HostRecord | None]) -> HostRecord | None:
        hosts = (host.host_id for pool in index.pools(job.requirement) for host in pool)
        return next((host for host in map(usable, filter(None, hosts)) if host is not None), None)

    def _overdue(self, waiting: _Waiting, fleet: FleetSnapshot, now: datetime) -> ClusterError | None:
        job = waiting.job
        waited_s = (now - waiting.since).total_seconds()
        unfit_s = (now - waiting.fits_at).total_seconds()
        if unfit_s >= UNSATISFIABLE_AFTER_S:
            losses = self._losses(job, fleet, now)
            return NoEligibleHostError(f"job {job.job_id.hex()}", tuple((loss.name, str(loss)) for loss in losses))
        if waited_s >= job.wait_max_s:
            return QueueTimeoutError(job.job_id.hex(), round(waited_s), summary(self._losses(job, fleet, now)))
        return None

    def _losses(self, job: Job, fleet: FleetSnapshot, now: datetime) -> Iterable[Loss]:
        """What keeps each host from taking the job: a rule, or that it has no room."""
        for loss, host in zip(explain(job.requirement, fleet, now=now), fleet.hosts, strict=True):
            if loss.rule not in {"rank", "owner"} or host.host_id is None:
                yield loss
            elif slots_of(host) < job.slots:
                yield lost(host, "slots", f"it has {slots_of(host)} slots, {job.slots} are needed")
            elif self.slots.free(host.host_id) < job.slots:
                yield lost(host, "room", f"{self.slots.free(host.host_id)} slots are free, {job.slots} are needed")
            elif self._reserved.get(host.host_id, job.job_id) != job.job_id:
                yield lost(host, "reserved", "a job that waits longer is next")
            else:
                yield lost(host, "turn", "other accounts are before it")

    def _takers(self, job: Job, fleet: FleetSnapshot, now: datetime) -> Iterator[HostRecord]:
        """Hosts that could take a job if nothing ran on them."""
        for pool in FleetIndex.of(fleet).pools(job.requirement):
            for host in pool:
                if slots_of(host) >= job.slots and first_loss(host, job.requirement, now=now) is None:
                    yield host

    def _reserve(self, fleet: FleetSnapshot, now: datetime) -> None:
        """Give the first job of each account that has waited for long a host of its own, at most half of all hosts."""
        left = min(RESERVE_AT_ONCE, max(1, len(fleet.active()) // 2) - len(self._reserved))
        for _, items in self._queue.fronts(1):
            for job_id, waiting in items:
                held = waiting.reserved is not None and self._reserved.get(waiting.reserved) == job_id
                if held or (now - waiting.since).total_seconds() < RESERVE_AFTER_S:
                    continue
                if left <= 0:
                    return
                takers = [host for host in self._takers(waiting.job, fleet, now) if host.host_id not in self._reserved]
                host = max(takers, key=lambda host: self.slots.free(host.host_id or b""), default=None)
                waiting.reserved = host.host_id if host else None
                if waiting.reserved is not None:
                    self._reserved[waiting.reserved] = job_id
                left -= 1

    def _remove(self, job_id: bytes) -> _Waiting | None:
        account = self._accounts.pop(job_id, None)
        waiting = self._queue.drop(account, job_id) if account is not None else None
        if waiting is not None:
            self._reserved.pop(waiting.reserved or b"", None)
        return waiting


def _open_to(host: HostRecord, job: Job) -> bool:
    """Whether a job is among the share that a host of this reputation gets; the same answer each time it is asked."""
    weight = host.standing.weight
    if weight >= WEIGHT_ONE:
        return True
    return int.from_bytes(sha256(job.job_id + (host.host_id or b"")).digest()[:8]) % WEIGHT_ONE < weight
