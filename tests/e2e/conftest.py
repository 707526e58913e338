"""One demo for all end-to-end tests: the real command, left running with --keep."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.processes import MARK

BASE_PORT = 26500
UP_TIMEOUT_S = 420  # about 70 s on two idle cores
DOWN_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class KeptDemo:
    """A demo that told its story and stays up."""

    process: subprocess.Popen[bytes]
    screen: Path
    folder: Path
    sidecar: str  # base URL with /v1
    gateway: str
    relay: str
    run: str  # the mark of its processes

    def text(self) -> str:
        return self.screen.read_text()


def demo_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "chrysalis", "demo", *options]


def start_demo(screen: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}
    with screen.open("wb") as out:
        return subprocess.Popen(
            demo_command(*options), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )


def marked(run: str) -> list[psutil.Process]:
    """Processes of one run that still live."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def run_of(process: subprocess.Popen[bytes]) -> str:
    """The mark that a demo's children carry."""
    for child in psutil.Process(process.pid).children():
        if mark := child.environ().get(MARK):
            return mark
    raise AssertionError("the demo has no marked child")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    folder = Path("/tmp") / f"chr-e2e-{os.getpid() % 100000}"
    screen = tmp_path_factory.mktemp("demo") / "screen.txt"
    process = start_demo(screen, "--keep", "--base-port", str(BASE_PORT), "--work-dir", str(folder))
    try:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while "stays up until Ctrl-C" not in screen.read_text():
            assert process.poll() is None, screen.read_text()
            assert time.monotonic() < deadline, screen.read_text()
            time.sleep(0.2)
        time.sleep(0.5)  # the rest of that paragraph
        text = screen.read_text()
        relay = re.search(r"relay (http://\S+):", text)
        sidecar = re.search(r"curl (http://\S+)/chat/completions", text)
        gateway = re.search(r"the fleet +(http://\S+)/v1/hosts", text)
        assert relay
        assert sidecar
        assert gateway
        yield KeptDemo(
            process=process,
            screen=screen,
            folder=folder,
            sidecar=sidecar[1],
            gateway=gateway[1],
            relay=relay[1],
            run=run_of(process),
        )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(DOWN_TIMEOUT_S)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
