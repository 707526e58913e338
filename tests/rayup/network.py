"""A whole network over several hosts of namespaces: brought up by `ray up cluster.yaml` and the operator's commands.

The chain and the client run on this machine, everything of operator and hosts on the hosts.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import yaml

from attestation.simulate import Fault
from attestation.verdict import TeeKind
from billing.tariff import Tariff
from chrysalis.local import hosts as enclaves
from chrysalis.local.network import LocalNetwork, NetworkPlan
from chrysalis.local.settings import make_key, raw_address
from cluster.certificates import read_pin, write_certificates
from tests.rayup.hosts import ROOT, Hosts, HostSpec

MODEL = ROOT / "examples" / "demo_model" / "model"
BASE_PORT = 29400
ENCLAVE_PORT, GATEWAY_PORT, RELAY_PORT, JOIN_PORT = 9443, 8000, 8443, 8444
RAY_ENV = "set -a && . /etc/chrysalis/ray/ray.env && set +a && "
HEAD = HostSpec(name="head", number=10, labels={"role": "head"})
TDX = HostSpec(name="tdx", number=11, labels={"tee": "tdx", "gpu": "h100"}, resources='{"gpu_memory_gib": 80}')
SNP = HostSpec(name="snp", number=12, labels={"tee": "sev-snp", "gpu": "h200"}, resources='{"gpu_memory_gib": 141}')
TEES = {TDX.name: TeeKind.TDX, SNP.name: TeeKind.SEV_SNP}


class HostedNetwork(LocalNetwork):
    """The local network's chain, keys, settings and client, with the operator on a host of its own."""

    hosts: Hosts  # set before start_chain

    @property
    def gateway_url(self) -> str:
        return f"http://{self.hosts.address(HEAD.name)}:{GATEWAY_PORT}"

    @property
    def relay_address(self) -> str:
        return f"{self.hosts.address(HEAD.name)}:{RELAY_PORT}"

    @property
    def chain_host(self) -> str:
        return self.hosts.gateway

    def restart_client(self) -> None:
        """A client that knows no lease."""
        self.supervisor.kill("client")
        self.start_client()


