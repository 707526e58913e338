"""A job over several hosts: each runs a module of the job, and the head, beside which no enclave runs, runs nothing."""

import json
import sys
from pathlib import Path

import ray
import words


@ray.remote(num_cpus=0, max_retries=0)
def greet(name: str) -> str:
    return words.greeting(name)


def on(node_id: str) -> dict[str, dict[str, str]]:
    return {"label_selector": {"ray.io/node-id": node_id}}


ray.init(log_to_driver=False)
nodes = {node["NodeName"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
told = {}
for name, node_id in nodes.items():
    try:
        told[name] = ray.get(greet.options(**on(node_id)).remote(name), timeout=60)
    except ray.exceptions.WorkerCrashedError:
        told[name] = "refused"
Path(sys.argv[1]).write_text(json.dumps(told))
