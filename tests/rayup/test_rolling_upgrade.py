"""Every machine gets another version of the package, one after the other, the head last; no request is lost.

The other version is this one at another path, as docs/OPERATING.md has it: install, drain, restart, admit, place.
"""

import json
from pathlib import Path

from tests.rayup.conftest import ANSWER, MARKS, answer, who_answers
from tests.rayup.hosts import ROOT
from tests.rayup.network import TEES, RayUp, wait_for
from tests.rayup.test_ray_upkeep import BACK_S, alive_at, check_serves, requests_all_the_time

pytestmark = MARKS
PACKAGES = ("attestation", "billing", "chrysalis", "client", "cluster", "contracts", "enclave", "serve_apps")
NEXT = "/opt/chrysalis-next"
WHERE = """
import json, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address='auto', log_to_driver=False, logging_level='ERROR')
def where():
    import cluster
    return cluster.__file__
ids = {node['NodeManagerAddress']: node['NodeID'] for node in ray.nodes() if node['Alive']}
on = lambda node: ray.remote(num_cpus=0)(where).options(scheduling_strategy=On(node, soft=False)).remote()
print('CODE' + json.dumps({address: ray.get(on(node), timeout=60) for address, node in ids.items()}))
"""


def install(cluster: RayUp, name: str) -> None:
    """The other version beside the old one, and in its place for whatever is started from now on."""
    for package in PACKAGES:
        cluster.hosts.copy(name, ROOT / package, f"{NEXT}/{package}")
    cluster.hosts.ssh(name, f"sed -i 's|PYTHONPATH=[^ ]*|PYTHONPATH={NEXT}|' /etc/profile.d/chrysalis.sh")


def code_of_nodes(cluster: RayUp) -> dict[str, str]:
    """Where the Ray node of each machine has this package from."""
    told = cluster.on_head(f"cd /tmp && cat > where.py <<'E'\n{WHERE}\nE\npython where.py").stdout
    return json.loads(told.partition("CODE")[2].splitlines()[0])


def upgrade_host(cluster: RayUp, name: str) -> None:
    install(cluster, name)
    cluster.on_head(f"chrysalis hosts drain {name} --reason upgrade")
    wait_for(lambda: cluster.fleet()[name]["state"] == "draining", timeout_s=60)
    cluster.stop_enclave(name)
    cluster.enclaves[name] = cluster.run_enclave(name)
    before = alive_at(cluster, name)
    cluster.end_node(name)
    wait_for(lambda: set(alive_at(cluster, name)) - set(before), timeout_s=BACK_S)
    assert cluster.admit(name).returncode == 0
    cluster.on_head(f"chrysalis hosts resume {name}")
    cluster.place(len(TEES))
    check_serves(cluster, name)


def test_machines_are_upgraded_one_by_one_and_the_head_last_without_losing_a_request(cluster) -> None:
    with requests_all_the_time(cluster) as asking:
        for name in TEES:
            cluster.timed(f"{name} upgraded", lambda name=name: upgrade_host(cluster, name))
        nodes = {name: alive_at(cluster, name) for name in TEES}
        install(cluster, "head")
        before = asking.answered
        done = cluster.timed("head upgraded", cluster.ray_up)
        assert done.returncode == 0, done.stdout[-2000:]
        for name in TEES:
            check_serves(cluster, name)
        assert asking.answered > before
    assert {name: alive_at(cluster, name) for name in TEES} == nodes, "hosts' nodes waited for the head"
    code = code_of_nodes(cluster)
    assert len(code) == 1 + len(TEES)
    assert {Path(path) for path in code.values()} == {Path(NEXT, "cluster", "__init__.py")}
    for name in TEES:
        assert NEXT in cluster.hosts.ssh(name, "tr '\\0' '\\n' </proc/$(pgrep -f '[e]nclave.yaml')/environ").stdout
    cluster.net.restart_client()
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=60)
    assert who_answers(cluster) in cluster.enclaves.values()
