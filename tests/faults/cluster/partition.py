"""Cuts a host off from all others, with packet filters in a network namespace of the suite's own. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

INSIDE = "CHRYSALIS_FAULTS_NAMESPACE"
CLASS = 0x00100001
TABLE = "chrysalis_cut"


def why_not() -> str:
    """Why this machine cannot cut a host off; empty when it can."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [name for name in ("unshare", "ip", "nft", "mount") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} are missing: apt-get install nftables iproute2"
    if "net_cls" not in Path("/proc/cgroups").read_text():
        return "the kernel has no net_cls control group"
    return ""


def enter_namespace(arguments: Sequence[str]) -> None:
    """Become the same program in a network and mount namespace of its own, unless this is one."""
    if INSIDE in os.environ:
        return
    os.environ[INSIDE] = "1"
    program = [sys.executable, "-m", "tests.faults.cluster", *arguments]
    os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *program])


class Partition:
    """One host's processes, whose packets to others and others' packets to it are dropped until `heal`.

    A connection counts as the host's own when it goes from its processes to its ports.
    """

    def __init__(self, folder: Path, processes: Iterable[psutil.Process], own: Sequence[range], every: range) -> None:
        """`own` are the ports on which the host listens, `every` all ports of the network."""
        self._folder = folder / "net_cls"
        self._folder.mkdir(exist_ok=True)
        if not os.path.ismount(self._folder):
            _run("mount", "-t", "cgroup", "-o", "net_cls", "none", str(self._folder))
        self._group = self._folder / f"chrysalis-{os.getpid()}"
        self._group.mkdir(exist_ok=True)
        (self._group / "net_cls.classid").write_text(str(CLASS))
        for process in processes:
            (self._group / "cgroup.procs").write_text(str(process.pid))
        ports = ", ".join(str(port) for one in own for port in one)
        _run("nft", f"add table inet {TABLE}")
        _run("nft", f"add chain inet {TABLE} out {{ type filter hook output priority 0; }}")
        for rule in (
            f"meta cgroup {CLASS} tcp dport {every.start}-{every.stop - 1} tcp dport != {{ {ports} }} drop",
            f"meta cgroup != {CLASS} tcp dport {{ {ports} }} drop",
        ):
            _run("nft", f"add rule inet {TABLE} out {rule}")

    def heal(self) -> None:
        """Let everything pass again."""
        _run("nft", f"delete table inet {TABLE}")
        for pid in (self._group / "cgroup.procs").read_text().split():
            (self._folder / "cgroup.procs").write_text(pid)
        self._group.rmdir()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()}")
