"""The guest's side of the runtime log: the log and the register move together, or the guest must restart."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hmac import compare_digest
from pathlib import Path
from typing import Protocol

from attestation import cbor
from attestation.errors import AttesterError, MalformedEvidenceError, RestartNeededError
from attestation.eventlog import EVENTS_MAX, REGISTER_SIZE, LogEvent, log_fields, parse_log, replay

RTMR3_FILE = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
LOG_SIZE_MAX = 256 * 1024  # bytes; 1024 events with the longest names have 160 KiB


class Register(Protocol):
    """A run-time measurement register. Both calls raise OSError when the hardware does not answer."""

    def read(self) -> bytes:
        """Return its value, 48 bytes."""
        ...

    def extend(self, digest: bytes) -> None:
        """Replace its value by SHA-384(value | digest); `digest` has 48 bytes."""
        ...


class SysfsRegister:
    """RTMR3 as Linux 6.16 and later show it to a TDX guest.

    Source: Linux, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
    """

    def __init__(self, path: Path = RTMR3_FILE) -> None:
        self._path = path

    def read(self) -> bytes:
        """Return the register, 48 bytes."""
        with self._path.open("rb", buffering=0) as file:
            value = file.read(REGISTER_SIZE + 1)
        if len(value) != REGISTER_SIZE:
            raise OSError(f"{self._path}: {len(value)} bytes, want a register of {REGISTER_SIZE}")
        return value

    def extend(self, digest: bytes) -> None:
        """Extend the register; the kernel takes a digest in one write only."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, digest)
        finally:
            os.close(descriptor)
        if written != len(digest):
            raise OSError(f"{self._path}: took {written} of {len(digest)} bytes")


class RuntimeLog:
    """The one log of a guest. Adding an event and extending the register are one critical section.

    Any doubt whether both happened ends the log: it says so with `RestartNeededError` from then on, and no
    evidence is made. The register can not be taken back, so only restarting the guest helps.
    """

    def __init__(self, register: Register, path: Path | None = None) -> None:
        """Take up the log of this boot.

        Args:
            register: what the events are extended into.
            path: where the log is kept while the enclave's process is exchanged, on a file system that ends with
                the guest (/run); None keeps it in memory.

        Raises:
            RestartNeededError: the log there does not explain the register.
            AttesterError: the register or the file could not be read.
        """
        self._register, self._path = register, path
        self._lock = threading.Lock()
        self._broken = ""
        self._events = _load(path) if path is not None else ()
        self._compare(self._read())

    def add(self, event: LogEvent) -> None:
        """Log what is about to be loaded. An event that the log already has changes nothing.

        The file comes first: a guest whose process dies in between is found out when the log is taken up again.

        Raises:
            RestartNeededError: log and register may differ now, or did before.
            AttesterError: the log is full or its file cannot be written; nothing happened.
        """
        with self._lock:
            self._refuse_if_broken()
            if event in self._events:
                return
            if len(self._events) >= EVENTS_MAX:
                raise AttesterError(f"the runtime log is full: {EVENTS_MAX} events since the guest started")
            events = (*self._events, event)
            if self._path is not None:
                _store(self._path, events)
            self._broken = f"the extension for {event} did not end"  # holds for whatever interrupts the next lines
            try:
                self._register.extend(event.extension())
                value = self._register.read()
            except OSError as error:
                self._broken = f"the extension for {event} failed: {error}"
                raise RestartNeededError(self._broken) from error
            self._events, self._broken = events, ""
            self._compare(value)

    @contextmanager
    def held(self) -> Iterator[tuple[LogEvent, ...]]:
        """Give the events, and let none be added until the quote that proves them is made.

        Raises:
            RestartNeededError: log and register differ; no quote could be explained.
            AttesterError: the register could not be read.
        """
        with self._lock:
            self._refuse_if_broken()
            self._compare(self._read())
            yield self._events

    def _read(self) -> bytes:
        try:
            return self._register.read()
        except OSError as error:
            raise AttesterError(f"cannot read RTMR3: {error}") from error

    def _compare(self, value: bytes) -> None:
        """Whoever else extended the register is noticed here."""
        want = replay(self._events)
        if not compare_digest(value, want):
            self._broken = f"RTMR3 is {value.hex()[:16]}, its log of {len(self._events)} events gives {want.hex()[:16]}"
            raise RestartNeededError(self._broken)

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise RestartNeededError(self._broken)


def _load(path: Path) -> tuple[LogEvent, ...]:
    """Return the events in the file; none where there is no file yet."""
    try:
        with path.open("rb") as file:
            data = file.read(LOG_SIZE_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise AttesterError(f"cannot read the runtime log in {path}: {error}") from error
    try:
        return parse_log(cbor.decode(data, size_max=LOG_SIZE_MAX))
    except MalformedEvidenceError as error:
        raise RestartNeededError(f"the runtime log in {path} is not readable: {error}") from error


def _store(path: Path, events: tuple[LogEvent, ...]) -> None:
    """Replace the file in one step; a guest that dies takes the file with it, so nothing is synced."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(cbor.encode(log_fields(events)))
        fresh.replace(path)
    except OSError as error:
        raise AttesterError(f"cannot write the runtime log to {path}: {error}") from error
