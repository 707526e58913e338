"""`python -m cluster.ray_start ARGUMENTS`: `ray start --block ARGUMENTS`, tried again when a busy machine was too slow.

Ray gives a node's agent a fixed time to come up (15 s in 2.60, no setting); with many nodes starting on few
cores that is sometimes not enough, and then `ray start` ends with an error although nothing is wrong.
"""

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

ATTEMPTS_MAX = 5
STARTING_S = 120.0  # a node that ends later than this had started, and is not started again
PR_SET_CHILD_SUBREAPER = 36
OUTLIVES_RAY = "CHRYSALIS_OUTLIVES_RAY"  # in the environment of a process that is none of Ray's: the relay's HAProxy


def main(arguments: Sequence[str]) -> int:
    """Run the node until it ends; returns its exit code."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whatever an attempt leaves behind becomes our child
    for attempt in range(1, ATTEMPTS_MAX + 1):
        began = time.monotonic()
        code = _run([sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments])
        _kill_leftovers()
        if code <= 0 or attempt == ATTEMPTS_MAX or time.monotonic() - began > STARTING_S:
            return code
        print(f"attempt {attempt} of {ATTEMPTS_MAX} to start the Ray node failed; trying again", flush=True)
    return code


def _run(command: list[str]) -> int:
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


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
