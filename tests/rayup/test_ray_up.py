"""`ray up` with the repository's own cluster.yaml on three hosts of namespaces; a stranger joins, a host is lost.

The tests run in the order of the file and share one network with the other files of this folder.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from attestation.simulate import Fault
from attestation.verdict import TeeKind
from tests.rayup.conftest import ANSWER, MARKS, answer, who_answers
from tests.rayup.hosts import HostSpec
from tests.rayup.network import RAY_ENV, TDX, RayUp, alive, wait_for

pytestmark = MARKS
LOOK = "from ray._raylet import GcsClient; print(len(GcsClient(address={0!r}).get_all_node_info(timeout=5)))"


def test_every_machine_of_the_file_is_alive_with_its_labels_and_resources(cluster) -> None:
    nodes = {node["NodeManagerAddress"]: node for node in alive(cluster.nodes())}
    assert set(nodes) == {cluster.hosts.address(name) for name in ("head", "tdx", "snp")}
    tdx, snp = (nodes[cluster.hosts.address(name)] for name in ("tdx", "snp"))
    assert (tdx["Labels"]["tee"], tdx["Labels"]["gpu"], tdx["Resources"]["gpu_memory_gib"]) == ("tdx", "h100", 80)
    assert (snp["Labels"]["tee"], snp["Labels"]["gpu"], snp["Resources"]["gpu_memory_gib"]) == ("sev-snp", "h200", 141)


def test_who_lacks_the_token_or_a_certificate_is_refused(cluster) -> None:
    """The same look at the node table four times; only who has both is told."""
    gcs = f"{cluster.hosts.address('head')}:6379"
    own = cluster.folder / "tls" / cluster.hosts.address("head")
    tls = {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": str(own / "ca.crt")}
    tls |= {"RAY_TLS_SERVER_CERT": str(own / "node.crt"), "RAY_TLS_SERVER_KEY": str(own / "node.key")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.folder / "secret" / "token")}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    short = {"RAY_gcs_rpc_server_connect_timeout_s": "3", "RAY_gcs_server_request_timeout_seconds": "3"}

    def look(env: dict[str, str]) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-c", LOOK.format(gcs)]
        try:
            done = subprocess.run(
                command, env={**clean, **short, **env}, capture_output=True, text=True, timeout=30, check=False
            )
        except subprocess.TimeoutExpired:
            return "no answer"
        return done.stdout.strip() or "refused"

    asked = {"both": tls | token, "certificate": tls | wrong, "token": token, "neither": {"RAY_AUTH_MODE": "disabled"}}
    with ThreadPoolExecutor() as pool:
        seen = dict(zip(asked, pool.map(look, asked.values()), strict=True))
    assert seen.pop("both") == "3"
    assert set(seen.values()) <= {"refused", "no answer"}, seen


def test_every_grpc_port_of_ray_on_the_head_asks_for_a_certificate(cluster) -> None:
    """Servers for actors and replicas included: they would run what they are sent."""
    head, own = cluster.hosts.address("head"), cluster.folder / "tls" / cluster.hosts.address("snp")
    ports = {
        int(line.split()[3].rpartition(":")[2])
        for line in cluster.on_head("ss -Hltn").stdout.splitlines()
        if "127.0.0.1" not in line
    }
    stranger, member = (ssl.create_default_context(cafile=str(own / "ca.crt")) for _ in range(2))
    member.load_cert_chain(own / "node.crt", own / "node.key")
    for context in (stranger, member):
        context.set_alpn_protocols(["h2"])  # without it gRPC ends the connection

    def speaking(context: ssl.SSLContext | None) -> set[int]:
        with ThreadPoolExecutor(max_workers=len(ports)) as pool:
            told = pool.map(lambda port: speaks_http2(head, port, context), ports)
            return {port for port, spoke in zip(ports, told, strict=True) if spoke}

    assert len(speaking(member) - {6379}) >= 10  # the control store, the raylet's, one for each actor and replica
    assert speaking(stranger) == set()
    assert speaking(None) == {8000, 8404, 9101}, "Serve's HAProxy: gateway, statistics, metrics"


def speaks_http2(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    """Whether an HTTP/2 server at the port answers, over TLS or in clear."""
    try:
        with socket.create_connection((host, port), timeout=3) as plain:  # noqa: SIM117  the second may be the first
            with context.wrap_socket(plain, server_hostname=host) if context else plain as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                return connection.recv(9)[3:4] == b"\4"  # its SETTINGS frame
    except OSError:
        return False


def test_both_hosts_are_admitted_by_challenge_and_bound_to_the_node_beside_them(cluster) -> None:
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in alive(cluster.nodes())}
    fleet = cluster.fleet()
    for name, tee in (("tdx", "tdx"), ("snp", "sev-snp")):
        host = fleet[name]
        assert (host["state"], host["tee"], host["tier"]) == ("active", tee, "confidential")
        assert host["host_id"] == cluster.enclaves[name]
        assert host["node_id"] == nodes[cluster.hosts.address(name)]
        assert host["loaded"] == [cluster.net.model_root.hex()]
    assert set(cluster.placed) == {fleet["tdx"]["node_id"], fleet["snp"]["node_id"]}


def test_a_sealed_request_is_answered_through_the_relay(cluster) -> None:
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=60)  # the deposit is seen a block later
    assert who_answers(cluster) in cluster.enclaves.values()


def test_the_operators_keys_are_on_the_head_only(cluster) -> None:
    look = "find /etc/chrysalis /root /var/lib/chrysalis /tmp /run -xdev -name '*.key'"
    found = {name: set(cluster.hosts.ssh(name, look).stdout.split()) for name in ("head", "tdx", "snp")}
    tls, operator = "/etc/chrysalis/tls/node.key", "/etc/chrysalis/operator/"
    assert found["head"] == {
        tls,
        "/etc/chrysalis/joining/joining.key",
        *(f"{operator}{name}.key" for name in ("governance", "operator", "ticket", "treasury")),
    }
    assert found["tdx"] == found["snp"] == {tls}


def test_a_stranger_with_token_and_certificate_but_no_evidence_gets_no_placement(cluster) -> None:
    rogue = HostSpec(name="rogue", number=13, labels=TDX.labels, resources=TDX.resources)  # claims to be like tdx
    cluster.timed("a stranger's node started", lambda: cluster.add_with_stolen_secrets(rogue))
    address = cluster.hosts.address("rogue")
    wait_for(lambda: address in {node["NodeManagerAddress"] for node in alive(cluster.nodes())}, timeout_s=60)
    script = f"python -m tests.rayup.stranger {cluster.enclaves['tdx']}"
    told = json.loads(cluster.hosts.ssh("rogue", RAY_ENV + script).stdout.splitlines()[-1])
    assert told["outcome"] == "AdmissionRefusedError"
    cluster.timed("its enclave started", lambda: cluster.start_enclave("rogue"))  # a real one, which no TEE signs for
    cluster.admit("rogue")
    assert cluster.fleet()["rogue"]["tier"] == "open"
    assert told["node_id"] not in cluster.timed("model placed again", lambda: cluster.place(2))
    assert cluster.fleet()["rogue"]["loaded"] == []
    assert answer(cluster) == ANSWER


# What is left of a join: Ray's token and key, and Ray's processes.
LEFT = "ls /run/chrysalis/join; ps -eo args | grep -E '[r]aylet|[r]ay_start|[g]cs' | cut -c1-60"


def join_in_background(cluster: RayUp) -> float:
    """Join, and wait for the first replica; returns the seconds from its challenge until that is offered."""
    root, before = cluster.net.model_root.hex(), cluster.fleet().get("joiner", {}).get("host_id")

    def offered_anew() -> bool:
        host = cluster.fleet().get("joiner", {})
        return host.get("loaded") == [root] and host["host_id"] != before

    cluster.hosts.ssh("joiner", f"setsid nohup {cluster.join_command()} >/run/join.log 2>&1 </dev/null &")
    try:
        wait_for(offered_anew, timeout_s=300)
    except AssertionError:
        raise AssertionError(cluster.hosts.ssh("joiner", "cat /run/join.log").stdout[-3000:]) from None
    offered = time.time()
    steps = {one["step"]: one["time"] for one in cluster.join_steps("joiner")}
    print("join:", {step: round(at - steps["challenge"], 1) for step, at in steps.items()})
    cpu = sum(map(int, cluster.hosts.ssh("joiner", "ps -eo cputimes=").stdout.split()))
    print("join: CPU seconds of all processes of the host:", cpu)
    return round(offered - steps["challenge"], 1)


def test_a_host_joins_by_its_evidence_and_gets_certificate_token_replica_and_requests(cluster) -> None:
    joiner = HostSpec(name="joiner", number=14, labels=TDX.labels, resources=TDX.resources)
    cluster.hosts.add(joiner)
    cluster.install_enclave("joiner", TeeKind.TDX)
    cluster.seconds["joined: challenge to replica offered"] = join_in_background(cluster)
    host = cluster.fleet()["joiner"]
    nodes = {node["NodeManagerAddress"]: node for node in alive(cluster.nodes())}
    assert host["node_id"] == nodes[cluster.hosts.address("joiner")]["NodeID"]
    assert (host["state"], host["tier"]) == ("active", "confidential")
    for name in ("tdx", "snp"):  # and a new client, without a lease: the joined one is left
        cluster.on_head(f"chrysalis hosts drain {name}")
    cluster.net.restart_client()
    assert who_answers(cluster) == host["host_id"]
    for name in ("tdx", "snp"):
        cluster.on_head(f"chrysalis hosts resume {name}")
    looked = cluster.hosts.ssh("joiner", "stat -c '%a %n' /run/chrysalis/join /run/chrysalis/join/*").stdout
    assert {line.split()[0] for line in looked.splitlines() if "logs" not in line} == {"700", "600"}


def test_a_joined_host_whose_supervisor_is_killed_keeps_no_node_and_joins_again(cluster) -> None:
    cluster.hosts.ssh("joiner", "kill -KILL $(pgrep -f '[c]hrysalis join')")
    wait_for(lambda: "raylet" not in cluster.hosts.ssh("joiner", LEFT).stdout, timeout_s=30)
    cluster.seconds["joined again: challenge to replica offered"] = join_in_background(cluster)


def test_a_host_that_leaves_is_out_and_leaves_neither_node_nor_secrets(cluster) -> None:
    began = time.monotonic()
    cluster.hosts.ssh("joiner", "kill -TERM $(pgrep -f '[c]hrysalis join')")
    wait_for(lambda: cluster.fleet()["joiner"]["state"] in {"draining", "gone"}, timeout_s=60)
    wait_for(lambda: cluster.hosts.ssh("joiner", "pgrep -f '[c]hrysalis join'", check=False).stdout == "", timeout_s=60)
    cluster.seconds["left"] = round(time.monotonic() - began, 1)
    assert cluster.fleet()["joiner"]["state"] == "gone"
    assert cluster.hosts.ssh("joiner", LEFT, check=False).stdout.split() == ["lock", "logs"]
    cluster.net.restart_client()  # whose lease names the host that left
    assert answer(cluster) == ANSWER


@pytest.mark.parametrize(
    ("tee", "faults", "pin", "code"),
    [
        pytest.param(TeeKind.TDX, (Fault.DEBUG_GUEST,), "", "evidence_refused", id="debug-guest"),
        pytest.param(None, (), "", "no_tee", id="no-tee"),
        pytest.param(TeeKind.TDX, (), "00" * 32, "wrong_pin", id="wrong-pin"),
    ],
)
def test_a_host_without_valid_evidence_or_with_a_wrong_pin_gets_neither_token_nor_certificate(
    cluster, tee, faults, pin, code
) -> None:
    cluster.hosts.ssh("joiner", "rm -rf /etc/chrysalis/enclave /var/lib/chrysalis/enclave")
    cluster.install_enclave("joiner", tee, *faults)
    done = cluster.hosts.ssh("joiner", cluster.join_command(pin=pin), check=False)
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["code"]) == (1, code), done.stdout + done.stderr
    assert cluster.hosts.ssh("joiner", LEFT, check=False).stdout.split() == ["lock", "logs"]
    assert cluster.hosts.address("joiner") not in {node["NodeManagerAddress"] for node in alive(cluster.nodes())}


def test_the_network_goes_on_when_the_host_that_serves_loses_power(cluster) -> None:
    serving = who_answers(cluster)
    name, other = ("tdx", "snp") if serving == cluster.enclaves["tdx"] else ("snp", "tdx")
    node = cluster.fleet()[name]["node_id"]
    began = time.monotonic()
    cluster.hosts.kill(name)
    wait_for(lambda: cluster.fleet()[name]["state"] == "suspended", timeout_s=30)
    cluster.seconds["lost host suspended"] = round(time.monotonic() - began, 1)
    for _ in range(5):
        assert who_answers(cluster) == cluster.enclaves[other]
    wait_for(lambda: node not in {one["NodeID"] for one in alive(cluster.nodes())}, timeout_s=60)
    cluster.seconds["lost host's node dead"] = round(time.monotonic() - began, 1)
    assert who_answers(cluster) == cluster.enclaves[other]
