"""The operator's day on the network of this folder: a host back from a power cut, one more, one less, another token.

Run in the order of the file, each step as docs/OPERATING.md has it, while a program asks all the time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from attestation.verdict import TeeKind
from tests.rayup.conftest import ANSWER, MARKS, answer, who_answers
from tests.rayup.hosts import HostSpec
from tests.rayup.network import TDX, TEES, RayUp, alive, wait_for
from tests.serve.rollout_scenario import Asking

pytestmark = MARKS
BACK_S = 400.0  # for a Ray node that the head's autoscaler starts again
GUEST = HostSpec(name="guest", number=17, labels=TDX.labels, resources=TDX.resources)
ADDED = HostSpec(name="added", number=15, labels=TDX.labels, resources=TDX.resources)


@contextmanager
def requests_all_the_time(cluster: RayUp) -> Iterator[Asking]:
    """One program that asks, and none of whose requests may be lost."""
    asking = Asking(cluster.net.sidecar_url, pause_s=0.2)
    asking.start()
    try:
        yield asking
    finally:
        asking.stop()
    assert asking.lost == []
    assert asking.answered > 0


def alive_at(cluster: RayUp, name: str) -> list[str]:
    """Ids of the Ray nodes that live on a machine."""
    address = cluster.hosts.address(name)
    return [node["NodeID"] for node in alive(cluster.nodes()) if node["NodeManagerAddress"] == address]


def check_serves(cluster: RayUp, name: str) -> None:
    """The host is active, bound to the one Ray node of its machine, and offered."""
    root = cluster.net.model_root.hex()

    def offered() -> dict:
        host = cluster.fleet().get(name, {})  # none while the gateway starts
        return host if host.get("loaded") == [root] else {}

    host = wait_for(offered, timeout_s=240)
    assert (host["state"], [host["node_id"]]) == ("active", alive_at(cluster, name))


def test_a_host_that_was_without_power_serves_again_once_it_is_admitted(cluster) -> None:
    down = [name for name in TEES if not cluster.hosts.running(name)]
    for name in down or ["snp"]:
        if not down:
            cluster.hosts.kill(name)
            wait_for(lambda name=name: not alive_at(cluster, name), timeout_s=60)
        before = cluster.enclaves[name]
        with requests_all_the_time(cluster):
            cluster.hosts.boot(name)
            cluster.enclaves[name] = cluster.run_enclave(name)  # as its image does at boot
            assert cluster.enclaves[name] != before, "new keys"
            cluster.timed(
                "lost host's node started again",
                lambda name=name: wait_for(lambda: alive_at(cluster, name), timeout_s=BACK_S),
            )
            assert cluster.admit(name).returncode == 0
            cluster.place(2)
            check_serves(cluster, name)


def test_a_host_of_ones_own_is_added_while_the_head_runs(cluster) -> None:
    cluster.hosts.add(ADDED)
    head = alive_at(cluster, "head")
    with requests_all_the_time(cluster):
        cluster.write_workers("tdx", "snp", "added")
        for command in ("certs", "check"):
            done = cluster.chrysalis("cluster", command, "cluster.yaml")
            assert done.returncode == 0, done.stdout + done.stderr
        enclave = cluster.pool.submit(cluster.start_enclave, "added", TeeKind.TDX)
        done = cluster.ray_up("--no-restart")
        assert done.returncode == 0, done.stdout[-2000:]
        cluster.timed("added host's node", lambda: wait_for(lambda: alive_at(cluster, "added"), timeout_s=BACK_S))
        cluster.enclaves["added"] = enclave.result()
        assert cluster.admit("added").returncode == 0
        cluster.place(3)
        check_serves(cluster, "added")
    assert alive_at(cluster, "head") == head, "nothing of the head was restarted"
    assert len(alive_at(cluster, "tdx")) == len(alive_at(cluster, "snp")) == 1


def test_a_host_is_drained_and_taken_out_without_losing_a_request(cluster) -> None:
    with requests_all_the_time(cluster):
        cluster.on_head("chrysalis hosts drain added --reason 'end of its lease'")
        wait_for(lambda: cluster.fleet()["added"]["state"] == "draining", timeout_s=30)
        cluster.write_workers("tdx", "snp")
        assert cluster.chrysalis("cluster", "check", "cluster.yaml").returncode == 0
        done = cluster.ray_up("--no-restart")
        assert done.returncode == 0, done.stdout[-2000:]
        cluster.stop_enclave("added")
        cluster.end_node("added")
        wait_for(lambda: not alive_at(cluster, "added"), timeout_s=30)
        gone = time.monotonic()
        wait_for(lambda: cluster.fleet()["added"]["state"] == "gone", timeout_s=120)
        wait_for(
            lambda: time.monotonic() - gone > 15, timeout_s=30
        )  # longer than a host is missed before it is started
    assert alive_at(cluster, "added") == []
    cluster.hosts.kill("added")


def test_the_token_is_rotated_without_losing_a_request_and_who_has_the_old_one_is_out(cluster) -> None:
    """A machine without power is left out and said; a host that joined is in again by itself."""
    old = (cluster.folder / "secret" / "token").read_text()
    cluster.join(GUEST)
    enclave = cluster.fleet()["guest"]["host_id"]
    with requests_all_the_time(cluster) as asking:
        done = cluster.chrysalis("cluster", "certs", "cluster.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        cluster.write_workers("tdx", "snp", "added")
        done = cluster.timed("token rotated", lambda: cluster.chrysalis("cluster", "rotate-token", "cluster.yaml"))
        assert (done.returncode, "3 machines have the new token" in done.stdout) == (2, True), done.stdout + done.stderr
        assert f"left out: {cluster.hosts.address('added')}" in done.stderr
        rotated = time.monotonic()
        cluster.write_workers("tdx", "snp")
        before = asking.answered
        done = cluster.timed("ray up with the new token", cluster.ray_up)
        assert done.returncode == 0, done.stdout[-2000:]
        assert asking.answered > before, "without Ray"
        for name in TEES:
            wait_for(lambda name=name: alive_at(cluster, name), timeout_s=BACK_S)
            assert cluster.admit(name).returncode == 0
        for name in TEES:
            check_serves(cluster, name)
        wait_for(lambda: alive_at(cluster, "guest") == [cluster.fleet()["guest"]["node_id"]], timeout_s=BACK_S)
        cluster.seconds["joined host is in again with the new token"] = round(time.monotonic() - rotated, 1)
    assert cluster.fleet()["guest"]["host_id"] == enclave, "its enclave was not restarted"
    cluster.hosts.ssh("guest", "kill -TERM $(pgrep -f '[c]hrysalis join')")
    wait_for(lambda: not alive_at(cluster, "guest"), timeout_s=60)
    cluster.hosts.kill("guest")
    machines = {node["NodeManagerAddress"] for node in alive(cluster.nodes())}
    assert machines == {cluster.hosts.address(name) for name in ("head", *TEES)}, "a stranger's node is out"
    secret = "/etc/chrysalis/secret/token"
    told = {cluster.hosts.ssh(name, f"cat {secret}; stat -c %a {secret}").stdout for name in ("head", *TEES)}
    new = (cluster.folder / "secret" / "token").read_text()
    assert (told, new == old) == ({f"{new}600\n"}, False)
    cluster.net.restart_client()
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=60)
    assert who_answers(cluster) in cluster.enclaves.values()
