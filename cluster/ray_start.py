"""`python -m cluster.ray_start ARGUMENTS`: `ray start --block ARGUMENTS`, tried again when a busy machine was too slow.

Ray gives a node's agent a fixed time to come up (15 s in 2.60, no setting); with many nodes starting on few
cores that is sometimes not enough, and then `ray start` ends with an error although nothing is wrong. A node that
had started is not started again: whoever watches this program has to know, as its enclave must prove the new node.
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
    code = process.wait()
    reader.join(timeout=READ_S)
    return code, started.is_set()


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
