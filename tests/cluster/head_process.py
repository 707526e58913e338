"""A Ray cluster whose head loses power and comes back: prints what became of actors as one JSON line.

Ray is imported late: it reads its environment then.

python -m tests.cluster.head_process BASE_PORT FOLDER [REDIS]
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster.processes import Supervisor
from cluster.ray_cluster import RayCluster
from cluster.ray_nodes import HEAD_NAME, alive_nodes, begin_node, connect, start_head, wait_node

PATIENCE_S = 60.0


class Counter:
    """Says in which process it runs, and how often it was asked there."""

    def __init__(self) -> None:
        self._count = 0

    def ask(self) -> tuple[int, int]:
        self._count += 1
        return os.getpid(), self._count


def ask(name: str) -> tuple[int, int]:
    import ray  # noqa: PLC0415

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ray.get(ray.get_actor(name, namespace="chrysalis").ask.remote(), timeout=5)
        except (ValueError, ray.exceptions.RayError):
            if time.monotonic() > deadline:
                raise


def patiently(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def story(supervisor: Supervisor, cluster: RayCluster) -> dict:
    head = start_head(supervisor, cluster)
    host = wait_node(cluster, "host", begin_node(supervisor, cluster, index=1, name="host"))
    connect(cluster)
    import ray  # noqa: PLC0415

    from cluster.actors.handles import DETACHED, ON_HEAD  # noqa: PLC0415

    beside = {"label_selector": {"ray.io/node-id": host.node_id}}
    for name, where in (("on-head", ON_HEAD), ("on-host", beside)):
        ray.remote(Counter).options(name=name, **DETACHED, **where).remote()
    before = {name: ask(name) for name in ("on-head", "on-host")}
    ray.shutdown()
    supervisor.kill(HEAD_NAME)
    again = start_head(supervisor, cluster)
    connect(cluster)
    after = {name: ask(name) for name in ("on-head", "on-host")}
    nodes = {head.node_id, host.node_id, again.node_id}
    gone = patiently(lambda: {node["NodeID"] for node in alive_nodes()} == nodes - {head.node_id})
    return {"before": before, "after": after, "nodes": len(nodes), "old_head_gone": gone}


def main() -> None:
    base_port, folder, redis = int(sys.argv[1]), Path(sys.argv[2]), "".join(sys.argv[3:])
    cluster = RayCluster.create(folder / "r", base_port=base_port, redis=redis)
    supervisor = Supervisor(folder / "logs")
    try:
        told = story(supervisor, cluster)
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        left = supervisor.stop()
    print(json.dumps({**told, "left": len(left)}))


if __name__ == "__main__":
    main()
