"""Scaling up, a roll-out, a drain, a roll-back and scaling down on three local hosts, while clients ask all the time.

    python -m tests.serve.rollout_scenario BASE_PORT     prints one JSON object: what happened

In a process of its own: Ray reads its environment once per process.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from attestation.eventlog import EventKind
from attestation.evidence import TdxEvidence, parse_evidence
from attestation.verdict import TeeKind
from billing.tariff import Tariff
from chrysalis.local.hosts import HostSpec
from chrysalis.local.network import LocalNetwork, NetworkPlan
from client.receipts import read_receipts
from cluster.fleet import Window
from cluster.job_bundle import make_bundle
from enclave.manifest import manifest_root
from tests.cluster.network_process import MODEL

JOB_CODE = Path(__file__).parent / "job_over_hosts"
HOSTS = tuple(HostSpec(name=name, title=name, tee=TeeKind.TDX, gpus=1) for name in ("a", "b", "c"))
CLIENTS = 2
CROWD = 10  # programs that ask as fast as they can; more than three replicas of the target depth
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 0.0)  # before each further attempt, where the answer says that one may help
RETIRE_S = 12
TYPISTS = 2  # programs that take turns as fast as they can: many tokens, and a queue that is always short
BY_TOKENS = {"min": 1, "max": 5, "depth_target": 1000, "tokens_per_s": 2, "up_after_s": 1, "down_after_s": 3}
SCALING = {"min": 1, "max": 3, "depth_target": 1, "up_after_s": 1, "down_after_s": 5, "spare_s": 5}
WAIT_S = 120.0


class Asking(threading.Thread):
    """One program that asks again some time after it had its answer; told to, it tries again, as OpenAI's client."""

    def __init__(self, url: str, *, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._url, self._pause_s, self._over = url, pause_s, threading.Event()
        self.answered, self.tried_again, self.lost = 0, 0, list[str]()

    def run(self) -> None:
        while not self._over.is_set():
            self._ask()
            self._over.wait(self._pause_s)

    def _ask(self) -> None:
        body = {"model": "demo", "messages": [{"role": "user", "content": "the cat sleeps"}], "max_tokens": 8}
        request = urllib.request.Request(
            f"{self._url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        for pause_s in PAUSES_S:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    json.load(answer)
                self.answered += 1
                return
            except urllib.error.HTTPError as error:
                with error:
                    words, again = error.read().decode()[:500], "retry-after-ms" in error.headers
            except OSError as error:
                words, again = f"{type(error).__name__}: {error}", False
            if not again or not pause_s:
                self.lost.append(words)
                return
            self.tried_again += 1
            time.sleep(pause_s)

    def stop(self) -> None:
        """Let the answer that is on its way come, and end."""
        self._over.set()
        self.join(90)
        if self.is_alive():
            self.lost.append("no answer")


def copy_with_note(folder: Path) -> Path:
    """The same model under another manifest root."""
    shutil.copytree(MODEL, folder)
    (folder / "NOTE").write_text("second edition\n")
    return folder


def wait_for(what: str, holds: Callable[[], bool], net: LocalNetwork) -> float:
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > WAIT_S:
            loaded = {host.hints.name: sorted(r.hex()[:8] for r in host.load.models) for host in net.fleet().hosts}
            raise TimeoutError(f"{what}: {row(net)} {net.ask('models', 'plan')} {loaded}")
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


def row(net: LocalNetwork) -> dict[str, Any]:
    return net.ask("models", "models")[0]


def loaded(net: LocalNetwork) -> dict[str, frozenset[bytes]]:
    return {host.hints.name: host.load.models for host in net.fleet().hosts}


def story(net: LocalNetwork, new: bytes) -> dict[str, Any]:
    asyncio.run(net.start_chain())
    net.start_operator()
    enclaves = [net.start_enclave(spec) for spec in HOSTS]
    refused = [admission.reason for admission in map(net.admit, enclaves) if not admission.accepted]
    net.join(enclaves)
    net.place_model(hosts=1)
    urls = [net.start_client(number) for number in range(CLIENTS)]
    few = [Asking(urls[0], pause_s=3.0)]  # never two at once: one replica is enough
    crowd = [Asking(urls[number % CLIENTS], pause_s=0.01) for number in range(CROWD)]
    typists = [Asking(urls[number % CLIENTS], pause_s=0.02) for number in range(TYPISTS)]
    took: dict[str, float] = {}
    try:
        scaled = scale_up(net, few, crowd, took)
        kept = change_roots(net, new, crowd, took)
        scaled |= scale_down(net, few, crowd, took)
        by_tokens = scale_by_tokens(net, few, typists, took)
        job = run_job(net, took)
    finally:
        for one in (*few, *crowd, *typists):
            if one.ident is not None:
                one.stop()
    old = net.model_root
    return {
        "refused": refused,
        "took": took,
        "scaled": scaled,
        "by_tokens": by_tokens,
        "job": job,
        "old_kept": kept,
        "answered": answers((*few, *crowd, *typists)),
        "tried_again": sum(one.tried_again for one in (*few, *crowd, *typists)),
        "lost": [words for one in (*few, *crowd, *typists) for words in one.lost],
        "roots": roots_of_receipts(net, {old: "old", new: "new"}),
    }


def scale_up(net: LocalNetwork, few: list[Asking], crowd: list[Asking], took: dict[str, float]) -> dict[str, int]:
    """Little work keeps one replica; much of it makes as many as the fleet offers."""
    start_all(few)
    took["first answers"] = wait_for("answers", lambda: all(one.answered > 2 for one in few), net)
    before = serving(net)
    start_all(crowd)
    took["second replica"] = wait_for("second replica", lambda: serving(net) >= 2, net)
    took["third replica"] = wait_for("third replica", lambda: serving(net) == len(HOSTS), net)
    return {"before": before, "busy": serving(net), "wanted": row(net)["wanted"], "offered": row(net)["offered"]}


def change_roots(net: LocalNetwork, new: bytes, crowd: list[Asking], took: dict[str, float]) -> int:
    """Roll-out, drain and roll-back; returns how many hosts kept the old root when leases changed to the new one."""
    old = net.model_root
    net.ask("models", "rollout", "demo", new, 2)
    took["switched"] = wait_for("switch", lambda: row(net)["root"] == new.hex(), net)
    kept = sum(old in models for models in loaded(net).values())
    took["new root everywhere"] = wait_for("new root everywhere", lambda: row(net)["serving"][new.hex()] == 3, net)
    window = Window(start=datetime.now(UTC), end=None, reason="disk")
    net.ask("registry", "plan", net.enclaves["a"].host_id, window)
    done = {"a": frozenset[bytes](), "b": frozenset({new}), "c": frozenset({new})}
    took["retired and drained"] = wait_for("retirement", lambda: loaded(net) == done, net)
    during = answers(crowd)
    wait_for("answers by the new root", lambda: answers(crowd) > during + 10, net)
    net.ask("models", "roll_back", "demo")
    took["rolled back"] = wait_for("roll-back", lambda: row(net)["root"] == old.hex(), net)
    return kept


def scale_down(net: LocalNetwork, few: list[Asking], crowd: list[Asking], took: dict[str, float]) -> dict[str, int]:
    """When the crowd is gone, one host keeps the model and the others unload it."""
    took["busy again"] = wait_for("two replicas", lambda: row(net)["serving"].get(net.model_root.hex()) == 2, net)
    for one in crowd:
        one.stop()
    took["one wanted"] = wait_for("one wanted", lambda: row(net)["wanted"] == 1, net)
    took["idle replicas gone"] = wait_for(
        "retirement", lambda: sorted(map(len, loaded(net).values())) == [0, 0, 1], net
    )
    during = answers(few)
    wait_for("answers by the last replica", lambda: answers(few) > during + 4, net)
    return {"idle": serving(net)}


def scale_by_tokens(
    net: LocalNetwork, few: list[Asking], typists: list[Asking], took: dict[str, float]
) -> dict[str, int | bool]:
    """Tokens a second make replicas while hardly anybody waits, as many as there are hosts; quiet takes them back."""
    for one in few:
        one.stop()
    net.ask("registry", "plan", net.enclaves["a"].host_id, None)  # the host that was drained is back
    set_scaling(net, BY_TOKENS)
    wait_for("all hosts offered", lambda: row(net)["offered"] == len(HOSTS), net)
    before, deepest = row(net)["wanted"], 0
    start_all(typists)

    def all_serve() -> bool:
        nonlocal deepest
        deepest = max(deepest, *(host.load.depth for host in net.fleet().hosts))
        now = row(net)
        return now["needed"] > len(HOSTS) and serving(net) == len(HOSTS)

    took["replicas for the tokens"] = wait_for("replicas for the tokens", all_serve, net)
    busy = row(net)
    for one in typists:
        one.stop()
    took["one wanted for no tokens"] = wait_for("one wanted", lambda: row(net)["wanted"] == 1, net)
    told = {name: int(busy[name]) for name in ("wanted", "offered")}
    return {"before": before, **told, "needed_more": busy["needed"] > len(HOSTS), "queue_short": deepest <= TYPISTS}


def set_scaling(net: LocalNetwork, settings: dict[str, int]) -> None:
    """Other settings of the model, which the models actor reads when it starts again."""
    import ray  # noqa: PLC0415

    from cluster.actors.handles import MODELS, find  # noqa: PLC0415

    path = net.folder / "operator" / "operator.yaml"
    values = yaml.safe_load(path.read_text())
    values["models"] = {"demo": settings | {"spare_s": SCALING["spare_s"], "retire_after_s": RETIRE_S}}
    path.write_text(yaml.safe_dump(values))

    def measures() -> bool:
        try:
            return row(net)["needed"] >= 1
        except ray.exceptions.RayError:
            return False

    ray.kill(find(MODELS), no_restart=False)
    wait_for("end of the models actor", lambda: not measures(), net)
    wait_for("another models actor", measures, net)


def run_job(net: LocalNetwork, took: dict[str, float]) -> dict[str, Any]:
    """A measured job that uses every node; returns what each said, and which hosts have its code in their evidence."""
    began = time.monotonic()
    spec, out = net.folder / "job.yaml", net.folder / "job.out"
    spec.write_text(f"working_dir: {JOB_CODE}\n")
    policy = net.folder / "operator" / "policy.yaml"
    command = ["submit", "job", "--spec", str(spec), "--policy", str(policy), "--", "python", "script.py", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "chrysalis", *command],
        env={**os.environ, "RAY_ADDRESS": net.ray.address},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    took["job"] = round(time.monotonic() - began, 1)
    if done.returncode != 0:
        return {"failed": done.stdout[-1000:] + done.stderr[-2000:]}
    logged = [
        name for name, enclave in net.enclaves.items() if make_bundle(JOB_CODE).digest in bundles(enclave.address)
    ]
    return {"told": json.loads(out.read_text()), "logged": sorted(logged)}


def bundles(address: str) -> list[bytes]:
    """The jobs' code that a host's fresh evidence names."""
    request = urllib.request.Request(f"http://{address}/evidence", os.urandom(32))
    with urllib.request.urlopen(request, timeout=20) as answer:
        cpu = parse_evidence(answer.read()).cpu
    assert isinstance(cpu, TdxEvidence)
    return [event.digest for event in cpu.log if event.kind is EventKind.JOB_BUNDLE]


def start_all(asking: Iterable[Asking]) -> None:
    for one in asking:
        one.start()


def answers(asking: Iterable[Asking]) -> int:
    return sum(one.answered for one in asking)


def serving(net: LocalNetwork) -> int:
    """Hosts that serve the root that leases are for."""
    now = row(net)
    return int(now["serving"].get(now["root"], 0))


def roots_of_receipts(net: LocalNetwork, names: dict[bytes, str]) -> dict[str, int]:
    books = [net.client_folder(number) / "state" / "receipts.sqlite" for number in range(CLIENTS)]
    return Counter(names[one.receipt.model_root] for book in books for one in read_receipts(book))


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="chr-m-", dir="/tmp"))
    newer = copy_with_note(folder / "model")
    net = LocalNetwork(
        NetworkPlan(
            base_port=int(sys.argv[1]),
            model=MODEL,
            model_name="demo",
            tariff=Tariff(prompt_price=10**9, completion_price=2 * 10**9),
            context=256,
            newer_models=(newer,),
            job_bundles=frozenset({make_bundle(JOB_CODE).digest}),
            clients=CLIENTS,
            model_settings=SCALING | {"retire_after_s": RETIRE_S},
        )
    )
    began = time.monotonic()
    try:
        report = story(net, manifest_root(newer))
    finally:
        left = net.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report | {"left": left, "seconds": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