class RayUp:
    """Steps of an operator's day. Call `close` in any case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.hosts = Hosts(folder / "h")
        self.pool = ThreadPoolExecutor()  # programs end with the thread that started them
        plan = NetworkPlan(
            base_port=BASE_PORT,
            model=MODEL,
            model_name="demo",
            tariff=Tariff(prompt_price=10**9, completion_price=2 * 10**9),
            context=256,
            channel=0,
        )
        try:
            self.net = HostedNetwork(plan)
        except BaseException:
            self.hosts.close()
            raise
        self.net.hosts = self.hosts

    def close(self) -> list[str]:
        """End everything; returns what could not be ended."""
        try:
            return self.net.stop()
        finally:
            self.hosts.close()
            self.pool.shutdown()

    # --- before ray up ---

    def boot(self) -> None:
        for spec in (HEAD, TDX, SNP):
            self.hosts.add(spec)

    def write_workers(self, *names: str) -> None:
        """Other hosts in cluster.yaml, as the operator would edit it."""
        path = self.folder / "cluster.yaml"
        values = yaml.safe_load(path.read_text())
        values["provider"]["worker_ips"] = [self.hosts.address(name) for name in names]
        values["max_workers"] = len(names)
        path.write_text(yaml.safe_dump(values))

    def write_cluster_file(self) -> Path:
        """The repository's own cluster.yaml with addresses in place of its placeholders."""
        shutil.copytree(ROOT / "deploy", self.folder / "deploy")
        values = {
            "HEAD_ADDRESS": self.hosts.address("head"),
            "HOST_1_ADDRESS": self.hosts.address("tdx"),
            "HOST_2_ADDRESS": self.hosts.address("snp"),
            "~/.ssh/chrysalis": str(self.hosts.key),
        }
        text = (ROOT / "cluster.yaml").read_text()
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        path = self.folder / "cluster.yaml"
        path.write_text(text)
        return path

    def chrysalis(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A `chrysalis` command on this machine, in the folder of cluster.yaml."""
        return self._run([sys.executable, "-m", "chrysalis", *arguments])

    def ray_up(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """`ray up`; again on a head just booted where Ray's own 30 s for a node to come up were not enough."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "up",
            "-y",
            "--no-config-cache",
            *options,
            "cluster.yaml",
        ]
        for _ in range(2):
            done = self._run(command)
            if "timed out during startup" not in done.stdout:
                return done
            self.end_node("head")
        return self._run(command)

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        own = {"HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT)}
        env = {**os.environ, **own, "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    # --- hosts ---

    def start_enclave(self, name: str, tee: TeeKind | None = None) -> str:
        """Put hardware (if it has any) and settings on the host and start its enclave; returns its id."""
        self.install_enclave(name, tee or TEES.get(name))
        return self.run_enclave(name)

    def run_enclave(self, name: str) -> str:
        """Start the enclave of a host that has hardware and settings; returns its id, which is new."""
        program = "python -m enclave --config /etc/chrysalis/enclave/enclave.yaml"
        self.hosts.ssh(name, f"setsid nohup {program} >/run/enclave.log 2>&1 </dev/null &")
        return self._enclave_ready(name)

    def install_enclave(self, name: str, tee: TeeKind | None, *faults: Fault) -> None:
        """Put hardware (if it has any) and an enclave's settings on the host."""
        folder = self.net.folder / "hosts" / f"{name}-{time.monotonic_ns()}"
        owner = make_key(folder.with_suffix(".key"))
        enclaves.write_enclave_settings(
            folder,
            enclaves.HostSpec(name=name, title=name, tee=tee, gpus=1, faults=faults),
            self.net.vendors,
            self.net.enclave_settings(),
            payee=raw_address(self.net.chain_wallet(owner).address),
            listen=f"{self.hosts.address(name)}:{ENCLAVE_PORT}",
            control="/run/chrysalis/control.sock",
            state="/var/lib/chrysalis/enclave",
        )
        self.hosts.copy(name, folder, "/etc/chrysalis/enclave")

    def join_command(self, *options: str, pin: str = "") -> str:
        """`chrysalis join`, for a login shell of a host; the enclave first."""
        pin = pin or read_pin(self.folder / "tls")
        enclave = "--enclave /etc/chrysalis/enclave/enclave.yaml"
        return " ".join(
            ["chrysalis join", f"{self.hosts.address('head')}:{JOIN_PORT} --pin {pin} {enclave} --json", *options]
        )

    def join(self, spec: HostSpec) -> None:
        """Boot a machine of somebody else and let it join; returns when its Ray node is bound."""
        self.hosts.add(spec)
        self.install_enclave(spec.name, TeeKind.TDX)
        self.hosts.ssh(spec.name, f"setsid nohup {self.join_command()} >/run/join.log 2>&1 </dev/null &")
        wait_for(lambda: self.fleet().get(spec.name, {}).get("node_id"), timeout_s=180)

    def join_steps(self, name: str) -> list[dict]:
        """What the `chrysalis join` that runs in the background has said so far."""
        lines = self.hosts.ssh(name, "cat /run/join.log", check=False).stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _enclave_ready(self, name: str) -> str:
        url = f"http://{self.hosts.address(name)}:{ENCLAVE_PORT}/health"
        try:
            return wait_for(lambda: fetch(url).get("host_id"), timeout_s=90)
        except AssertionError:
            raise AssertionError(self.hosts.ssh(name, "cat /run/enclave.log", check=False).stdout[-2000:]) from None

    def add_with_stolen_secrets(self, spec: HostSpec) -> None:
        """A machine of a stranger who has the token and a certificate of the cluster's CA: its Ray node joins."""
        self.hosts.add(spec)
        address = self.hosts.address(spec.name)
        own = write_certificates(self.folder / "tls", "chrysalis", [address], now=datetime.now(UTC))[address]
        self.hosts.copy(spec.name, own, "/etc/chrysalis/tls")
        self.hosts.copy(spec.name, self.folder / "deploy", "/etc/chrysalis/ray")
        self.hosts.copy(spec.name, self.folder / "secret", "/etc/chrysalis/secret")
        (command,) = yaml.safe_load((self.folder / "cluster.yaml").read_text())["worker_start_ray_commands"]
        start = f"export RAY_HEAD_IP={self.hosts.address('head')}; {command}"
        for _ in range(2):  # Ray gives a node 30 s to come up, which a busy machine may not keep
            if self.hosts.ssh(spec.name, start, check=False).returncode == 0:
                return
            self.hosts.kill(spec.name)
            self.hosts.boot(spec.name)
        self.hosts.ssh(spec.name, start)

    def stop_enclave(self, name: str) -> None:
        """End the enclave of a host as its service manager does: answers that run may end."""
        self.hosts.ssh(
            name,
            "pid=$(pgrep -f '[e]nclave.yaml'); kill -TERM $pid; while kill -0 $pid; do sleep 0.1; done",
            check=False,
        )

    def end_node(self, name: str) -> None:
        """End the Ray node of a machine as its operator does."""
        self.hosts.ssh(name, RAY_ENV + "chrysalis cluster end-node")

    def on_head(self, command: str, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.hosts.ssh("head", RAY_ENV + command, timeout_s=240, check=check)

    def nodes(self) -> list[dict]:
        """What the head's control store knows of every node."""
        script = (
            "import json, ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); "
            "print('NODES' + json.dumps(ray.nodes()))"
        )
        printed = self.on_head(f'python -c "{script}"').stdout
        return json.loads(printed.partition("NODES")[2].splitlines()[0])  # Ray may have more to say

    # --- operator ---

    def install_operator(self) -> None:
        """Put the operator's settings on the head, and only there."""
        folder = self.net.folder / "operator"
        settings = yaml.safe_load((folder / "operator.yaml").read_text())
        settings |= {"expose_relay": True, "state": "/var/lib/chrysalis/operator"}
        settings["joining"] = {"listen": f"{self.hosts.address('head')}:{JOIN_PORT}"}
        settings["transparency"]["log"] = "/etc/chrysalis/log"
        (folder / "operator.yaml").write_text(yaml.safe_dump(settings))
        self.hosts.copy("head", folder, "/etc/chrysalis/operator")
        self.hosts.copy("head", self.net.folder / "log", "/etc/chrysalis/log")

    def start_operator(self) -> None:
        self.on_head("chrysalis cluster start /etc/chrysalis/operator/operator.yaml")

    def admit(self, name: str) -> "subprocess.CompletedProcess[str]":
        address = f"{self.hosts.address(name)}:{ENCLAVE_PORT}"
        return self.on_head(f"chrysalis cluster admit {address} --name {name}", check=False)

    def place(self, hosts: int) -> list[str]:
        placed = self.on_head(f"chrysalis cluster place {self.net.model_root.hex()} --hosts {hosts}").stdout
        return json.loads(placed.strip().splitlines()[-1])["nodes"]

    def fleet(self) -> dict[str, dict]:
        """Hosts by name, as the gateway tells everybody; of several of one name the present one, told first."""
        return {host["name"]: host for host in reversed(fetch(self.net.gateway_url + "/v1/hosts").get("data", ()))}

    # --- client ---

    def ask(self, prompt: str) -> dict:
        body = {"model": "demo", "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "temperature": 0}
        return fetch(f"{self.net.sidecar_url}/chat/completions", body, timeout_s=60)

    def receipts(self) -> list[dict]:
        return fetch(f"{self.net.sidecar_url}/receipts")["data"]

    # --- everything ---

    def bring_up(self) -> None:
        """All steps in order, side by side where they do not depend on each other."""
        pool = self.pool
        self.timed("hosts booted", self.boot)
        chain = pool.submit(lambda: asyncio.run(self.net.start_chain()))
        self.write_cluster_file()
        for step, arguments in (("certificates", ("certs",)), ("check", ("check",))):
            done = self.timed(step, lambda a=arguments: self.chrysalis("cluster", *a, "cluster.yaml"))
            assert done.returncode == 0, done.stdout + done.stderr
        chain.result()
        started = [pool.submit(self.start_enclave, name) for name in TEES]
        done = self.timed("ray up", self.ray_up)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        self.enclaves = dict(zip(TEES, (one.result() for one in started), strict=True))
        self.install_operator()
        self.timed("operator's actors and gateway", self.start_operator)
        self.timed("all nodes alive", lambda: wait_for(lambda: len(alive(self.nodes())) == 3, timeout_s=300))
        deposit = pool.submit(lambda: asyncio.run(self.net.deposit(40_000_000_000)))
        self.admissions = self.timed(
            "hosts admitted and bound", lambda: dict(zip(TEES, pool.map(self.admit, TEES), strict=True))
        )
        assert all(done.returncode == 0 for done in self.admissions.values()), self.admissions
        self.placed = self.timed("model placed", lambda: self.place(2))
        deposit.result()
        self.net.start_client()

    def timed(self, step: str, action: Callable):
        began = time.monotonic()
        try:
            return action()
        finally:
            self.seconds[step] = round(time.monotonic() - began, 1)


def alive(nodes: list[dict]) -> list[dict]:
    return [node for node in nodes if node["Alive"]]


def fetch(url: str, body: Mapping | None = None, *, timeout_s: float = 10) -> dict:
    """JSON from a URL; an HTTP error's JSON has its status beside it, and no answer is an empty one."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "text": error.read().decode()}
    except OSError:
        return {}


def wait_for(found: Callable, *, timeout_s: float):
    """What `found` returns once that is true; AssertionError when it never is."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s")
        time.sleep(0.2)
    return value
