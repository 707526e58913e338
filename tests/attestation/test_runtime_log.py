"""The guest's side of the runtime log: one critical section, and no evidence after any doubt."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from attestation import AttesterError, cbor
from attestation.errors import RestartNeededError
from attestation.eventlog import EVENTS_MAX, EventKind, LogEvent, log_fields, replay
from attestation.runtime_log import RuntimeLog, SysfsRegister
from attestation.sim.guest import SimulatedRegister

ENGINE = LogEvent(kind=EventKind.ENGINE, digest=b"e" * 32)
MODEL = LogEvent(kind=EventKind.MODEL, digest=b"m" * 32)


class FaultyRegister(SimulatedRegister):
    """Fails where the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = ""

    def read(self) -> bytes:
        if self.fails == "read":
            raise OSError(5, "Input/output error")
        return super().read()

    def extend(self, digest: bytes) -> None:
        if self.fails == "before":
            raise OSError(16, "Device or resource busy")
        if self.fails == "nothing happens":
            return
        super().extend(digest)
        if self.fails == "after":
            raise OSError(5, "Input/output error")
        if self.fails == "interrupted":
            raise KeyboardInterrupt


def _events(log: RuntimeLog) -> tuple[LogEvent, ...]:
    with log.held() as events:
        return events


def test_log_and_register_move_together() -> None:
    register = SimulatedRegister()
    log = RuntimeLog(register)
    log.add(ENGINE)
    log.add(MODEL)
    assert _events(log) == (ENGINE, MODEL)
    assert register.read() == replay([ENGINE, MODEL])


def test_what_is_logged_already_is_not_extended_again() -> None:
    register = SimulatedRegister()
    log = RuntimeLog(register)
    for _ in range(3):
        log.add(ENGINE)
    assert _events(log) == (ENGINE,)
    assert register.read() == replay([ENGINE])


@pytest.mark.parametrize("fails", ["before", "after", "nothing happens", "read"])
@pytest.mark.parametrize("kept", [False, True])
def test_an_extension_that_failed_ends_the_log(fails: str, kept: bool, tmp_path: Path) -> None:
    register = FaultyRegister()
    path = tmp_path / "log" if kept else None
    log = RuntimeLog(register, path)
    log.add(ENGINE)
    register.fails = fails
    with pytest.raises(RestartNeededError):
        log.add(MODEL)
    register.fails = ""
    with pytest.raises(RestartNeededError), log.held():
        pytest.fail("evidence after a doubtful extension")
    for event in (ENGINE, MODEL):
        with pytest.raises(RestartNeededError):
            log.add(event)


def test_an_extension_that_was_interrupted_ends_the_log() -> None:
    register = FaultyRegister()
    log = RuntimeLog(register)
    register.fails = "interrupted"
    with pytest.raises(KeyboardInterrupt):
        log.add(MODEL)
    register.fails = ""
    with pytest.raises(RestartNeededError, match="did not end"):
        log.add(MODEL)


def test_a_register_extended_beside_the_log_ends_it() -> None:
    register = SimulatedRegister()
    log = RuntimeLog(register)
    log.add(ENGINE)
    register.extend(MODEL.extension())
    with pytest.raises(RestartNeededError, match="log of 1 events gives"), log.held():
        pytest.fail("evidence that no log explains")
    with pytest.raises(RestartNeededError):
        log.add(MODEL)


def test_a_register_that_was_extended_before_the_log_began_is_refused() -> None:
    register = SimulatedRegister()
    register.extend(MODEL.extension())
    with pytest.raises(RestartNeededError):
        RuntimeLog(register)


def test_a_register_that_does_not_answer_is_asked_again() -> None:
    register = FaultyRegister()
    register.fails = "read"
    with pytest.raises(AttesterError) as caught:
        RuntimeLog(register)
    assert type(caught.value) is AttesterError
    register.fails = ""
    log = RuntimeLog(register)
    register.fails = "read"
    with pytest.raises(AttesterError) as caught, log.held():
        pytest.fail("evidence without a look at the register")
    assert type(caught.value) is AttesterError
    register.fails = ""
    log.add(ENGINE)
    assert _events(log) == (ENGINE,)


def test_nothing_is_added_while_a_quote_is_made() -> None:
    log = RuntimeLog(SimulatedRegister())
    adding = threading.Thread(target=log.add, args=(MODEL,))
    with log.held() as events:
        adding.start()
        adding.join(timeout=0.05)
        assert adding.is_alive()
        assert events == ()
    adding.join()
    assert _events(log) == (MODEL,)


