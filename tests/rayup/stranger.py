"""`python -m tests.rayup.stranger HOST_ID`: tries to pass this node for the one beside that host's enclave."""

import json
import sys

import ray

from cluster.actors.handles import NAMESPACE, REGISTRY, find


def main() -> None:
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    registry, host_id = find(REGISTRY), bytes.fromhex(sys.argv[1])
    node_id = ray.get_runtime_context().get_node_id()
    ray.get(registry.challenge_node.remote(host_id, node_id), timeout=30)
    try:
        ray.get(registry.bind_node.remote(host_id, node_id, b"\x01" * 64), timeout=30)
        outcome = "bound"
    except ray.exceptions.RayTaskError as error:
        outcome = type(error.cause).__name__
    print(json.dumps({"node_id": node_id, "outcome": outcome}))


if __name__ == "__main__":
    main()
