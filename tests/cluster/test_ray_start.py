"""A node that was too slow to start is tried again; one that had started is not: its supervisor has to see its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_start import ATTEMPTS_MAX

ROOT = Path(__file__).parents[2]
RAY = """
import pathlib, subprocess, sys
tries = pathlib.Path(sys.argv[3])
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
{body}
"""


def _start(folder: Path, body: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run `cluster.ray_start` over a `ray start` of this body; how it ended, and how often that was started."""
    (folder / "ray" / "scripts").mkdir(parents=True)
    (folder / "ray" / "__init__.py").touch()
    (folder / "ray" / "scripts" / "__init__.py").touch()
    (folder / "ray" / "scripts" / "scripts.py").write_text(RAY.format(body=body))
    tries = folder / "tries"
    done = subprocess.run(
        [sys.executable, "-m", "cluster.ray_start", str(tries)],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, len(tries.read_text())


@pytest.mark.parametrize(
    ("body", "code", "times"),
    [
        pytest.param("sys.exit(1)", 1, ATTEMPTS_MAX, id="never starts"),
        pytest.param("sys.exit(0 if len(tries.read_text()) == 3 else 1)", 0, 3, id="third time"),
        pytest.param("print('\\x1b[1mRay runtime started.\\x1b[22m', flush=True); sys.exit(1)", 1, 1, id="had started"),
        pytest.param("import os; os.kill(os.getpid(), 15)", -15, 1, id="ended by a signal"),
    ],
)
def test_only_a_node_that_did_not_start_is_tried_again(tmp_path: Path, body: str, code: int, times: int) -> None:
    done, tries = _start(tmp_path, body)
    assert (done.returncode % 256, tries) == (code % 256, times)


def test_what_a_node_leaves_behind_is_ended_and_what_it_prints_is_passed_on(tmp_path: Path) -> None:
    body = """
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("left", left.pid, "Ray runtime started", flush=True)
sys.exit(1)
"""
    done, tries = _start(tmp_path, body)
    words = done.stdout.split()
    assert (words[0], tries) == ("left", 1)
    assert not Path("/proc", words[1]).exists()


def test_an_attempt_whose_raylet_died_is_ended_at_once(tmp_path: Path) -> None:
    body = """
import shutil, time
raylet = shutil.copy(shutil.which("sleep"), tries.parent / "raylet")
if len(tries.read_text()) == 3:
    sys.exit(0)
subprocess.Popen([raylet, "0.6"])
time.sleep(600)
"""
    done, tries = _start(tmp_path, body)
    assert (done.returncode, tries) == (0, 3)


def test_a_node_that_started_is_not_ended_when_its_raylet_dies(tmp_path: Path) -> None:
    body = """
import shutil, time
raylet = shutil.copy(shutil.which("sleep"), tries.parent / "raylet")
subprocess.Popen([raylet, "0.1"])
print("Ray runtime started", flush=True)
time.sleep(2)
print("it ends by itself")
sys.exit(1)
"""
    done, tries = _start(tmp_path, body)
    assert (done.returncode, tries, "by itself" in done.stdout) == (1, 1, True)