def test_events_of_many_threads_are_logged_and_extended_in_one_order() -> None:
    register = SimulatedRegister()
    log = RuntimeLog(register)
    events = [LogEvent(kind=EventKind.MODEL, digest=bytes([number]) * 32) for number in range(40)]
    threads = [threading.Thread(target=log.add, args=(event,)) for event in events * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.digest for event in _events(log)) == [event.digest for event in events]
    assert register.read() == replay(_events(log))


def test_a_full_log_takes_no_more_and_stays_good() -> None:
    log = RuntimeLog(SimulatedRegister())
    for number in range(EVENTS_MAX):
        log._events = (*log._events, LogEvent(kind=EventKind.MODEL, digest=number.to_bytes(32, "big")))
    with pytest.raises(AttesterError, match="full") as caught:
        log.add(ENGINE)
    assert type(caught.value) is AttesterError


def test_a_new_process_takes_the_log_up(tmp_path: Path) -> None:
    register, path = SimulatedRegister(), tmp_path / "log"
    RuntimeLog(register, path).add(ENGINE)
    again = RuntimeLog(register, path)
    again.add(ENGINE)
    again.add(MODEL)
    assert _events(again) == (ENGINE, MODEL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_a_process_that_died_between_log_and_register_is_found_out(tmp_path: Path) -> None:
    register, path = FaultyRegister(), tmp_path / "log"
    log = RuntimeLog(register, path)
    log.add(ENGINE)
    register.fails = "before"
    with pytest.raises(RestartNeededError):
        log.add(MODEL)
    register.fails = ""
    with pytest.raises(RestartNeededError, match="log of 2 events"):
        RuntimeLog(register, path)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 10, id="garbage"),
        pytest.param(cbor.encode(log_fields([MODEL])), id="another-log"),
        pytest.param(cbor.encode([]), id="an-empty-log"),
        pytest.param(cbor.encode(log_fields([ENGINE])) + b"\0", id="with-a-byte-behind"),
        pytest.param(bytes(300_000), id="endless"),
    ],
)
def test_a_file_that_does_not_explain_the_register_means_a_restart(data: bytes, tmp_path: Path) -> None:
    register, path = SimulatedRegister(), tmp_path / "log"
    RuntimeLog(register, path).add(ENGINE)
    path.write_bytes(data)
    with pytest.raises(RestartNeededError):
        RuntimeLog(register, path)


def test_a_lost_file_means_a_restart(tmp_path: Path) -> None:
    register, path = SimulatedRegister(), tmp_path / "log"
    RuntimeLog(register, path).add(ENGINE)
    path.unlink()
    with pytest.raises(RestartNeededError):
        RuntimeLog(register, path)


def test_a_file_that_cannot_be_written_stops_the_event_before_it_happens(tmp_path: Path) -> None:
    register, folder = SimulatedRegister(), tmp_path / "folder"
    log = RuntimeLog(register, folder / "log")
    with pytest.raises(AttesterError, match="cannot write") as caught:
        log.add(ENGINE)
    assert type(caught.value) is AttesterError
    assert register.read() == bytes(48)
    folder.mkdir()
    log.add(ENGINE)
    assert _events(log) == (ENGINE,)


def test_the_kernels_register_is_read_whole_and_extended_in_one_write(tmp_path: Path) -> None:
    """A plain file stands for the kernel's: it keeps what was written, where the kernel would hash it in."""
    path = tmp_path / "rtmr3:sha384"
    path.write_bytes(bytes(48))
    register = SysfsRegister(path)
    assert register.read() == bytes(48)
    register.extend(ENGINE.extension())
    assert path.read_bytes() == ENGINE.extension()
    with pytest.raises(RestartNeededError):
        RuntimeLog(register)


@pytest.mark.parametrize("size", [0, 47, 49, 4096])
def test_a_register_of_another_size_is_no_register(size: int, tmp_path: Path) -> None:
    path = tmp_path / "rtmr3:sha384"
    path.write_bytes(bytes(size))
    with pytest.raises(OSError, match="want a register"):
        SysfsRegister(path).read()


def test_a_guest_without_the_kernels_register_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="cannot read RTMR3"):
        RuntimeLog(SysfsRegister(tmp_path / "rtmr3:sha384"))
