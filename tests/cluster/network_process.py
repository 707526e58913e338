"""A whole local network in a process of its own, told what to do by JSON lines on standard input.

Ray reads its environment once per process, so a test process can hold one cluster at most; this one is thrown away.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.eventlog import EventKind
from attestation.evidence import TdxEvidence, parse_evidence
from attestation.simulate import Fault
from attestation.verdict import TeeKind
from billing.lease_request import LeaseRequest, sign_lease_request
from billing.money import Nanotons
from billing.tariff import Tariff
from chrysalis.local.hosts import HostSpec
from chrysalis.local.network import LocalNetwork, NetworkPlan
from cluster.fleet import HostState
from cluster.job_bundle import make_bundle
from cluster.job_queue import Job
from cluster.model import JobRequirement

MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
JOB_CODE = Path(__file__).parent / "job_code"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
LOOK = "from ray._raylet import GcsClient; print(len(GcsClient(address={0!r}).get_all_node_info(timeout=5)), 'nodes')"
GOOD = (
    HostSpec(name="tdx", title="TDX host", tee=TeeKind.TDX, gpus=1),
    HostSpec(name="snp", title="SEV-SNP host", tee=TeeKind.SEV_SNP, gpus=2),
)
BAD = (
    HostSpec(name="debug", title="debug guest", tee=TeeKind.TDX, gpus=1, faults=(Fault.DEBUG_GUEST,)),
    HostSpec(name="foreign", title="foreign image", tee=TeeKind.SEV_SNP, gpus=1, faults=(Fault.FOREIGN_MEASUREMENT,)),
)


class Steps:
    """What a test may ask for. Every answer is JSON."""

    def __init__(self, base_port: int) -> None:
        plan = NetworkPlan(
            base_port=base_port,
            model=MODEL,
            model_name="demo",
            tariff=Tariff(prompt_price=10**9, completion_price=2 * 10**9),
            context=256,
            job_bundles=frozenset({make_bundle(JOB_CODE).digest}),
        )
        self.net = LocalNetwork(plan)
        self.admissions: dict[str, dict] = {}

    def start(self) -> dict:
        asyncio.run(self.net.start_chain())
        self.net.start_operator()
        good = [self.net.start_enclave(spec) for spec in GOOD]
        bad = [self.net.start_enclave(spec) for spec in BAD]
        for enclave in (*good, *bad):
            admission = self.net.admit(enclave)
            self.admissions[enclave.spec.name] = {
                "accepted": admission.accepted,
                "error": admission.error,
                "reason": admission.reason,
                "checks": len(admission.checks),
            }
        self.net.join(good)
        self.net.place_model(hosts=len(good))
        return self.admissions

    def listeners(self) -> list:
        found = []
        for process in self.net.supervisor.processes():
            try:
                connections = process.net_connections(kind="inet")
            except psutil.Error:
                continue
            found += [(c.laddr.ip, c.laddr.port, process.name()) for c in connections if c.status == "LISTEN"]
        return found

    def look_with_token(self, kind: str) -> str:
        """What a process of this machine is told of Ray's nodes: with the network's own token, a wrong one or none."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= self.net.ray.driver_env() | {"RAY_gcs_rpc_server_connect_timeout_s": "3"}
        if kind != "own":
            del env["RAY_AUTH_TOKEN_PATH"]
        env |= {"wrong": {"RAY_AUTH_TOKEN": "0" * 64}, "none": {"RAY_AUTH_MODE": "disabled"}}.get(kind, {})
        done = subprocess.run(
            [sys.executable, "-c", LOOK.format(self.net.ray.address)],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip() or done.stderr

    def fleet(self) -> dict:
        return {
            host.hints.name: {
                "host_id": host.host_id and host.host_id.hex(),
                "state": str(host.state),
                "reason": host.reason,
                "node_id": host.node_id,
                "verified_at": host.capability and host.capability.verified_at.timestamp(),
                "loaded": sorted(root.hex() for root in host.load.models),
            }
            for host in self.net.fleet().hosts
        }

    def nodes(self) -> dict:
        return self.net.nodes

    def labels(self) -> dict:
        from cluster.ray_nodes import alive_nodes  # noqa: PLC0415

        return {node["NodeName"]: node["Labels"] for node in alive_nodes()}

    def lease(self, budget: int = 1_000_000, request_id: int = 1) -> dict:
        folder = self.net.folder
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex((folder / "client" / "wallet.key").read_text()))
        operator = Ed25519PrivateKey.from_private_bytes(bytes.fromhex((folder / "operator/operator.key").read_text()))
        request = LeaseRequest(
            operator=operator.public_key().public_bytes_raw(),
            account=key.public_key().public_bytes_raw(),
            model="demo",
            tier="confidential",
            hosts=3,
            budget=Nanotons(budget),
            request_id=bytes([request_id]) * 16,
            issued_at=int(datetime.now(UTC).timestamp()),
        )
        body = json.dumps(sign_lease_request(request, key)).encode()
        return ask(f"{self.net.ray.gateway_url}/v1/leases", body)

    def get(self, path: str) -> dict:
        return ask(self.net.ray.gateway_url + path)

    def evidence(self, url: str, ticket: str) -> dict:
        headers = {"authorization": f"Bearer {ticket}"} if ticket else {}
        return ask(url, b"\x07" * 32, headers)

    def deposit(self, amount: int) -> int:
        asyncio.run(self.net.deposit(amount))
        deadline = time.monotonic() + 30
        while not (available := self.net.billing("available", self.net.account)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return available

    def statement(self) -> dict:
        statement = self.net.billing("statement")
        return {"imbalance": statement.imbalance, "balances": statement.balances, "treasury": statement.treasury}

    def restart(self, name: str) -> float:
        import ray  # noqa: PLC0415

        from cluster.actors.handles import find  # noqa: PLC0415

        began = time.time()
        ray.kill(find(name), no_restart=False)
        self.net.ask(name, "ready")
        return began

    def command(self, *argv: str) -> dict:
        """A `chrysalis` command of the operator, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "chrysalis", *argv],
            env={**os.environ, "RAY_ADDRESS": self.net.ray.address},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr[-2000:]}

    def policy(self) -> str:
        return str(self.net.folder / "operator" / "policy.yaml")

    def bundles(self) -> dict:
        """The jobs' code that each host's fresh evidence names."""
        shown = {}
        for spec in GOOD:
            request = urllib.request.Request(f"http://{self.net.enclaves[spec.name].address}/evidence", os.urandom(32))
            with urllib.request.urlopen(request, timeout=20) as answer:
                cpu = parse_evidence(answer.read()).cpu
            events = cpu.log if isinstance(cpu, TdxEvidence) else ()
            shown[spec.name] = [event.digest.hex() for event in events if event.kind is EventKind.JOB_BUNDLE]
        return shown

    def run_job(self, name: str) -> str:
        """The host that a job of one GPU gets; it is finished at once."""
        job = Job(
            job_id=name.encode(),
            account=b"a",
            requirement=JobRequirement(tees=frozenset({TeeKind.SEV_SNP}), gpus_min=2),
            cost=1,
        )
        placement = self.net.ask("scheduler", "place_job", job)
        again = self.net.ask("scheduler", "place_job", job)
        if again != placement or not self.net.ask("scheduler", "finish_job", job.job_id):
            raise RuntimeError("asked again, the job got another place, or none")
        return placement.host_id.hex()

    def kill_host(self, name: str) -> dict:
        """Kill a host; how long until the fleet shows it, and what the others say then."""
        host_id = self.net.enclaves[name].host_id
        began = time.monotonic()
        self.net.kill_host(name)
        while self.net.fleet().host(host_id).state is HostState.ACTIVE and time.monotonic() < began + 20:
            time.sleep(0.05)
        seconds = time.monotonic() - began
        time.sleep(0.3)  # the push to relay and scheduler
        requirement = JobRequirement(model=self.net.model_root, hosts=3, loaded=True)
        decision = self.net.ask("scheduler", "place", requirement)
        return {
            "seconds": seconds,
            "routes": sorted(self.net.ask("relay", "hosts")),
            "placed": [placement.host_id.hex() for placement in decision.placements],
            "lost": [f"{loss.name} {loss}" for loss in decision.losses],
        }


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict:
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return {"status": answer.status, "body": text_of(answer.read())}
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "body": text_of(error.read())}


def text_of(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return len(body)


def main() -> None:
    steps = Steps(int(sys.argv[1]))
    try:
        for line in sys.stdin:
            order = json.loads(line)
            step: Callable[..., object] = getattr(steps, order["do"])
            try:
                answer = {"ok": step(*order["with"])}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"[-3000:]}
            print(json.dumps(answer), flush=True)
    finally:
        left = steps.net.stop()
        print(json.dumps({"ok": left}), flush=True)


if __name__ == "__main__":
    main()
