"""A Ray node is ended by its folder: what is below it goes, the relay and everybody else stay."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from cluster.node_end import CLIENT_SERVER, CONTROL_STORE, FOLDER, RAYLET_PID, end_node, node_processes
from cluster.ray_start import OUTLIVES_RAY

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"


@pytest.fixture
def start() -> Iterator:
    with ExitStack() as stack:

        def begin(program: str, *arguments: str, **env: str) -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments], env={**os.environ, **env}, stdout=subprocess.PIPE
            )
            stack.callback(process.wait)
            stack.callback(process.stdout.close)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"up\n"
            return process

        yield begin


def session(folder: Path) -> str:
    return f"--session_dir={folder}/ray/session_2026-01-01_00-00-00_0_1"


def test_processes_of_the_session_and_what_they_started_end_and_others_stay(start, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    raylet = start(PARENT, session(ours))
    (worker,) = psutil.Process(raylet.pid).children()
    orphan = start(SLEEP, **{RAYLET_PID: str(raylet.pid)})
    server = start(SLEEP, CLIENT_SERVER, **{FOLDER: str(ours)})
    relay = start(SLEEP, **{RAYLET_PID: str(raylet.pid), OUTLIVES_RAY: "1"})
    strangers = [
        start(SLEEP, session(theirs)),
        start(SLEEP, CLIENT_SERVER, **{FOLDER: str(theirs)}),
        start(SLEEP, **{FOLDER: str(ours)}),  # a shell that has read the settings
        start(SLEEP, session(tmp_path / "ours-2")),
    ]
    assert {one.pid for one in node_processes(ours)} == {raylet.pid, worker.pid, orphan.pid, server.pid}
    assert end_node(ours) == 4
    assert not any(psutil.pid_exists(one.pid) for one in (raylet, orphan, server))
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert [one.poll() for one in (relay, *strangers)] == [None] * 5


def test_what_does_not_end_when_asked_is_killed(start, tmp_path: Path) -> None:
    stubborn = start(STUBBORN, session(tmp_path))
    began = time.monotonic()
    assert end_node(tmp_path, grace_s=0.2) == 1
    assert (psutil.pid_exists(stubborn.pid), time.monotonic() - began < 5) == (False, True)


def test_a_head_is_ended_at_once_as_by_a_power_cut(start, tmp_path: Path) -> None:
    """Ray forgets to start the actors of a head again whose control store was asked to end."""
    told = tmp_path / "told"
    asked = f"import pathlib, signal; signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(told)!r}).touch()); "
    processes = [start(asked + SLEEP, session(tmp_path), f"/ray/gcs{name}") for name in (CONTROL_STORE, "/raylet")]
    assert end_node(tmp_path) == 2
    assert not any(psutil.pid_exists(one.pid) for one in processes)
    assert not told.exists()


def test_where_no_node_runs_nothing_ends(tmp_path: Path) -> None:
    assert end_node(tmp_path) == 0
