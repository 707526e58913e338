"""What a ban does to a host that joined: its Ray node is ended at once, as often as it comes back."""

import time

import pytest

from tests.rayup.conftest import ANSWER, MARKS, answer
from tests.rayup.hosts import HostSpec
from tests.rayup.network import TDX, RayUp, alive, wait_for

pytestmark = MARKS
NAME = "spammer"
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


@pytest.fixture(scope="module", autouse=True)
def joined(cluster: RayUp):
    """A host that joined; its machine is off afterwards."""
    cluster.join(HostSpec(name=NAME, number=16, labels=TDX.labels, resources=TDX.resources))
    yield
    cluster.hosts.kill(NAME)


def own_nodes(cluster: RayUp, *, ever: bool = False) -> list[dict]:
    address = cluster.hosts.address(NAME)
    nodes = cluster.nodes() if ever else alive(cluster.nodes())
    return [node for node in nodes if node["NodeManagerAddress"] == address]


def test_a_banned_host_loses_its_ray_node_at_once_and_its_owner_is_told(cluster) -> None:
    assert own_nodes(cluster)
    cluster.hosts.ssh(NAME, KEEP)
    cluster.on_head(f"chrysalis hosts ban {NAME} --reason spam")
    began = time.monotonic()
    wait_for(lambda: not own_nodes(cluster), timeout_s=60)
    cluster.seconds["banned: node out of Ray"] = round(time.monotonic() - began, 1)
    wait_for(lambda: cluster.join_steps(NAME)[-1]["step"] == "refused", timeout_s=240)
    last = cluster.join_steps(NAME)[-1]
    assert last["code"] == "host_refused" and "banned: spam" in last["message"]
    left = cluster.hosts.ssh(NAME, "ls /run/chrysalis/join; pgrep -f '[r]aylet'", check=False).stdout.split()
    assert left == ["lock", "logs"]


def test_a_banned_owner_who_kept_token_and_certificate_does_not_stay_in_ray(cluster) -> None:
    before = len(own_nodes(cluster, ever=True))
    start = START_AGAIN.format(head=cluster.hosts.address("head"), own=cluster.hosts.address(NAME))
    cluster.hosts.ssh(NAME, start)
    try:
        wait_for(lambda: len(own_nodes(cluster, ever=True)) > before, timeout_s=180)
    except AssertionError:
        raise AssertionError(cluster.hosts.ssh(NAME, "cat /run/back.log").stdout[-2000:]) from None
    wait_for(lambda: not own_nodes(cluster), timeout_s=60)
    deaths = [node["DeathReasonMessage"] for node in own_nodes(cluster, ever=True) if not node["Alive"]]
    assert any("spam" in reason for reason in deaths), deaths
    cluster.net.restart_client()
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=30)  # the others go on
