"""Ray nodes on this machine, for the demo and the tests: token auth, own folders, every socket on loopback."""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from cluster.errors import ConfigError, NodeStartError
from cluster.processes import Program, Supervisor
from cluster.ray_cluster import LOOPBACK, RayCluster

# Ray replaces "127.0.0.1" in `ray start --address` by the machine's outer address, compared letter by letter, and would
# then bind there. Names are not case sensitive, so this one means the same and is left alone.
LOOPBACK_NAME = "LOCALHOST"
NAMESPACE = "chrysalis"
HEAD_NAME = "ray-head"
OBJECT_STORE_BYTES = 78_643_200  # Ray's minimum: nothing large ever enters the object store here
NODE_MEMORY_BYTES = 1_000_000_000
START_TIMEOUT_S = 300.0  # covers the attempts of cluster.ray_start on a busy machine; a few seconds otherwise
CLOCK_SLACK_S = 1.0  # when a process began is told in steps of 10 ms since a boot whose time is rounded

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayNode:
    """One running `ray start --block` with its process group."""

    name: str
    program: Program
    node_id: str


def start_head(
    supervisor: Supervisor, cluster: RayCluster, *, num_cpus: int = 4, timeout_s: float = START_TIMEOUT_S
) -> RayNode:
    """Start the head and return once it is ALIVE. ConfigError when a port is taken, NodeStartError when it fails."""
    cluster.ports.check_free()
    arguments = [
        "--head",
        f"--port={cluster.ports.gcs}",
        f"--node-ip-address={LOOPBACK}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={cluster.ports.dashboard}",
        f"--ray-client-server-port={cluster.ports.base + 5}",
    ]
    program = _start(supervisor, cluster, HEAD_NAME, 0, arguments=[*arguments, *_common(cluster, 0, num_cpus)], env={})
    return RayNode(HEAD_NAME, program, _wait_alive(cluster, HEAD_NAME, program, timeout_s))


def begin_node(
    supervisor: Supervisor,
    cluster: RayCluster,
    *,
    index: int,
    name: str,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    group: str | None = None,
    num_cpus: int = 2,
) -> Program:
    """Start node `index` (1 and up) without waiting; `wait_node` finishes the work, so several start side by side.

    Labels are hints for people and dashboards. `env` reaches every worker on the node, for example
    CHRYSALIS_ENCLAVE_CONTROL. Programs of one `group` (the node and its enclave) can be killed together.
    """
    if index < 1:
        raise ValueError(f"node index {index}: 0 is the head, nodes count from 1")
    arguments = [f"--address={LOOPBACK_NAME}:{cluster.ports.gcs}", *_common(cluster, index, num_cpus)]
    hints = {"chrysalis/host": name, **(labels or {})}
    arguments.append("--labels=" + ",".join(f"{key}={value}" for key, value in sorted(hints.items())))
    # `ray start --address` refuses to run with the switch off; the node's own address comes from LOOPBACK_NAME
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", **(env or {})}
    return _start(supervisor, cluster, name, index, arguments=arguments, env=settings, group=group)


def wait_node(cluster: RayCluster, name: str, program: Program, *, timeout_s: float = START_TIMEOUT_S) -> RayNode:
    """The node started by `begin_node`, ALIVE."""
    return RayNode(name, program, _wait_alive(cluster, name, program, timeout_s))


def connect(cluster: RayCluster, *, timeout_s: float = 30.0) -> None:
    """Make this process a driver on the head; sets what ray reads from the environment, log lines stay in files."""
    _enter(cluster)
    import ray  # noqa: PLC0415  after the environment: ray reads it at import

    ray.init(
        address=cluster.address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    _keep_off_the_screen()
    wait_alive_count(1, timeout_s=timeout_s)


def _keep_off_the_screen() -> None:
    """Send what Ray prints about dying nodes, stack traces included, to our log; there is no setting for it."""
    from ray._private import worker  # noqa: PLC0415

    def note(data: Mapping[str, Any], **_: object) -> None:
        _log.debug("ray: %s", "\n".join(data["lines"]))

    worker.print_to_stdstream = note


def alive_nodes() -> list[dict[str, Any]]:
    """The ALIVE nodes as `ray.nodes()` gives them; this process must be a driver."""
    import ray  # noqa: PLC0415  importing this module must stay cheap

    return [node for node in ray.nodes() if node["Alive"]]


def wait_alive_count(count: int, *, timeout_s: float = START_TIMEOUT_S) -> list[dict[str, Any]]:
    """Return the ALIVE nodes once there are `count` or more; NodeStartError when they do not come."""
    deadline = time.monotonic() + timeout_s
    while len(nodes := alive_nodes()) < count:
        if time.monotonic() > deadline:
            raise NodeStartError(f"{len(nodes)} of {count} Ray nodes are ALIVE after {timeout_s:.0f} s")
        time.sleep(0.1)
    return nodes


def _common(cluster: RayCluster, index: int, num_cpus: int) -> list[str]:
    ports = cluster.ports.node(index)
    return [
        "--disable-usage-stats",
        f"--num-cpus={num_cpus}",
        "--num-gpus=0",
        f"--memory={NODE_MEMORY_BYTES}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={cluster.node_folder(index)}",
        f"--node-manager-port={ports[0]}",
        f"--object-manager-port={ports[1]}",
        f"--dashboard-agent-listen-port={ports[2]}",
        f"--dashboard-agent-grpc-port={ports[3]}",
        f"--runtime-env-agent-port={ports[4]}",
        f"--metrics-export-port={ports[5]}",
        f"--min-worker-port={ports[10]}",
        f"--max-worker-port={ports[-1]}",
    ]


def _start(
    supervisor: Supervisor,
    cluster: RayCluster,
    name: str,
    index: int,
    *,
    arguments: list[str],
    env: Mapping[str, str],
    group: str | None = None,
) -> Program:
    command = [sys.executable, "-m", "cluster.ray_start", f"--node-name={name}", *arguments]
    cluster.node_folder(index).mkdir(exist_ok=True, mode=0o700)
    return supervisor.start(name, command, env={**cluster.node_env(), **env}, group=group)


def _wait_alive(cluster: RayCluster, name: str, program: Program, timeout_s: float) -> str:
    """Node id of the ALIVE node that `program` started, read from the control store by a short-lived driverless client.

    A node of the same name that has just died may still count as ALIVE.
    """
    _enter(cluster)
    begun_ms = (psutil.Process(program.pid).create_time() - CLOCK_SLACK_S) * 1000
    # ray.init would tie this process to one node; the compiled module has no stub for its names
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: PLC0415
    from ray.exceptions import RpcError  # noqa: PLC0415

    found: list[str] = []

    def alive() -> bool:
        if not _listens(cluster.ports.gcs):
            return False
        try:
            nodes = GcsClient(address=cluster.address).get_all_node_info(timeout=5)
        except RpcError:  # it listens before it answers
            return False
        for node_id, node in nodes.items():
            if node.node_name == name and node.state == node.ALIVE and node.start_time_ms >= begun_ms:
                found.append(node_id.hex())
                return True
        return False

    program.wait_until(alive, timeout_s=timeout_s)
    return found[0]


def _enter(cluster: RayCluster) -> None:
    """Set the driver's environment. Ray reads it once, at import, so a process belongs to one cluster for its life."""
    wanted = cluster.driver_env()
    if "ray" in sys.modules and any(os.environ.get(name) != value for name, value in wanted.items()):
        raise ConfigError("ray is already imported for another cluster; start or join this one from a fresh process")
    os.environ.update(wanted)


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
