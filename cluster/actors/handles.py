"""Names of the operator's actors, and how to start and find them."""

import time
from pathlib import Path
from typing import Any

import ray

from cluster.errors import NodeStartError

NAMESPACE = "chrysalis"
REGISTRY, SCHEDULER, BILLING, RELAY, MODELS, JOIN = "registry", "scheduler", "billing", "relay", "models", "join"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
HEAD_RESOURCE = "node:__internal_head__"  # Ray gives it to every head node, and refuses it to others
POLL_S = 0.1
DETACHED: dict[str, Any] = {  # options of an actor that outlives its driver and is started again wherever it may run
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "num_cpus": 0,
    "max_restarts": -1,
    "max_task_retries": 3,  # every mutating call carries an id and is idempotent
}
# Not by the head's node id: a head that was lost comes back as another node, and Ray starts its actors there.
ON_HEAD: dict[str, Any] = {"resources": {HEAD_RESOURCE: 0.001}}


def find(name: str) -> Any:  # noqa: ANN401  actor handles have no useful static type
    """The running actor of this name. ValueError when it was not started."""
    return ray.get_actor(name, namespace=NAMESPACE)


def host_actor_name(host_id: bytes) -> str:
    """The name of the actor that serves one host."""
    return f"host-{host_id.hex()}"


def start_operator(config: Path) -> None:
    """Start relay, registry, scheduler and billing on the head, detached; returns once each has rebuilt its state.

    Args:
        config: the operator's settings file, see `cluster.config`; only its path travels through Ray.
    """
    from cluster.actors.billing import BillingActor  # noqa: PLC0415  keeps pytoniq out of whoever only looks up names
    from cluster.actors.registry import RegistryActor  # noqa: PLC0415
    from cluster.actors.relay import RelayActor  # noqa: PLC0415
    from cluster.actors.scheduler import SchedulerActor  # noqa: PLC0415

    relay = _on_head(RelayActor, RELAY).remote(str(config))
    ray.get(relay.address.remote(), timeout=START_TIMEOUT_S)
    registry = _on_head(RegistryActor, REGISTRY).remote(str(config))
    ray.get(registry.ready.remote(), timeout=START_TIMEOUT_S)
    others = [
        _on_head(BillingActor, BILLING).remote(str(config)),
        _on_head(SchedulerActor, SCHEDULER).remote(),
    ]
    ray.get([actor.ready.remote() for actor in others], timeout=START_TIMEOUT_S)


def start_joining(config: Path) -> tuple[str, str]:
    """Start the join service on the head, detached; returns where it listens (IP:PORT) and the pin for hosts."""
    from cluster.actors.join import JoinActor  # noqa: PLC0415

    actor = _on_head(JoinActor, JOIN).remote(str(config))
    address, pin = ray.get(actor.ready.remote(), timeout=START_TIMEOUT_S)
    return address, pin


def stop_operator(*, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the operator's actors that run, so that others can be started: their state is in journals."""
    deadline = time.monotonic() + timeout_s
    for name in (JOIN, MODELS, SCHEDULER, REGISTRY, BILLING, RELAY):
        while True:
            try:
                ray.kill(find(name), no_restart=True)
            except ValueError:
                break  # nobody has this name
            if time.monotonic() > deadline:
                raise NodeStartError(f"the actor {name} did not end in {timeout_s:.0f} s: try again")
            time.sleep(0.1)


def start_host(host_id: bytes, *, node_id: str, control: Path) -> Any:  # noqa: ANN401
    """Start the actor that serves one admitted host, on the Ray node beside its enclave; binds the two first.

    A host whose Ray node died comes back as another node: the actor that waits for the old one is ended.
    """
    from cluster.actors.host import HostActor  # noqa: PLC0415

    end_host(host_id)
    options = {"label_selector": {"ray.io/node-id": node_id}, **DETACHED}
    actor = ray.remote(HostActor).options(name=host_actor_name(host_id), **options).remote(host_id, str(control))
    ray.get(actor.ready.remote(), timeout=START_TIMEOUT_S)
    return actor


def end_host(host_id: bytes) -> None:
    """End the actor of a host for good and return once its name is free; nothing happens when there is none."""
    name = host_actor_name(host_id)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ray.kill(find(name))
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise NodeStartError(f"the actor {name} did not end within {START_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def _on_head(kind: type, name: str) -> Any:  # noqa: ANN401
    return ray.remote(kind).options(name=name, **ON_HEAD, **DETACHED)
