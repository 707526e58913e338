"""Ray's head loses power and comes back: its tables are in files, or in a Redis."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BASE_PORT = 24400
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the paths of Ray's sockets must fit."""
    path = Path(tempfile.mkdtemp(prefix="chr-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def redis(folder: Path) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, "redis-server does not listen"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        server.terminate()


def tell(folder: Path, *redis: str) -> dict:
    argv = [sys.executable, "-m", "tests.cluster.head_process", str(BASE_PORT), str(folder), *redis]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380, check=False, env=env)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_survived(told: dict) -> None:
    """The host's actor never stopped; the head's began anew, on the node that the head is now."""
    before, after = told["before"], told["after"]
    assert after["on-host"] == [before["on-host"][0], before["on-host"][1] + 1], "the same process counted on"
    assert after["on-head"][0] != before["on-head"][0]
    assert (told["nodes"], told["old_head_gone"], told["left"]) == (3, True, 0)


def test_a_head_that_comes_back_finds_its_hosts_and_actors_in_its_files(folder: Path) -> None:
    check_survived(tell(folder))
    assert (folder / "r" / "gcs").is_dir()


def test_a_head_that_comes_back_finds_its_hosts_and_actors_in_redis(folder: Path, redis: str) -> None:
    check_survived(tell(folder, redis))
    assert not (folder / "r" / "gcs").exists()
