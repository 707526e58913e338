"""The Ray node of one cluster on this machine, ended: the processes below its folder, and nothing of anybody else's.

`ray stop` goes by names and ends every Ray process of the machine. Here a process counts when its command line names a
session below the cluster's folder, when such a process started it, or when a worker of that node did and has ended;
and Ray's client server, which names no session, by its environment. The relay's HAProxy is spared: it outlives Ray.

A head is ended as a power cut would end it. Asked to end, its control store notes that the actors on it are about to
start again, then ends itself, and the one that follows never starts them (Ray 2.60, seen with RocksDB tables).
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from cluster.errors import NodeEndError
from cluster.ray_start import OUTLIVES_RAY

SESSIONS = "ray/session_"  # below RAY_TMPDIR; raylet, control store, agents and monitors name it as an argument
CLIENT_SERVER = "ray.util.client.server"
CONTROL_STORE = "/gcs_server"  # how its program's path ends; it runs on a head only
FOLDER = "RAY_TMPDIR"
RAYLET_PID = "RAY_RAYLET_PID"  # in the environment of what a worker starts
GRACE_S = 10.0
KILL_S = 5.0


def end_node(folder: Path, *, grace_s: float = GRACE_S) -> int:
    """End the node: SIGTERM, and after `grace_s` SIGKILL; a head's by SIGKILL. Returns how many processes there were.

    Args:
        folder: RAY_TMPDIR of the cluster's settings, absolute.
        grace_s: seconds.

    Raises:
        NodeEndError: some of them still run.
    """
    found = node_processes(folder)
    head = any(part.endswith(CONTROL_STORE) for one in found for part in _command(one))
    _signal(found, kill=head)
    psutil.wait_procs(found, timeout=grace_s)
    left = [*dict.fromkeys((*(one for one in found if _lives(one)), *node_processes(folder)))]
    _signal(left, kill=True)
    psutil.wait_procs(left, timeout=KILL_S)
    if stuck := [one.pid for one in left if _lives(one)]:
        raise NodeEndError(tuple(stuck))
    return len({*found, *left})


def node_processes(folder: Path) -> list[psutil.Process]:
    """Every living process of the node in this folder."""
    sessions = str(folder / SESSIONS)
    everybody = [*psutil.process_iter()]
    commands = {one: _command(one) for one in everybody}
    own = [one for one, command in commands.items() if any(sessions in part for part in command)]
    own += [
        one for one, command in commands.items() if CLIENT_SERVER in command and _variable(one, FOLDER) == str(folder)
    ]
    raylets = {str(one.pid) for one in own}
    own += [one for one in everybody if _variable(one, RAYLET_PID) in raylets]
    for one in [*own]:
        with contextlib.suppress(psutil.Error):
            own += one.children(recursive=True)
    spared = {one.pid for one in own if _variable(one, OUTLIVES_RAY) is not None} | {psutil.Process().pid}
    return [one for one in dict.fromkeys(own) if one.pid not in spared and _lives(one)]


def _command(process: psutil.Process) -> Sequence[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return ()
    return command


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        value: str | None = process.environ().get(name)
    except (psutil.Error, OSError):
        return None
    return value


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(processes: Sequence[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill() if kill else process.terminate()
