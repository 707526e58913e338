"""Programs started on this machine: found again by a mark in their environment, ended with all they left behind."""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ClusterError

MARK = "CHRYSALIS_RUN"
GROUP = "CHRYSALIS_GROUP"
PR_SET_PDEATHSIG = 1
POLL_S = 0.05
TAIL_BYTES = 2000


class ProgramError(ClusterError):
    """A program that we started ended too early or did not say in time that it is ready."""


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # looked up before the fork: afterwards only async-signal-safe work is allowed

    def set_signal() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return set_signal


class Program:
    """One started program and the file that holds what it printed."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path, group: str) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.group = group

    @property
    def pid(self) -> int:
        """Process id of the program itself."""
        return self.process.pid

    def running(self) -> bool:
        """False once it has ended."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The end of what it printed, for an error message."""
        data = self.log.read_bytes()[-TAIL_BYTES:] if self.log.exists() else b""
        return data.decode("utf-8", "replace").strip()

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return once `ready` holds; ProgramError with the end of its log when it ends first or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running():
                raise ProgramError(f"{self.name} ended with code {self.process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.name} was not ready after {timeout_s:.0f} s: {self.tail()}")
            time.sleep(POLL_S)


class Supervisor:
    """Starts programs under one run mark and ends exactly those, with every descendant, wherever it was re-parented to.

    A small second process watches this one: should it be killed outright, the watcher ends the marked programs instead.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._run = secrets.token_hex(8)
        self._programs: list[Program] = []
        log_dir.mkdir(parents=True, exist_ok=True)
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "cluster.processes", self._run], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def mark(self) -> str:
        """What its processes carry in their environment, under MARK."""
        return self._run

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, group: str | None = None
    ) -> Program:
        """Start `argv`; its output goes to LOG_DIR/NAME.log. Programs of one `group` can be killed together."""
        log = self._log_dir / f"{name}.log"
        group = group or name
        # SPT_NOENV: process titles (Ray's and vLLM's) must not overwrite the environment that holds the mark
        marked = {**os.environ, "SPT_NOENV": "1", **(env or {}), MARK: self._run, GROUP: group}
        with log.open("ab") as out:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=marked,
                start_new_session=True,  # Ctrl-C in the terminal reaches us, and we end the rest in order
                preexec_fn=_die_with_parent(),  # noqa: PLW1509  nothing but one prctl runs between fork and exec
            )
        program = Program(name, process, log, group)
        self._programs.append(program)
        return program

    def start_reporting(
        self,
        name: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> tuple[Program, dict[str, Any]]:
        """Start a program that prints one JSON line when it is ready; returns that line parsed."""
        log = self._log_dir / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0  # what an earlier life of it said
        program = self.start(name, argv, env=env, group=group)
        found: list[dict[str, Any]] = []

        def ready() -> bool:
            for line in program.log.read_bytes()[before:].splitlines(keepends=True):
                if line.startswith(b"{") and line.endswith(b"\n"):
                    found.append(json.loads(line))
                    return True
            return False

        program.wait_until(ready, timeout_s=timeout_s)
        return program, found[0]

    def processes(self, group: str | None = None) -> list[psutil.Process]:
        """Every living process of this run (or of one group), found by the mark it inherited."""
        return marked_processes(self._run, group)

    def kill(self, group: str, *, but: str = "") -> int:
        """Power loss for one group: SIGKILL to each of its processes. Returns how many there were.

        Those with the variable `but` in their environment are spared.
        """
        victims = [process for process in self.processes(group) if not (but and _has(process, but))]
        _signal_all(victims, signal.SIGKILL)
        psutil.wait_procs(victims, timeout=5)
        return len(victims)

    def end(self, program: Program, *, grace_s: float) -> None:
        """End one program: SIGTERM, and after `grace_s` SIGKILL to it and all of its group."""
        if program.running():
            program.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(timeout=grace_s)
        self.kill(program.group)
        program.process.wait(timeout=5)
        self._programs.remove(program)

    def stop(self, *, grace_s: float = 5.0) -> list[psutil.Process]:
        """End everything: SIGTERM newest first, then SIGKILL. Returns what would not end (empty is well)."""
        for program in reversed(self._programs):
            if program.running():
                with contextlib.suppress(ProcessLookupError):
                    program.process.terminate()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(program.running() for program in self._programs):
            time.sleep(POLL_S)
        kill_marked(self._run)
        for program in self._programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(timeout=1)
        if self._watcher.stdin:
            self._watcher.stdin.close()
        self._watcher.wait(timeout=10)
        return self.processes()


def _has(process: psutil.Process, name: str) -> bool:
    try:
        return name in process.environ()
    except psutil.Error:
        return False


def marked_processes(run: str, group: str | None = None) -> list[psutil.Process]:
    """Living processes that inherited the mark of `run` (and of `group`, when given)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            env = process.environ()
            if env.get(MARK) == run and group in (None, env.get(GROUP)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_marked(run: str) -> None:
    """End every process with the mark of `run`."""
    for _ in range(3):  # a process may have forked while we looked
        left = marked_processes(run)
        if not left:
            return
        _signal_all(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)


def _signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _watch(run: str) -> None:
    """Wait until the supervisor closes our standard input, by intention or by dying, then end what has its mark."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill_marked(run)


if __name__ == "__main__":
    _watch(sys.argv[1])
