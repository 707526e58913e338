"""From a plan to Serve: one application for each replica, pinned to the node of its host. Pure.

An application's name says what it is, so what there is and what there should be are compared by name, and a restart of
anything loses nothing. A host that comes back on another Ray node gets another application.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.fleet import ROUTED, FleetSnapshot, HostState
from cluster.placement import Replica

PREFIX = "model-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One replica and where it runs."""

    model: bytes  # manifest root, 32 bytes
    host_id: bytes
    node_id: str

    @property
    def app(self) -> str:
        """The Serve application's name."""
        return f"{app_prefix(self.model, self.host_id)}{self.node_id[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do, in this order; an unload waits until Serve has no replica there that would load the model again."""

    delete: tuple[str, ...]  # applications
    unload: tuple[tuple[bytes, bytes], ...]  # model, host id
    deploy: tuple[Pinned, ...]


def app_prefix(model: bytes, host_id: bytes) -> str:
    """How the names of all applications of this model on this host begin."""
    return f"{PREFIX}{model.hex()[:16]}-{host_id.hex()}-"


def plan_changes(
    replicas: Iterable[Replica],
    managed: Mapping[bytes, int],
    fleet: FleetSnapshot,
    apps: Collection[str],
    *,
    now: datetime,
) -> Changes:
    """Compare the plan with what Serve runs and what hosts report.

    A draining host keeps its replicas for a while: leases that were given before still send requests to it. A host that
    came back after its replica was planned elsewhere goes on serving until one of the planned ones does.

    Args:
        replicas: all that should be there.
        managed: manifest roots that are loaded and unloaded here, and how many seconds a replica stays after its host
            began to drain; others are left alone.
        fleet: the hosts as last seen.
        apps: names of all Serve applications.
        now: the time.
    """
    planned = {(replica.model, replica.host_id) for replica in replicas}
    awaited = {model for model, _ in planned} - _served(planned, fleet)
    busy = {host_id for _, host_id in planned}
    wanted, unload, kept = list[Pinned](), list[tuple[bytes, bytes]](), list[str]()
    for host in fleet.hosts:
        if host.host_id is None or host.state not in ROUTED:
            continue
        for model, stays_s in managed.items():
            prefix = app_prefix(model, host.host_id)
            if (model, host.host_id) in planned:
                if host.node_id is not None:
                    wanted.append(Pinned(model=model, host_id=host.host_id, node_id=host.node_id))
            elif (
                host.state is HostState.DRAINING
                and now - host.since < timedelta(seconds=stays_s)
                and model in host.load.models
            ):
                kept.append(prefix)
            elif model in host.load.models and not any(app.startswith(prefix) for app in apps):
                if model in awaited and host.host_id not in busy:
                    continue  # nobody else serves it yet, and nothing needs its room
                unload.append((model, host.host_id))
    names = {pinned.app for pinned in wanted}
    ours = (app for app in apps if app.startswith(PREFIX) and app not in names)
    return Changes(
        delete=tuple(sorted(app for app in ours if not app.startswith(tuple(kept)))),
        unload=tuple(sorted(unload)),
        deploy=tuple(pinned for pinned in wanted if pinned.app not in apps),
    )


def _served(planned: Collection[tuple[bytes, bytes]], fleet: FleetSnapshot) -> set[bytes]:
    """Models that a host of the plan serves now."""
    active = (host for host in fleet.active() if host.load.ready)
    return {model for host in active for model in host.load.models if (model, host.host_id) in planned}
