"""A network under load whose parts are killed, and the service manager that starts dead programs again.

On a real machine systemd does what `revive_*` do here; Ray restarts actors and replicas by itself.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from attestation.verdict import TeeKind
from chrysalis.demo.run import CONTEXT, MODEL, MODEL_NAME, TARIFF
from chrysalis.local.hosts import HostSpec
from chrysalis.local.network import TON, LocalNetwork, NetworkPlan
from cluster.errors import ClusterError
from cluster.fleet import HostState
from cluster.processes import Program, ProgramError

HOSTS = (
    HostSpec(name="anna", title="TDX, one GPU", tee=TeeKind.TDX, gpus=1),
    HostSpec(name="ben", title="SEV-SNP, two GPUs", tee=TeeKind.SEV_SNP, gpus=2),
    HostSpec(name="cleo", title="TDX, two GPUs", tee=TeeKind.TDX, gpus=2),
)
PATIENCE_S = 120.0
ATTEMPTS_MAX = 3
DEPOSIT = 60 * TON
BUDGET = 3 * TON  # of a lease: five minutes of 50 requests a second


class NotWholeError(Exception):
    """A part did not come back, or a process that should be there is not."""


class World:
    """The network, its load, and its processes by what they are."""

    def __init__(self, folder: Path, *, base_port: int, hosts: Sequence[HostSpec] = HOSTS) -> None:
        self.hosts = hosts
        self.net = LocalNetwork(
            NetworkPlan(
                base_port=base_port,
                model=MODEL,
                model_name=MODEL_NAME,
                tariff=TARIFF,
                context=CONTEXT,
                folder=folder,
                channel=0,
                budget=BUDGET,
            )
        )
        self.released = 0  # quarantines that the operator lifted
        self.asked = folder / "asked.jsonl"
        self.journal = folder / "operator" / "state" / "books.sqlite"
        self.receipts = folder / "client" / "state" / "receipts.sqlite"

    def start(self, *, rate: float) -> None:
        """Bring everything up, and the load."""
        net = self.net
        asyncio.run(net.start_chain())
        net.start_operator()
        enclaves = [net.start_enclave(spec) for spec in self.hosts]
        for enclave in enclaves:
            self._admit(enclave.spec.name)
        net.join(enclaves)
        net.place_model(hosts=len(enclaves))
        asyncio.run(net.deposit(DEPOSIT))
        self.until(lambda: net.billing("available", net.account) == DEPOSIT, "the deposit is booked")
        net.start_client()
        argv = [sys.executable, "-m", "tests.faults.cluster.load", net.sidecar_url, MODEL_NAME, str(rate)]
        self._load = net.supervisor.start("load", [*argv, str(self.asked)])
        self.until(self.answered, "requests are answered")

    def finish_load(self) -> None:
        """No new requests; return when every one has its end."""
        self._load.process.terminate()
        if self._load.process.wait(PATIENCE_S) != 0:
            raise NotWholeError(f"the load ended badly: {self._load.tail()}")

    def in_ray(self) -> bool:
        """Whether this process is a driver."""
        import ray  # noqa: PLC0415

        return bool(ray.is_initialized())

    def answered(self) -> int:
        """How many requests have ended."""
        return self.asked.read_bytes().count(b"\n") if self.asked.exists() else 0

    # --- processes ---------------------------------------------------------------------------------------------------

    def find(self, *words: str, group: str | None = None) -> list[psutil.Process]:
        """Processes of this network whose command line has all these words."""
        found = []
        for process in self.net.supervisor.processes(group):
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if all(word in line for word in words):
                    found.append(process)
        return found

    def one(self, *words: str, group: str | None = None) -> psutil.Process:
        """The first such process; NotWholeError when there is none."""
        found = self.find(*words, group=group)
        if not found:
            raise NotWholeError(f"no process of the network has {words} in its command line")
        return found[0]

    # --- the service manager -----------------------------------------------------------------------------------------

    def revive_enclave(self, name: str) -> None:
        """Start a dead enclave again and have it admitted."""
        self.net.restart_enclave(name)
        self._admit(name)

    def revive_node(self, name: str) -> None:
        """Start the Ray node of a host again, beside its enclave; on a busy machine Ray needs more than one attempt."""
        enclave = self.net.enclaves[name]
        for attempt in range(1, ATTEMPTS_MAX + 1):
            self._clear(name, keep=enclave.program)
            try:
                self.net.join([enclave])
                break
            except ProgramError as error:
                if attempt == ATTEMPTS_MAX:
                    raise
                print(f"the Ray node of {name} is started again: {error}"[:200], file=sys.stderr, flush=True)
        self._place_model()

    def tend(self) -> bool:
        """Start every Ray node again that has ended; True when all run."""
        dead = [host.name for host in self.hosts if not self.find("cluster.ray_start", group=host.name)]
        for name in dead:
            self.revive_node(name)
        return not dead

    def revive_host(self, name: str) -> None:
        """The machine is switched on again."""
        from cluster.actors.handles import end_host  # noqa: PLC0415

        before = self.net.enclaves[name].host_id
        self.net.restart_enclave(name)
        self._admit(name)
        end_host(before)
        self.revive_node(name)

    def revive_head(self) -> None:
        """Start Ray's head again, and nothing else: nodes, actors and replicas have to come back by themselves."""
        self.net.restart_head()

    def _place_model(self) -> None:
        """Have every host serve; one that is quarantined meanwhile is released first."""

        def place() -> bool:
            self._release_quarantined()
            self.net.place_model(hosts=len(self.hosts))
            return True

        self.until(place, "the model is placed on every host")

    def _release_quarantined(self) -> None:
        """What an operator does who knows that hosts came and went because they were killed."""
        for host in self.net.fleet().hosts:
            if host.state is HostState.QUARANTINED and host.host_id is not None:
                self.released += 1
                self.net.ask("registry", "release", host.host_id, "it was killed on purpose", host.address)

    def _admit(self, name: str) -> None:
        admission = self.net.admit(self.net.enclaves[name])
        if not admission.accepted:
            raise NotWholeError(f"{name} is not admitted: {admission.error} {admission.reason}")

    def _clear(self, name: str, *, keep: Program) -> None:
        """End what is left of a host's Ray node; its enclave stays."""
        left = [process for process in self.net.supervisor.processes(name) if process.pid != keep.pid]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)

    # --- is it whole? ------------------------------------------------------------------------------------------------

    def serving(self) -> bool:
        """Every host is active and has the model loaded. The operator releases hosts that came and went too often."""
        self._release_quarantined()
        hosts = [host for host in self.net.fleet().active() if self.net.model_root in host.load.models]
        return len(hosts) >= len(self.hosts)

    def ports_of(self, name: str) -> list[range]:
        """Where a host listens: its enclave, and its Ray node."""
        enclave = int(self.net.enclaves[name].address.rpartition(":")[2])
        node = self.net.ray.ports.node(1 + [host.name for host in self.hosts].index(name))
        return [range(enclave, enclave + 1), node]

    def replicas_run(self) -> bool:
        """Serve calls every replica of the model healthy."""
        from ray import serve  # noqa: PLC0415

        from serve_apps.replica_apps import app_prefix  # noqa: PLC0415

        running = [name for name, app in serve.status().applications.items() if app.status == "RUNNING"]
        prefixes = [app_prefix(self.net.model_root, enclave.host_id) for enclave in self.net.enclaves.values()]
        return all(any(name.startswith(prefix) for name in running) for prefix in prefixes)

    def until(self, holds: Callable[[], object], what: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Return once it holds; a part that does not answer counts as not yet."""
        import ray  # noqa: PLC0415

        deadline, last = time.monotonic() + timeout_s, ""
        while True:
            try:
                if holds():
                    return
            except (ValueError, OSError, ray.exceptions.RayError, ClusterError, NotWholeError) as error:
                last = f": {type(error).__name__} {error}"[:300]
            if time.monotonic() > deadline:
                raise NotWholeError(f"not after {timeout_s:.0f} s: {what}{last}")
            time.sleep(0.1)
