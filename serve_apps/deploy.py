"""What the operator deploys on Ray Serve: the gateway on the head, and each model on the hosts that may serve it."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from attestation.verdict import Tier
from cluster.actors.handles import REGISTRY, SCHEDULER, find
from cluster.errors import NodeStartError, NoEligibleHostError
from cluster.fleet import FleetSnapshot
from cluster.model import Decision, JobRequirement
from serve_apps.gateway import Gateway
from serve_apps.replica import ModelReplica

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  the ingress of a cluster over several machines; docs/NETWORK.md
GATEWAY_APP = "gateway"
HOSTS_MAX = 1000
DEPLOY_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 300.0
BIND_TIMEOUT_S = 10.0
NODE_LABEL = "ray.io/node-id"
_QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


def start_serve(*, port: int, host: str = LOOPBACK) -> None:
    """Start Serve with its HTTP ingress on the head only, at host:port. This process must be a driver."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options={"host": host, "port": port}, logging_config=_QUIET)


def deploy_gateway(config: Path, *, port: int, head_node_id: str, host: str = LOOPBACK, replicas: int = 1) -> None:
    """Start Serve if needed, deploy the lease interface, and return once every replica is healthy.

    Args:
        config: the operator's settings file; only its path travels through Ray.
        port: where Serve listens, at the address `host`.
        head_node_id: gateways run where the ticket key is.
        host: loopback or ANY; Serve's HAProxy reaches replicas beside it by 127.0.0.1, so no other address works.
        replicas: how many.
    """
    start_serve(port=port, host=host)
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        num_replicas=replicas,
        max_ongoing_requests=200,
        ray_actor_options={"num_cpus": 0, "label_selector": {NODE_LABEL: head_node_id}},
        logging_config=_QUIET,
    )
    _run(deployment.bind(str(config)), name=GATEWAY_APP, route_prefix="/")
    wait_running(GATEWAY_APP, timeout_s=DEPLOY_TIMEOUT_S)


def place_model(model_root: bytes, *, tier: Tier = Tier.CONFIDENTIAL, bound_to: int = 1) -> Decision:
    """Ask the scheduler where this model goes and deploy it there: one replica on each eligible host.

    Call it again when the fleet has changed. A model stays loaded in an enclave that is no longer chosen.

    Args:
        model_root: manifest root, 32 bytes.
        tier: the least tier to place it on.
        bound_to: how many eligible hosts there must be.

    Raises:
        NoEligibleHostError: fewer hosts are eligible and bound to a Ray node; it says which rule each lost.
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
    deploy_model(model_root, nodes)
    return decision


def deploy_model(model_root: bytes, nodes: Sequence[str]) -> None:
    """Deploy one replica of the model on each of these Ray nodes and return once all of them are healthy."""
    deployment = serve.deployment(
        ModelReplica,
        name="Model",
        num_replicas=len(nodes),
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0, "label_selector": {NODE_LABEL: f"in({','.join(nodes)})"}},
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=1,
        logging_config=_QUIET,
    )
    name = model_app(model_root)
    _run(deployment.bind(model_root), name=name, route_prefix=None)
    wait_running(name, timeout_s=LOAD_TIMEOUT_S)


def model_app(model_root: bytes) -> str:
    """The Serve application of a model."""
    return f"model-{model_root.hex()[:16]}"


def wait_loaded(model_root: bytes, hosts: int, *, timeout_s: float = 30.0) -> FleetSnapshot:
    """Return the first snapshot in which `hosts` active hosts serve the model; NodeStartError when time runs out."""
    registry = find(REGISTRY)
    deadline = time.monotonic() + timeout_s
    while True:
        fleet: FleetSnapshot = ray.get(registry.snapshot.remote(), timeout=timeout_s)
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
