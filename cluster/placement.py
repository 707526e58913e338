"""Which host serves which model: a plan of loads and unloads that disturbs as little as it can. Pure.

1. A replica stays where it is. It moves only when its host loses a rule, or begins its maintenance; then another one is
   loaded first, and the old one goes when that one serves.
2. New replicas go where the model is loaded already, then to owners with the fewest replicas of the model, then where
   they leave the least room. A replica of g GPUs (tensor parallel) needs them on one host. Large ones are placed first.
3. Replicas beyond the demand, the newest ones, stay for as long as the demand says (`spare_s`): loading a model on a
   confidential host takes minutes. When somebody needs their room, those that were there for `residence_min_s` go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cluster.fleet import WEIGHT_ONE, FleetSnapshot, HostRecord, HostState
from cluster.fleet_index import FleetIndex
from cluster.model import JobRequirement, Loss
from cluster.rules import first_loss, lost
from cluster.slots import Claim, Slots

RESIDENCE_MIN_S = 600.0
WEIGHT_STEPS = 4  # reputations that differ by less are equal here


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDemand:
    """How many replicas of a model there should be, and where they may be."""

    requirement: JobRequirement  # names the model; its `gpus_min` GPUs are each replica's; `hosts` and `loaded` unused
    replicas: int
    spare_s: float | None = None  # how long a replica beyond them stays; None: until somebody needs its room

    def __post_init__(self) -> None:
        if self.requirement.model is None or self.requirement.loaded or self.replicas < 0:
            raise ValueError("a demand names a model, does not ask for it to be loaded, and is not negative")

    @property
    def model(self) -> bytes:
        """Manifest root, 32 bytes."""
        return self.requirement.model or b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A model on a host."""

    model: bytes
    host_id: bytes
    gpus: int
    since: datetime  # when it was put there
    spare_since: datetime | None = field(default=None, compare=False)  # since when it is beyond the demand

    @property
    def claim(self) -> bytes:
        """The name of the slots it takes."""
        return self.model + self.host_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What should be where. Do the unloads first, they make the room; `leaving` still serve until another one does."""

    replicas: tuple[Replica, ...]  # all that should be there afterwards, those that stay and those to load
    load: tuple[Replica, ...] = ()
    unload: tuple[Replica, ...] = ()
    leaving: tuple[Replica, ...] = ()  # kept only until a replacement serves
    missing: tuple[tuple[bytes, int, tuple[Loss, ...]], ...] = ()  # model, replicas without a place, and why


def plan_models(
    demands: Sequence[ModelDemand],
    present: Sequence[Replica],
    fleet: FleetSnapshot,
    *,
    now: datetime,
    residence_min_s: float = RESIDENCE_MIN_S,
    jobs: Iterable[Claim] = (),
    retired: frozenset[bytes] = frozenset(),
) -> ModelPlan:
    """Plan where the models go.

    Args:
        demands: one for each model; a model without one has no use for its replicas.
        present: the replicas of the plan before.
        fleet: the hosts as last seen.
        now: for evidence, maintenance and residence.
        residence_min_s: how long a replica stays at least, unless its host loses a rule.
        jobs: slots that replicas cannot have.
        retired: models that nobody may need any more; their replicas go at once.
    """
    if len({demand.model for demand in demands}) != len(demands):
        raise ValueError("one demand for each model")
    planner = _Planner(fleet, now=now, residence_min_s=residence_min_s, jobs=tuple(jobs), retired=retired)
    by_model = {demand.model: demand for demand in demands}
    for replica in sorted(present, key=lambda replica: (replica.since, replica.claim)):
        planner.review(replica, by_model.get(replica.model))
    for demand in sorted(demands, key=lambda demand: (-demand.requirement.gpus_min, demand.model)):
        planner.fill(demand)
    return planner.plan(demands)


def replicas_seen(demands: Sequence[ModelDemand], fleet: FleetSnapshot, *, now: datetime) -> tuple[Replica, ...]:
    """The replicas that hosts report, for a scheduler that begins anew; their residence begins now."""
    return tuple(
        Replica(model=demand.model, host_id=host.host_id, gpus=demand.requirement.gpus_min, since=now)
        for demand in demands
        for host in fleet.hosts
        if host.host_id and host.load.ready and demand.model in host.load.models
    )


@dataclass(slots=True)
class _Planner:
    fleet: FleetSnapshot
    now: datetime
    residence_min_s: float
    jobs: tuple[Claim, ...] = ()
    retired: frozenset[bytes] = frozenset()
    slots: Slots = field(default_factory=Slots)
    kept: list[Replica] = field(default_factory=list)
    surplus: list[Replica] = field(default_factory=list)  # oldest first
    leaving: list[Replica] = field(default_factory=list)
    load: list[Replica] = field(default_factory=list)
    unload: list[Replica] = field(default_factory=list)
    missing: list[tuple[bytes, int, tuple[Loss, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        usable = (HostState.ACTIVE, HostState.DRAINING)
        hosts = (host for host in self.fleet.hosts if host.state in usable)
        totals = {host.host_id: len(host.capability.gpus) for host in hosts if host.host_id and host.capability}
        for claim in self.jobs:
            if claim.host_id in totals:
                totals[claim.host_id] = max(0, totals[claim.host_id] - claim.slots)
        self.slots.follow(totals)

    def review(self, replica: Replica, demand: ModelDemand | None) -> None:
        """Keep a present replica if it may stay, oldest first; what is too much is surplus."""
        host = FleetIndex.of(self.fleet).host(replica.host_id)
        if host is None or host.capability is None or self.slots.free(replica.host_id) < replica.gpus:
            self.unload.append(replica)  # its host is gone, or came back smaller
            return
        maintained = _in_maintenance(host, self.now)
        allowed = not maintained and (demand is None or first_loss(host, demand.requirement, now=self.now) is None)
        # a host in its maintenance, or about to be, still serves; one that lost its evidence or its route does not
        serves = host.state in {HostState.ACTIVE, HostState.DRAINING} and host.capability.valid_at(self.now)
        moved = demand is not None and demand.requirement.gpus_min != replica.gpus
        if replica.model in self.retired or not serves or moved or (not allowed and not maintained):
            self.unload.append(replica)
            return
        if allowed and (demand is None or len(self._of(replica.model)) >= demand.replicas):
            self._review_spare(replica, demand)
            return
        self.slots.take(replica.claim, replica.host_id, replica.gpus)
        (self.kept if allowed else self.leaving).append(replace(replica, spare_since=None))

    def _review_spare(self, replica: Replica, demand: ModelDemand | None) -> None:
        """A replica that is too much stays warm for a while, or until its room is needed."""
        since = replica.spare_since or self.now
        spare_s = demand.spare_s if demand is not None else None
        if spare_s is not None and (self.now - since).total_seconds() >= spare_s:
            self.unload.append(replica)
            return
        self.slots.take(replica.claim, replica.host_id, replica.gpus)
        self.surplus.append(replace(replica, spare_since=since))

    def fill(self, demand: ModelDemand) -> None:
        """Place what a model lacks."""
        lacking = demand.replicas - len(self._of(demand.model))
        for number in range(lacking):
            host = self._best(demand) or self._make_room(demand)
            if host is None or host.host_id is None:
                self.missing.append((demand.model, lacking - number, tuple(self._losses(demand))))
                return
            gpus = demand.requirement.gpus_min
            replica = Replica(model=demand.model, host_id=host.host_id, gpus=gpus, since=self.now)
            self.slots.take(replica.claim, replica.host_id, gpus)
            self.load.append(replica)

    def plan(self, demands: Sequence[ModelDemand]) -> ModelPlan:
        """What came of it. A replica in maintenance goes once enough others are loaded and serve."""
        for replica in [*self.leaving]:
            wanted = next((demand.replicas for demand in demands if demand.model == replica.model), 0)
            serving = [one for one in self.kept if one.model == replica.model and self._serves(one)]
            if len(serving) >= wanted:
                self.leaving.remove(replica)
                self.unload.append(replica)
        stays = (*self.kept, *self.surplus, *self.leaving, *self.load)
        return ModelPlan(
            replicas=tuple(sorted(stays, key=lambda replica: replica.claim)),
            load=tuple(self.load),
            unload=tuple(self.unload),
            leaving=tuple(self.leaving),
            missing=tuple(self.missing),
        )

    def _of(self, model: bytes) -> list[Replica]:
        return [replica for replica in (*self.kept, *self.load) if replica.model == model]

    def _serves(self, replica: Replica) -> bool:
        host = FleetIndex.of(self.fleet).host(replica.host_id)
        return host is not None and host.load.ready and replica.model in host.load.models

    def _candidates(self, demand: ModelDemand) -> list[HostRecord]:
        """Hosts that may take one more, best first, whether they have room or not."""
        here = self._of(demand.model)
        taken = {replica.host_id for replica in here}
        taken |= {replica.host_id for replica in (*self.leaving, *self.unload) if replica.model == demand.model}
        index = FleetIndex.of(self.fleet)
        owners: dict[bytes, int] = {}
        for replica in here:
            owner = host.owner if (host := index.host(replica.host_id)) else b""
            owners[owner] = owners.get(owner, 0) + 1
        fitting = [
            host
            for pool in index.pools(demand.requirement)
            for host in pool
            if host.host_id not in taken
            and not _in_maintenance(host, self.now)
            and first_loss(host, demand.requirement, now=self.now) is None
        ]
        if demand.requirement.owners_distinct:
            fitting = [host for host in fitting if host.owner not in owners]

        def rank(host: HostRecord) -> tuple[bool, bool, int, int, int, bytes]:
            warm = host.load.ready and demand.model in host.load.models
            bad = WEIGHT_STEPS - host.standing.weight * WEIGHT_STEPS // WEIGHT_ONE
            room = self.slots.free(host.host_id or b"")
            unbound = host.node_id is None  # no Ray node runs beside it yet, so nobody could load it
            return (unbound, not warm, owners.get(host.owner, 0), bad, room, host.host_id or b"")

        return sorted(fitting, key=rank)

    def _best(self, demand: ModelDemand) -> HostRecord | None:
        gpus = demand.requirement.gpus_min
        return next((one for one in self._candidates(demand) if self.slots.free(one.host_id or b"") >= gpus), None)

    def _make_room(self, demand: ModelDemand) -> HostRecord | None:
        """Unload the surplus of the host where the fewest replicas have to go."""
        gpus = demand.requirement.gpus_min
        best: tuple[HostRecord, list[Replica]] | None = None
        for host in self._candidates(demand):
            free, going = self.slots.free(host.host_id or b""), list[Replica]()
            for replica in self._movable(host):
                if free >= gpus:
                    break
                going.append(replica)
                free += replica.gpus
            if free >= gpus and (best is None or len(going) < len(best[1])):
                best = host, going
        if best is None:
            return None
        for replica in best[1]:
            self.slots.release(replica.claim)
            self.surplus.remove(replica)
            self.unload.append(replica)
        return best[0]

    def _movable(self, host: HostRecord) -> list[Replica]:
        here = [replica for replica in self.surplus if replica.host_id == host.host_id and replica.gpus]
        return [one for one in here if (self.now - one.since).total_seconds() >= self.residence_min_s]

    def _losses(self, demand: ModelDemand) -> Iterable[Loss]:
        gpus = demand.requirement.gpus_min
        for host in self.fleet.hosts:
            loss = first_loss(host, demand.requirement, now=self.now)
            if loss is not None:
                yield loss
            elif _in_maintenance(host, self.now):
                yield lost(host, "maintenance", "it waits for another host to serve its models")
            elif any(replica.host_id == host.host_id for replica in self._of(demand.model)):
                yield lost(host, "there", "it has a replica already")
            elif self.slots.free(host.host_id or b"") < gpus:
                free = self.slots.free(host.host_id or b"")
                yield lost(host, "room", f"{free} GPUs are free, {gpus} are needed, and nothing there may go yet")
            else:
                yield lost(host, "owner", "another host of its owner has a replica")


def _in_maintenance(host: HostRecord, now: datetime) -> bool:
    return host.state is HostState.DRAINING or (host.window is not None and host.window.covers(now))
