"""What the operator deploys: the gateway on the head, and the actor that keeps models on hosts that may serve them."""

import logging
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from attestation.verdict import Tier
from cluster.actors.handles import DETACHED, MODELS, ON_HEAD, REGISTRY, SCHEDULER, START_TIMEOUT_S, find
from cluster.errors import NodeStartError, NoEligibleHostError, UnknownModelError
from cluster.fleet import FleetSnapshot
from cluster.model import Decision, JobRequirement
from serve_apps.gateway import Gateway
from serve_apps.models import ModelsActor
from serve_apps.serve_calls import QUIET

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  the ingress of a cluster over several machines; docs/NETWORK.md
GATEWAY_APP = "gateway"
HOSTS_MAX = 1000
DEPLOY_TIMEOUT_S = 120.0
BIND_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0


def start_serve(*, port: int, host: str = LOOPBACK) -> None:
    """Start Serve with its HTTP ingress on the head only, at host:port. This process must be a driver."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options={"host": host, "port": port}, logging_config=QUIET)


def deploy_gateway(config: Path, *, port: int, host: str = LOOPBACK, replicas: int = 1) -> None:
    """Start Serve if needed, deploy the lease interface, and return once every replica is healthy.

    Args:
        config: the operator's settings file; only its path travels through Ray.
        port: where Serve listens, at the address `host`.
        host: loopback or ANY; Serve's HAProxy reaches replicas beside it by 127.0.0.1, so no other address works.
        replicas: how many.
    """
    start_serve(port=port, host=host)
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        num_replicas=replicas,
        max_ongoing_requests=200,
        ray_actor_options={"num_cpus": 0, **ON_HEAD},  # where the ticket key is
        logging_config=QUIET,
    )
    _run(deployment.bind(str(config)), name=GATEWAY_APP, route_prefix="/")
    wait_running(GATEWAY_APP, timeout_s=DEPLOY_TIMEOUT_S)


def start_models(config: Path) -> None:
    """Start the actor that keeps models on hosts, on the head, detached; returns once it works. Serve must run.

    Args:
        config: the operator's settings file; only its path travels through Ray.
    """
    options = DETACHED | ON_HEAD | {"max_task_retries": 0}  # to roll back twice is not to roll back once
    actor = ray.remote(ModelsActor).options(name=MODELS, **options).remote(str(config))
    ray.get(actor.ready.remote(), timeout=START_TIMEOUT_S)


def place_model(model_root: bytes, *, tier: Tier = Tier.CONFIDENTIAL, bound_to: int = 1) -> Decision:
    """Have the models actor deploy a model once enough hosts may serve it; returns who may, before they have loaded it.

    From then on the actor keeps it where it should be, see docs/SCHEDULING.md.

    Args:
        model_root: manifest root, 32 bytes.
        tier: the least tier to count.
        bound_to: how many eligible hosts there must be.

    Raises:
        NoEligibleHostError: fewer hosts are eligible and bound to a Ray node; it says which rule each lost.
        UnknownModelError: the registry does not list the root.
    """
    requirement = JobRequirement(model=model_root, tier=tier, hosts=HOSTS_MAX)
    deadline = time.monotonic() + BIND_TIMEOUT_S
    while True:  # the scheduler hears of a new binding a moment after the registry
        decision: Decision = ray.get(find(SCHEDULER).place.remote(requirement), timeout=DEPLOY_TIMEOUT_S)
        nodes = sorted({placement.node_id for placement in decision.placements if placement.node_id})
        if len(nodes) >= max(1, bound_to):
            break
        if time.monotonic() > deadline:
            raise NoEligibleHostError(model_root.hex(), _lost(decision))
        time.sleep(0.1)
    fleet: FleetSnapshot = ray.get(find(REGISTRY).snapshot.remote(), timeout=DEPLOY_TIMEOUT_S)
    offer = fleet.model(model_root.hex())
    if offer is None:
        raise UnknownModelError(model_root.hex(), tuple(model.name for model in fleet.models))
    models = find(MODELS)
    rows = ray.get(models.models.remote(), timeout=DEPLOY_TIMEOUT_S)
    if (offer.name, model_root.hex()) not in {(row["name"], row["root"]) for row in rows}:
        ray.get(models.rollout.remote(offer.name, model_root), timeout=DEPLOY_TIMEOUT_S)
    return decision


def wait_loaded(model_root: bytes, hosts: int, *, timeout_s: float = LOAD_TIMEOUT_S) -> FleetSnapshot:
    """Return the first snapshot in which `hosts` active hosts serve the model; NodeStartError when time runs out."""
    registry = find(REGISTRY)
    deadline = time.monotonic() + timeout_s
    while True:
        fleet: FleetSnapshot = ray.get(registry.snapshot.remote(), timeout=DEPLOY_TIMEOUT_S)
        loaded = [host for host in fleet.active() if host.load.ready and model_root in host.load.models]
        if len(loaded) >= hosts:
            return fleet
        if time.monotonic() > deadline:
            raise NodeStartError(f"{len(loaded)} of {hosts} hosts serve {model_root.hex()} after {timeout_s:.0f} s")
        time.sleep(0.1)


def wait_running(name: str, *, timeout_s: float) -> None:
    """Return once every replica of an application is healthy; NodeStartError with Serve's words otherwise."""
    deadline = time.monotonic() + timeout_s
    while (status := serve.status().applications.get(name)) is None or status.status != "RUNNING":
        if status is not None and status.status == "DEPLOY_FAILED":
            raise NodeStartError(f"{name} was not deployed: {_words(status)}")
        if time.monotonic() > deadline:
            raise NodeStartError(f"{name} does not run after {timeout_s:.0f} s: {_words(status)}")
        time.sleep(0.1)


def _lost(decision: Decision) -> tuple[tuple[str, str], ...]:
    unbound = tuple((p.host_id.hex(), "no Ray node is bound to it") for p in decision.placements if not p.node_id)
    return unbound + tuple((loss.name, str(loss)) for loss in decision.losses)


def _run(application: Any, *, name: str, route_prefix: str | None) -> None:  # noqa: ANN401  ray is untyped here
    serve.run(application, name=name, route_prefix=route_prefix, blocking=False)


def _words(status: Any) -> str:  # noqa: ANN401
    if status is None:
        return "Serve does not know it"
    parts = [status.message, *(deployment.message for deployment in status.deployments.values())]
    return " ".join(part for part in parts if part)[:1000]
