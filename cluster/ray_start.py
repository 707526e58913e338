"""`python -m cluster.ray_start ARGUMENTS`: `ray start --block ARGUMENTS`, tried again when a busy machine was too slow.

Ray gives a node's agent a fixed time to come up (15 s in 2.60, no setting); with many nodes starting on few
cores that is sometimes not enough, and then `ray start` ends with an error although nothing is wrong, a minute after
the raylet did: such an attempt is ended at once. A node that had started is not started again: whoever watches this
program has to know, as its enclave must prove the new node.
"""

import contextlib
import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

import psutil

ATTEMPTS_MAX = 5
STARTED = b"Ray runtime started"  # what `ray start` prints when the node runs
PARTS = frozenset({"gcs_server", "raylet"})  # without them no node starts
LOOK_S = 0.5
READ_S = 2.0  # for the last lines of one that has ended
PR_SET_CHILD_SUBREAPER = 36
OUTLIVES_RAY = "CHRYSALIS_OUTLIVES_RAY"  # in the environment of a process that is none of Ray's: the relay's HAProxy


def main(arguments: Sequence[str]) -> int:
    """Run the node until it ends; returns its exit code."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whatever an attempt leaves behind becomes our child
    for attempt in range(1, ATTEMPTS_MAX + 1):
        code, started = _run([sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments])
        _kill_leftovers()
        if code <= 0 or started or attempt == ATTEMPTS_MAX:
            return code
        print(f"attempt {attempt} of {ATTEMPTS_MAX} to start the Ray node failed; trying again", flush=True)
    return code


def _run(command: list[str]) -> tuple[int, bool]:
    """Run to the end and print what it prints; its exit code, and whether it said that the node had started."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    started = threading.Event()
    reader = threading.Thread(target=_copy, args=(process.stdout, started), daemon=True)  # leftovers may hold it open
    reader.start()
    code = _wait(process, started)
    reader.join(timeout=READ_S)
    return code, started.is_set()


def _wait(process: "subprocess.Popen[bytes]", started: threading.Event) -> int:
    """Its exit code; 1 for an attempt that was ended because a part of it had died."""
    parts: dict[int, psutil.Process] = {}
    while not started.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=LOOK_S)
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children()
            parts |= {child.pid: child for child in children if child.name() in PARTS}
        if not all(map(_lives, parts.values())) and not started.is_set():
            process.kill()
            process.wait()
            return 1
    return process.wait()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _copy(output: IO[bytes], started: threading.Event) -> None:
    for line in output:
        if STARTED in line:
            started.set()
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _kill_leftovers() -> None:
    """End raylets and agents of an attempt, so that the next one finds its ports free."""
    left = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if OUTLIVES_RAY not in process.environ():
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
