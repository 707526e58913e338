"""What the registry remembers over a restart: addresses to challenge again, keys it once verified, bans,
instances held in quarantine, and announced maintenance.

JSON lines, mode 0600, rewritten whole by rename. Nothing in it makes a host active: that takes fresh evidence. The keys
serve billing, which must check receipts of hosts that are gone.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from billing.durable_file import replace_file
from cluster.capability import Capability
from cluster.errors import ConfigError
from cluster.fleet import Window
from cluster.model import HostHints

HOSTS_MAX = 1024
KEYS_MAX = 4096
BANS_MAX = 4096
HOLDS_MAX = 4096
_KEY_BYTES = ("host_id", "receipt", "payee")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """The receipt key of an enclave instance whose evidence once held, and whom it earns for."""

    host_id: bytes  # 8
    receipt: bytes  # 32
    payee: bytes  # 33
    ended_at: int | None = None  # unix seconds of its refusal, after which it earns nothing; None while it is in order

    @classmethod
    def of(cls, capability: Capability) -> "HostKey":
        """The key that `capability` proves."""
        return cls(host_id=capability.host_id, receipt=capability.receipt, payee=capability.payee)


class AddressBook:
    """Addresses with their hints, and verified keys; every change is on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hints: dict[str, HostHints] = {}
        self._keys: dict[bytes, HostKey] = {}
        self._bans: dict[str, str] = {}
        self._holds: dict[bytes, str] = {}
        self._windows: dict[str, Window] = {}
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                self._read(line, number)

    def addresses(self) -> Mapping[str, HostHints]:
        """Addresses to challenge, with what their owners said."""
        return dict(self._hints)

    def key(self, host_id: bytes) -> HostKey | None:
        """The key of an instance that was admitted at some time, None for a stranger."""
        return self._keys.get(host_id)

    def remember(self, address: str, hints: HostHints, key: HostKey) -> None:
        """Note an admitted host. What was not noted for the longest time goes when there is too much."""
        before = self._hints.pop(address, None), self._keys.pop(key.host_id, None)
        self._hints[address] = hints
        self._keys[key.host_id] = key
        while len(self._hints) > HOSTS_MAX:
            del self._hints[next(iter(self._hints))]
        while len(self._keys) > KEYS_MAX:
            del self._keys[next(iter(self._keys))]
        if before != (hints, key):
            self._write()

    def end(self, host_id: bytes, *, at: int) -> None:
        """Note that an instance was refused at unix time `at`; until it is admitted again, if ever."""
        key = self._keys.get(host_id)
        if key is not None and key.ended_at is None:
            self._keys[host_id] = replace(key, ended_at=at)
            self._write()

    def forget(self, address: str) -> None:
        """Do not challenge this address again after a restart; its keys stay."""
        if self._hints.pop(address, None) is not None:
            self._write()

    def ban(self, machine: str, reason: str) -> None:
        """Note that the operator does not want a machine, see `cluster.reputation.machine_of`."""
        if len(self._bans) >= BANS_MAX:
            raise ConfigError(f"{BANS_MAX} machines are banned: release one first")
        self._bans[machine] = reason
        self._write()

    def pardon(self, machine: str) -> None:
        """Forget a ban."""
        if self._bans.pop(machine, None) is not None:
            self._write()

    def ban_of(self, machine: str) -> str | None:
        """Why a machine is banned, None when it is not."""
        return self._bans.get(machine)

    def hold(self, host_id: bytes, reason: str) -> None:
        """Note that an instance is quarantined until it is released. The oldest goes when there are too many."""
        if self._holds.get(host_id) != reason:
            self._holds[host_id] = reason
            while len(self._holds) > HOLDS_MAX:
                del self._holds[next(iter(self._holds))]
            self._write()

    def unhold(self, host_id: bytes) -> None:
        """Forget a quarantine."""
        if self._holds.pop(host_id, None) is not None:
            self._write()

    def hold_of(self, host_id: bytes) -> str | None:
        """Why an instance is quarantined until it is released, None when it is not."""
        return self._holds.get(host_id)

    def plan(self, address: str, window: Window | None) -> None:
        """Note the maintenance announced for the host at an address, or (None) that there is none."""
        if self._windows.get(address) != window:
            self._windows.pop(address, None)
            if window is not None:
                self._windows[address] = window
            self._write()

    def window(self, address: str) -> Window | None:
        """The maintenance announced for the host at an address."""
        return self._windows.get(address)

    def _write(self) -> None:
        self._windows = {address: window for address, window in self._windows.items() if address in self._hints}
        bans = [json.dumps({"banned": machine, "reason": reason}) for machine, reason in self._bans.items()]
        holds = [json.dumps({"held": host_id.hex(), "reason": reason}) for host_id, reason in self._holds.items()]
        lines = [*map(_address_line, self._hints.items()), *map(_key_line, self._keys.values()), *bans, *holds]
        lines += map(_window_line, self._windows.items())
        replace_file(self._path, "".join(line + "\n" for line in lines).encode())

    def _read(self, line: str, number: int) -> None:
        try:
            item = json.loads(line)
            if "address" in item:
                self._hints[item["address"]] = _hints(item)
            elif "window" in item:
                self._windows[item["window"]] = _window(item)
            elif "banned" in item:
                self._bans[bytes.fromhex(item["banned"]).hex()] = str(item["reason"])
            elif "held" in item:
                self._holds[bytes.fromhex(item["held"])] = str(item["reason"])
            else:
                key = _key(item)
                self._keys[key.host_id] = key
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._path} line {number} is damaged ({error}): remove the line; the host has to join again"
            ) from error


def _address_line(item: tuple[str, HostHints]) -> str:
    address, hints = item
    return json.dumps(
        {"address": address, "name": hints.name, "coefficient": hints.coefficient, "labels": dict(hints.labels)}
    )


def _key_line(key: HostKey) -> str:
    return json.dumps({name: getattr(key, name).hex() for name in _KEY_BYTES} | {"ended_at": key.ended_at})


def _window_line(item: tuple[str, Window]) -> str:
    address, window = item
    end = window.end.isoformat() if window.end else None
    values = {"start": window.start.isoformat(), "end": end, "reason": window.reason, "forced": window.forced}
    return json.dumps({"window": address} | values)


def _window(item: Mapping[str, Any]) -> Window:
    end = datetime.fromisoformat(item["end"]) if item["end"] is not None else None
    if type(item["reason"]) is not str or type(item["forced"]) is not bool:
        raise ValueError("a window has a reason and is forced or not")
    return Window(start=datetime.fromisoformat(item["start"]), end=end, reason=item["reason"], forced=item["forced"])


def _key(item: Mapping[str, Any]) -> HostKey:
    ended_at = item["ended_at"]
    if ended_at is not None and type(ended_at) is not int:
        raise ValueError("ended_at is no time")
    return HostKey(**{name: bytes.fromhex(item[name]) for name in _KEY_BYTES}, ended_at=ended_at)


def _hints(item: Mapping[str, Any]) -> HostHints:
    labels: Iterable[tuple[str, str]] = item["labels"].items()
    return HostHints(name=item["name"], coefficient=item["coefficient"], labels=tuple(sorted(labels)))
