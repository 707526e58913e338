"""Hosts made of namespaces: each its own network, process numbers, mounts, host name, IPC and sshd, as a machine has.

Needs root and the programs in NEEDED. Everything here carries the run's own name, and only that is ended and removed.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("host_init.sh")
NEEDED = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
}
DISK = "3g"
IMAGE = {"authorized_keys", "profile.sh"}  # beside what the host writes
BOOT_TIMEOUT_S = 30.0
NETWORKS = range(60, 250)  # third byte of 10.213.N.0/24
SSH_OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10")


def missing() -> str:
    """Why hosts cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]
    if lacking:
        return f"needs the packages {', '.join(lacking)}"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else f"namespaces are not allowed: {probe.stderr.decode().strip()}"


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """One host: the last byte of its address, and what its owner says it is."""

    name: str
    number: int
    labels: Mapping[str, str]
    resources: str = "{}"


class Hosts:
    """A bridge and the hosts on it; this machine has the first address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tag = secrets.token_hex(3)
        self._bridge = f"chr{self._tag}"
        self._specs: dict[str, HostSpec] = {}
        self._booted: dict[str, subprocess.Popen[bytes]] = {}
        self.key = folder / "ssh_key"
        folder.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        taken = run("ip", "-br", "addr")
        self._net = next(net for n in NETWORKS if (net := f"10.213.{n}") + "." not in taken)
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.gateway}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return f"{self._net}.1"

    def address(self, name: str) -> str:
        return f"{self._net}.{self._specs[name].number}"

    def add(self, spec: HostSpec) -> None:
        """A new host, booted."""
        self._specs[spec.name] = spec
        space, link = self._space(spec.name), self._link(spec.name)
        run("ip", "netns", "add", space)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", link, "master", self._bridge, "up")
        run("ip", "-n", space, "addr", "add", f"{self.address(spec.name)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", space, "link", "set", device, "up")
        disk = self._disk(spec.name)
        disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk))
        (disk / "authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
        (disk / "profile.sh").write_text(_profile())
        self.boot(spec.name)

    def boot(self, name: str) -> None:
        """Start the host; its disk is what it was, /tmp and /run are empty."""
        spec = self._specs[name]
        run("ip", "link", "set", self._link(name), "up")
        labels = ",".join(f"{key}={value}" for key, value in spec.labels.items())
        own = [str(self._disk(name)), name, self.address(name), labels, spec.resources, *_image()]
        isolate = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._booted[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._space(name), *isolate, str(INIT), *own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while self.ssh(name, "true", check=False).returncode != 0:
            if self._booted[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not boot: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def running(self, name: str) -> bool:
        """Whether it was booted and not killed since."""
        return name in self._booted

    def wipe(self, name: str) -> None:
        """A new disk for a host without power; what its image brings comes back with its next boot."""
        for entry in self._disk(name).iterdir():
            if entry.name not in IMAGE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def kill(self, name: str) -> None:
        """Power loss: the link goes silent, and the kernel ends every process of the host with its process 1."""
        run("ip", "link", "set", self._link(name), "down")
        process = self._booted.pop(name)
        process.send_signal(signal.SIGKILL)  # unshare --kill-child takes process 1 with it
        process.wait(20)

    def ssh(
        self, name: str, command: str, *, timeout_s: float = 120, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command line on the host, as root in a login shell."""
        options = [part for option in SSH_OPTIONS for part in ("-o", option)]
        argv = ["ssh", "-i", str(self.key), *options, f"root@{self.address(name)}", f"bash -lc {_quote(command)}"]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{name}: {command[:200]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
            )
        return done

    def copy(self, name: str, source: Path, target: str) -> None:
        """Copy a folder's contents into a folder of the host."""
        options = " ".join(f"-o {option}" for option in SSH_OPTIONS)
        self.ssh(name, f"mkdir -p {target}")
        run("rsync", "-a", "-e", f"ssh -i {self.key} {options}", f"{source}/", f"root@{self.address(name)}:{target}/")

    def fetch(self, name: str, source: str, target: Path) -> None:
        """Copy a folder of the host here."""
        options = " ".join(f"-o {option}" for option in SSH_OPTIONS)
        target.mkdir(parents=True, exist_ok=True)
        run("rsync", "-a", "-e", f"ssh -i {self.key} {options}", f"root@{self.address(name)}:{source}/", f"{target}/")

    def close(self) -> None:
        """End and remove everything that was made here."""
        for name in list(self._booted):
            self.kill(name)
        for name in self._specs:
            run("ip", "link", "del", self._link(name), check=False)
            run("ip", "netns", "del", self._space(name), check=False)
            run("umount", "-l", str(self._disk(name)), check=False)
        run("ip", "link", "del", self._bridge, check=False)

    def _space(self, name: str) -> str:
        return f"chr{self._tag}-{name}"

    def _link(self, name: str) -> str:
        return f"c{self._tag}{self._specs[name].number}"  # 15 characters at most

    def _disk(self, name: str) -> Path:
        return self.folder / f"disk-{name}"


def run(*argv: str, check: bool = True) -> str:
    """Run a program of this machine and return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _image() -> Sequence[str]:
    """Folders that a host's image would bring: this code, its environment, its interpreter."""
    prefixes = (Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), ROOT)
    folders = sorted({str(path) for path in prefixes} - {"/usr", "/usr/local"})
    return [path for path in folders if not Path(path).is_symlink()]


def _profile() -> str:
    return (
        f"export PATH={sys.prefix}/bin:$PATH:/usr/sbin:/sbin\nexport PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1\n"
        "export RAY_DISABLE_IMPORT_WARNING=1 OMP_NUM_THREADS=1\n"
    )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
