"""The run-time state of a simulated TDX guest: its register, its logs, and how a host lies about them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace

from attestation.eventlog import EMPTY_REGISTER, EventKind, LogEvent, extend, replay
from attestation.runtime_log import RuntimeLog
from attestation.sim.ccel import encode_ccel, firmware_events
from attestation.sim.faults import Fault

_FOREIGN = LogEvent(kind=EventKind.IMAGE_CONFIG, digest=hashlib.sha256(b"another host").digest())
_ENGINE = LogEvent(kind=EventKind.ENGINE, digest=hashlib.sha256(b"another engine").digest())
_MODEL = LogEvent(kind=EventKind.MODEL, digest=hashlib.sha256(b"another model").digest())
_BUNDLE = LogEvent(kind=EventKind.JOB_BUNDLE, digest=hashlib.sha256(b"a job's code").digest(), name="job 1")


class SimulatedRegister:
    """RTMR3 of one guest; implements `attestation.runtime_log.Register`."""

    def __init__(self) -> None:
        self._value = EMPTY_REGISTER

    def read(self) -> bytes:
        """Return the register, 48 bytes."""
        return self._value

    def extend(self, digest: bytes) -> None:
        """Extend the register."""
        self._value = extend(self._value, digest)


class SimulatedGuest:
    """One boot of a guest; it begins when the log is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log: RuntimeLog | None = None

    def log(self, image: bytes) -> RuntimeLog:
        """Return the runtime log, begun by the image with its configuration and the firmware's log.

        Args:
            image: SHA-256 standing for the image that booted.
        """
        with self._lock:
            if self._log is None:
                self._log = RuntimeLog(SimulatedRegister())
                for event in boot_events(image):
                    self._log.add(event)
            return self._log


def image_config(image: bytes) -> bytes:
    """Return the SHA-256 of the configuration that this image takes from outside, the same on every host."""
    return hashlib.sha256(b"simulated image config" + image).digest()


def firmware_log(image: bytes) -> bytes:
    """Return the firmware's event log after this image booted."""
    return encode_ccel(firmware_events(image))


def boot_events(image: bytes) -> tuple[LogEvent, ...]:
    """Return what the image's first code logs, before any enclave starts."""
    ccel = hashlib.sha384(firmware_log(image)).digest()
    return (
        LogEvent(kind=EventKind.FIRMWARE_LOG, digest=ccel),
        LogEvent(kind=EventKind.IMAGE_CONFIG, digest=image_config(image)),
    )


def sent_firmware_log(image: bytes, faults: Collection[Fault]) -> bytes:
    """Return the firmware's log as an honest or lying host sends it."""
    events = list(firmware_events(image))
    if Fault.MISSING_FIRMWARE_EVENT in faults:
        del events[-2]
    if Fault.EDITED_FIRMWARE_EVENT in faults:
        events[-2] = replace(events[-2], digest=hashlib.sha384(b"edited").digest())
    if Fault.RENAMED_FIRMWARE_EVENT in faults:
        events[-2] = replace(events[-2], data=b"an allowed root file system")
    return b"" if Fault.NO_FIRMWARE_LOG in faults else encode_ccel(events)


def sent_runtime_log(events: Sequence[LogEvent], faults: Collection[Fault]) -> tuple[bytes, tuple[LogEvent, ...]]:
    """Return RTMR3 and the log that an honest or lying host shows for it.

    Args:
        events: the guest's log, which explains its register.
        faults: those of `RUNTIME_LOG_FAULTS` count.
    """
    happened = _happened(list(events), faults)
    register = replay(happened)
    if Fault.UNLOGGED_EXTENSION in faults:
        register = extend(register, _MODEL.extension())
    sent = list(happened)
    if Fault.UNEXTENDED_ENTRY in faults:
        sent.append(_BUNDLE)
    if Fault.REORDERED_LOG in faults:
        sent.reverse()
    if Fault.SHORTENED_LOG in faults:
        sent.pop()
    if Fault.FOREIGN_LOG in faults:
        sent = [_FOREIGN, *sent[1:]]
    return register, tuple(sent)


def _happened(events: list[LogEvent], faults: Collection[Fault]) -> list[LogEvent]:
    """Return what a guest that runs other things has logged, truly."""
    if Fault.OTHER_ENGINE in faults:
        events = [_ENGINE if event.kind is EventKind.ENGINE else event for event in events]
    if Fault.SECOND_ENGINE in faults:
        events = [*events, _ENGINE]
    if Fault.UNNAMED_MODEL in faults:
        events = [*events, _MODEL]
    if Fault.UNLOGGED_MODEL in faults:
        events = [event for event in events if event.kind is not EventKind.MODEL]
    if Fault.UNALLOWED_BUNDLE in faults:
        events = [*events, _BUNDLE]
    return events
