"""A roll-out, a drain and a roll-back on a local network of three hosts, while clients ask all the time.

    python -m tests.serve.rollout_scenario BASE_PORT     prints one JSON object: what happened

In a process of its own: Ray reads its environment once per process.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attestation.verdict import TeeKind
from billing.tariff import Tariff
from chrysalis.local.hosts import HostSpec
from chrysalis.local.network import LocalNetwork, NetworkPlan
from client.receipts import read_receipts
from cluster.fleet import Window
from enclave.manifest import manifest_root
from tests.cluster.network_process import MODEL

HOSTS = tuple(HostSpec(name=name, title=name, tee=TeeKind.TDX, gpus=1) for name in ("a", "b", "c"))
CLIENTS = 2
RETIRE_S = 12
WAIT_S = 90.0


class Asking(threading.Thread):
    """One client program that asks again as soon as it has its answer."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._over = url, threading.Event()
        self.answered, self.lost = 0, list[str]()

    def run(self) -> None:
        body = {"model": "demo", "messages": [{"role": "user", "content": "the cat sleeps"}], "max_tokens": 8}
        while not self._over.is_set():
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{self._url}/chat/completions", json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    json.load(answer)
                self.answered += 1
            except urllib.error.HTTPError as error:
                with error:
                    self.lost.append(error.read().decode()[:500])
            time.sleep(0.02)

    def stop(self) -> None:
        self._over.set()
        self.join(60)


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
    net.place_model(hosts=len(HOSTS))
    old = net.model_root
    asking = [Asking(net.start_client()) for _ in range(CLIENTS)]
    for one in asking:
        one.start()
    try:
        took = {"first answers": wait_for("answers", lambda: all(one.answered > 3 for one in asking), net)}
        net.ask("models", "rollout", "demo", new, 2)
        took["switched"] = wait_for("switch", lambda: row(net)["root"] == new.hex(), net)
        kept = sum(old in models for models in loaded(net).values())
        window = Window(start=datetime.now(UTC), end=None, reason="disk")
        took["draining"] = wait_for("new root everywhere", lambda: row(net)["serving"][new.hex()] == 3, net)
        net.ask("registry", "plan", net.enclaves["a"].host_id, window)
        done = {"a": frozenset[bytes](), "b": frozenset({new}), "c": frozenset({new})}
        took["retired and drained"] = wait_for("retirement", lambda: loaded(net) == done, net)
        during = sum(one.answered for one in asking)
        wait_for("answers by the new root", lambda: sum(one.answered for one in asking) > during + 10, net)
        net.ask("models", "roll_back", "demo")
        took["rolled back"] = wait_for("roll-back", lambda: row(net)["root"] == old.hex(), net)
    finally:
        for one in asking:
            one.stop()
    return {
        "refused": refused,
        "took": took,
        "old_kept": kept,
        "answered": sum(one.answered for one in asking),
        "lost": [words for one in asking for words in one.lost],
        "roots": roots_of_receipts(net, {old: "old", new: "new"}),
        "apps": apps(),
    }


def roots_of_receipts(net: LocalNetwork, names: dict[bytes, str]) -> dict[str, int]:
    kept = read_receipts(net.folder / "client" / "state" / "receipts.sqlite")
    return Counter(names[one.receipt.model_root] for one in kept)


def apps() -> int:
    from serve_apps.serve_calls import list_apps  # noqa: PLC0415  imports ray

    return sum(name.startswith("model-") for name in list_apps())


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
            model_settings={"min": 3, "max": 3, "retire_after_s": RETIRE_S},
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
