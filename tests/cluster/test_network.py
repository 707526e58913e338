"""One real network: devnet, head and two Ray nodes, four enclave processes, actors, relay, gateway."""

import json
import subprocess
import sys
import time

import pytest

from cluster.job_bundle import make_bundle
from tests.cluster.network_process import JOB_CODE, LOOPBACK, MODEL

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]
BASE_PORT = 27700


class Network:
    """The network process."""

    def __init__(self, base_port: int = BASE_PORT, module: str = "tests.cluster.network_process") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(base_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, step: str, *values: object):
        self._process.stdin.write(json.dumps({"do": step, "with": values}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> list[str]:
        self._process.stdin.close()
        left = self._answer()
        self._process.stdout.close()
        self._process.wait(30)
        return left

    def _answer(self):
        while line := self._process.stdout.readline():
            if line.startswith('{"'):
                answer = json.loads(line)
                assert "error" not in answer, answer["error"]
                return answer["ok"]
        raise AssertionError("the network process ended")


@pytest.fixture(scope="module")
def network():
    network = Network()
    try:
        network.admissions = network.do("start")
        yield network
    finally:
        assert network.stop() == []


def test_hosts_with_good_evidence_are_admitted_and_others_refused_with_the_reason(network) -> None:
    admissions = network.admissions
    assert {name for name, admission in admissions.items() if admission["accepted"]} == {"tdx", "snp"}
    assert (admissions["debug"]["error"], "debug" in admissions["debug"]["reason"]) == ("GuestPolicyError", True)
    assert admissions["foreign"]["error"] == "MeasurementNotAllowedError"
    assert all(admission["checks"] > 0 for admission in admissions.values())


def test_every_listening_socket_is_on_loopback(network) -> None:
    listeners = network.do("listeners")
    assert len(listeners) > 20
    assert [entry for entry in listeners if entry[0] not in LOOPBACK] == []


def test_who_has_a_wrong_token_or_none_is_told_nothing_by_ray(network) -> None:
    assert network.do("look_with_token", "own").endswith(" nodes")
    for kind in ("wrong", "none"):
        assert "InvalidAuthToken" in network.do("look_with_token", kind)


def test_a_python_job_runs_on_the_node_of_a_host_that_satisfies_it(network, tmp_path) -> None:
    code, spec = tmp_path / "code", tmp_path / "job.yaml"
    code.mkdir()
    (code / "script.py").write_text(
        "import os, pathlib, sys\npathlib.Path(sys.argv[1]).write_text(os.environ['MODE'])\n"
    )
    spec.write_text("working_dir: code\nrequirement: {tees: [sev-snp], gpus: 2}\nenv: {MODE: fast}\n")
    submit = ["submit", "job", "--spec", str(spec), "--unsafe-unapproved", "--", "python", "script.py"]
    done = network.do("command", *submit, str(tmp_path / "out"))
    assert done["code"] == 0, done["err"]
    assert (tmp_path / "out").read_text() == "fast"
    (row, *_) = json.loads(network.do("command", "jobs", "list", "--json")["out"])
    assert (row["status"], row["host_id"]) == ("SUCCEEDED", network.do("fleet")["snp"]["host_id"])
    failed = network.do("command", *submit, "/nowhere/out")
    assert (failed["code"], "FAILED" in failed["err"]) == (1, True)


def test_approved_code_runs_where_a_register_proves_it_and_only_after_the_host_has_logged_it(network, tmp_path) -> None:
    digest, spec = make_bundle(JOB_CODE).digest.hex(), tmp_path / "job.yaml"
    spec.write_text(f"working_dir: {JOB_CODE}\nenv: {{MODE: fast}}\n")
    assert network.do("bundles") == {"tdx": [], "snp": []}
    submit = ["submit", "job", "--spec", str(spec), "--policy", network.do("policy"), "--", "python", "script.py"]
    done = network.do("command", *submit, str(tmp_path / "out"))
    assert done["code"] == 0, done["err"] + done["out"]
    assert (tmp_path / "out").read_text() == "fast ['script.py']"
    assert network.do("bundles") == {"tdx": [digest], "snp": []}


def test_a_host_is_bound_to_the_ray_node_that_proved_to_run_beside_it(network) -> None:
    fleet, nodes = network.do("fleet"), network.do("nodes")
    assert {name: fleet[name]["node_id"] for name in nodes} == nodes


def test_each_placed_replica_has_loaded_the_model(network) -> None:
    fleet = network.do("fleet")
    assert fleet["tdx"]["loaded"] == fleet["snp"]["loaded"] != []


def test_the_gateway_lists_models_and_hosts(network) -> None:
    (model,) = network.do("get", "/v1/models")["body"]["data"]
    assert model["id"] == "demo"
    states = {host["name"]: host["state"] for host in network.do("get", "/v1/hosts")["body"]["data"]}
    assert states == {"tdx": "active", "snp": "active", "debug": "refused", "foreign": "refused"}


def test_a_client_without_a_deposit_gets_no_lease(network) -> None:
    answer = network.do("lease")
    assert (answer["status"], answer["body"]["error"]["code"]) == (402, "insufficient_funds")


def test_a_deposit_buys_a_lease_whose_tickets_open_the_relay(network) -> None:
    assert network.do("deposit", 5_000_000) == 5_000_000
    answer = network.do("lease")
    assert answer["status"] == 200
    lease = answer["body"]
    assert len(lease["candidates"]) == 2
    for candidate in lease["candidates"]:
        url = f"{lease['relay']}{candidate['relay_path']}/evidence"
        assert network.do("evidence", url, candidate["ticket"])["status"] == 200
        assert network.do("evidence", url, "")["status"] == 401
    swapped = f"{lease['relay']}{lease['candidates'][0]['relay_path']}/evidence"
    assert network.do("evidence", swapped, lease["candidates"][1]["ticket"])["status"] in {401, 403}
    assert network.do("statement")["imbalance"] == 0


def test_a_job_gets_the_host_that_fits_also_from_a_restarted_scheduler(network) -> None:
    host = network.do("fleet")["snp"]["host_id"]
    assert network.do("run_job", "one") == host
    network.do("restart", "scheduler")
    assert network.do("run_job", "two") == host


def test_the_operator_sees_why_and_drains_a_host_while_another_one_serves(network) -> None:
    words = network.do("command", "explain", "snp", "--json")
    assert words["code"] == 0, words
    told = json.loads(words["out"])
    assert told["leases"] == {"demo": "yes, beside 1 other hosts"}
    assert told["decisions"][0]["decision"].startswith("started job")
    assert network.do("command", "explain", "nobody")["code"] == 1
    drained = network.do("command", "hosts", "drain", "snp", "--reason", "disk")
    assert (drained["code"], drained["out"]) == (0, "snp is draining: disk\n"), drained
    last = network.do("command", "hosts", "drain", "tdx")
    assert (last["code"], "no other host serves" in last["err"]) == (1, True), last
    assert network.do("command", "hosts", "resume", "snp")["out"].startswith("snp is active")
    rows = json.loads(network.do("command", "hosts", "--json")["out"])
    assert {row["name"]: row["state"] for row in rows} == {
        "tdx": "active",
        "snp": "active",
        "debug": "refused",
        "foreign": "refused",
    }


def test_a_restarted_billing_actor_has_the_same_books(network) -> None:
    before = network.do("statement")
    network.do("restart", "billing")
    assert network.do("statement") == before
    assert network.do("lease", 1_000_000, 2)["status"] == 200


def test_a_restarted_registry_actor_rebuilds_from_fresh_evidence(network) -> None:
    began = network.do("restart", "registry")
    fleet = network.do("fleet")
    assert {name for name, host in fleet.items() if host["state"] == "active"} == {"tdx", "snp"}
    assert all(fleet[name]["verified_at"] >= began for name in ("tdx", "snp"))
    assert set(fleet) == {"tdx", "snp"}, "refused hosts have to join again"


def test_a_host_bound_before_the_registry_restarted_is_bound_again(network) -> None:
    nodes = network.do("nodes")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        fleet = network.do("fleet")
        if {name: fleet[name]["node_id"] for name in nodes} == nodes:
            return
        time.sleep(0.5)
    raise AssertionError(fleet)


def test_a_killed_host_is_suspended_within_five_seconds_and_gets_nothing_any_more(network) -> None:
    fleet = network.do("fleet")
    after = network.do("kill_host", "tdx")
    assert after["seconds"] < 5
    assert after["routes"] == after["placed"] == [fleet["snp"]["host_id"]]
    assert any(loss.startswith("tdx state: it is suspended") for loss in after["lost"])
    lease = network.do("lease", 1_000_000, 3)["body"]
    assert [candidate["host_id"] for candidate in lease["candidates"]] == [fleet["snp"]["host_id"]]
