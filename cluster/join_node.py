"""The Ray node of a host that joined, started with the credentials in a folder and ended with all it left behind."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.errors import NodeStartError
from cluster.join_client import Grant
from cluster.join_folder import JoinFolder
from cluster.processes import Program, Supervisor
from cluster.relay import parse_address

NODE = "ray-node"
STOP_S = 15.0  # Ray drains a node that is asked to end
CPUS, MEMORY_BYTES, OBJECT_STORE_BYTES = 2, 2_000_000_000, 100_000_000  # as in cluster.yaml
ENCLAVE_VARIABLE = "CHRYSALIS_ENCLAVE_CONTROL"  # as serve_apps.replica reads it


def ray_command(grant: Grant, node_name: str, *, address: str, labels: Mapping[str, str], resources: str) -> list[str]:
    """`ray start` for this host; no secret is in it. `address` is the enclave's, on the same machine."""
    hints = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return [
        *(sys.executable, "-m", "cluster.ray_start"),
        f"--address={grant.credentials.ray_address}",
        f"--node-ip-address={parse_address(address).ip}",
        f"--node-name={node_name}",
        f"--num-cpus={CPUS}",
        f"--memory={MEMORY_BYTES}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--labels={hints}",
        f"--resources={resources}",
        "--disable-usage-stats",
    ]


class JoinedNode:
    """At most one node at a time."""

    def __init__(
        self,
        supervisor: Supervisor,
        folder: JoinFolder,
        command: Callable[[Grant, str], list[str]],
        *,
        control: Path,
        ray_folder: Path,
    ) -> None:
        """`command` makes the argument list for a grant and a node name; Ray keeps its sessions in `ray_folder`."""
        self._supervisor, self._folder, self._command = supervisor, folder, command
        self._env = {ENCLAVE_VARIABLE: str(control), "RAY_TMPDIR": str(ray_folder), "RAY_USAGE_STATS_ENABLED": "0"}
        self._program: Program | None = None

    def start(self, grant: Grant, node_name: str) -> None:
        """Write the credentials and start the node; it takes seconds until the head sees it."""
        if self._program is not None:
            raise RuntimeError("stop the node before it is started again")
        self._folder.write(grant)
        env = {**self._env, **grant.credentials.settings, **self._folder.environment()}
        try:
            self._program = self._supervisor.start(NODE, self._command(grant, node_name), env=env)
        except OSError as error:
            raise NodeStartError(f"the Ray node cannot be started: {error}") from error

    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._program is not None and self._program.running()

    def tail(self) -> str:
        """The end of what it printed."""
        return self._program.tail() if self._program is not None else ""

    def stop(self) -> None:
        """End it and remove its credentials."""
        if self._program is not None:
            self._supervisor.end(self._program, grace_s=STOP_S)
            self._program = None
        self._folder.wipe()
