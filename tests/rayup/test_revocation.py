"""What a ban does to a host that joined: its Ray node is ended at once, as often as it comes back."""

import json
import time

import pytest

from attestation.verdict import TeeKind
from tests.rayup.hosts import HostSpec, missing
from tests.rayup.network import ENCLAVE_PORT, MODEL, TDX, RayUp, alive, wait_for

pytestmark = [
    pytest.mark.rayup,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made"),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]
PROMPT, ANSWER = "Translate to French: The dog sees a bird.", "Le chien voit un oiseau."
# A Ray node that the banned owner starts by himself with what he kept: token, key and certificate.
START_AGAIN = (
    "set -a; . /root/kept/env; set +a; setsid nohup python -m cluster.ray_start --address={head}:6379 "
    "--node-ip-address={own} --node-name=back --num-cpus=1 --memory=1000000000 --object-store-memory=100000000 "
    "--disable-usage-stats >/run/back.log 2>&1 </dev/null &"
)
KEEP = (
    "cp -a /run/chrysalis/join /root/kept; cd /root/kept; printf '%s\\n' RAY_AUTH_MODE=token RAY_USE_TLS=1 "
    "RAY_AUTH_TOKEN_PATH=/root/kept/token RAY_TLS_SERVER_CERT=/root/kept/node.crt "
    "RAY_TLS_SERVER_KEY=/root/kept/node.key RAY_TLS_CA_CERT=/root/kept/ca.crt RAY_TMPDIR=/root/kept "
    "RAY_USAGE_STATS_ENABLED=0 > env"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = RayUp(tmp_path_factory.mktemp("revoke"))
    try:
        cluster.bring_up()
        cluster.hosts.add(HostSpec(name="joiner", number=14, labels=TDX.labels, resources=TDX.resources))
        cluster.install_enclave("joiner", TeeKind.TDX)
        cluster.hosts.ssh("joiner", f"setsid nohup {cluster.join_command()} >/run/join.log 2>&1 </dev/null &")
        wait_for(lambda: cluster.fleet().get("joiner", {}).get("node_id"), timeout_s=180)
        yield cluster
        print("seconds:", json.dumps(cluster.seconds))
    finally:
        assert cluster.close() == []


def nodes_of_joiner(cluster: RayUp, *, all_ever: bool = False) -> list[dict]:
    address = cluster.hosts.address("joiner")
    nodes = cluster.nodes() if all_ever else alive(cluster.nodes())
    return [node for node in nodes if node["NodeManagerAddress"] == address]


def test_a_banned_host_loses_its_ray_node_at_once_and_its_owner_is_told(cluster) -> None:
    assert nodes_of_joiner(cluster)
    cluster.hosts.ssh("joiner", KEEP)
    cluster.on_head("chrysalis hosts ban joiner --reason spam")
    began = time.monotonic()
    wait_for(lambda: not nodes_of_joiner(cluster), timeout_s=60)
    cluster.seconds["banned: node out of Ray"] = round(time.monotonic() - began, 1)
    wait_for(lambda: cluster.join_steps("joiner")[-1]["step"] == "refused", timeout_s=240)
    last = cluster.join_steps("joiner")[-1]
    assert last["code"] == "host_refused" and "banned: spam" in last["message"]
    left = cluster.hosts.ssh("joiner", "ls /run/chrysalis/join; pgrep -f '[r]aylet'", check=False).stdout.split()
    assert left == ["lock", "logs"]


def test_a_banned_owner_who_kept_token_and_certificate_does_not_stay_in_ray(cluster) -> None:
    before = len(nodes_of_joiner(cluster, all_ever=True))
    start = START_AGAIN.format(head=cluster.hosts.address("head"), own=cluster.hosts.address("joiner"))
    cluster.hosts.ssh("joiner", start)
    try:
        wait_for(lambda: len(nodes_of_joiner(cluster, all_ever=True)) > before, timeout_s=180)
    except AssertionError:
        raise AssertionError(cluster.hosts.ssh("joiner", "cat /run/back.log").stdout[-2000:]) from None
    wait_for(lambda: not nodes_of_joiner(cluster), timeout_s=60)
    deaths = [node["DeathReasonMessage"] for node in nodes_of_joiner(cluster, all_ever=True) if not node["Alive"]]
    assert any("spam" in reason for reason in deaths), deaths
    refused = cluster.on_head(
        f"chrysalis cluster admit {cluster.hosts.address('joiner')}:{ENCLAVE_PORT} --name x", check=False
    )
    assert refused.returncode != 0
    reply = cluster.ask(PROMPT)
    assert reply["choices"][0]["message"]["content"] == ANSWER, "the others go on"
