"""The receipt journal: on disk before anybody sees it, alone, whole after any cut."""

import asyncio
import errno
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave import journal as journal_module
from enclave.errors import StartError
from enclave.journal import LABEL, ReceiptJournal, StoredReceipt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "receipts"


async def test_receipts_survive_a_restart_in_order(path: Path) -> None:
    journal = ReceiptJournal.open(path)
    assert [journal.append(bytes([n]) * 300) for n in range(5)] == [1, 2, 3, 4, 5]
    await journal.close()
    again = ReceiptJournal.open(path)
    assert again.after(0, 10) == [StoredReceipt(seq=n + 1, receipt=bytes([n]) * 300) for n in range(5)]
    assert [item.seq for item in again.after(2, 2)] == [3, 4]
    assert again.append(b"six") == 6
    await again.close()


async def test_acknowledged_receipts_are_gone_for_good_and_numbers_go_on(path: Path) -> None:
    journal = ReceiptJournal.open(path)
    for n in range(4):
        journal.append(bytes([n]))
    journal.acknowledge(3)
    journal.acknowledge(2)  # again, late: nothing changes
    assert [item.seq for item in journal.after(0, 10)] == [4]
    journal.acknowledge(4)
    await journal.close()
    again = ReceiptJournal.open(path)
    assert len(again) == 0
    assert again.append(b"next") == 5
    await again.close()


async def test_acknowledging_what_does_not_exist_is_refused(path: Path) -> None:
    journal = ReceiptJournal.open(path)
    journal.append(b"x")
    for seq in (-1, 2):
        with pytest.raises(ValueError, match="does not exist"):
            journal.acknowledge(seq)
    await journal.close()


async def test_receipts_that_come_together_share_a_disk_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced = ReceiptJournal.open(path), []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    assert [journal.append(bytes(300)) for _ in range(50)] == list(range(1, 51))
    await asyncio.sleep(5 * journal_module.SYNC_S)
    assert len(synced) == 1
    await journal.close()


async def test_receipts_survive_a_process_that_is_killed(path: Path) -> None:
    code = (
        "import asyncio, os, sys; from pathlib import Path; from enclave.journal import ReceiptJournal\n"
        "async def run():\n"
        "    journal = ReceiptJournal.open(Path(sys.argv[1]))\n"
        "    [journal.append(bytes([n])) for n in range(3)]\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(run())"
    )
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path))
    assert await done.wait() == -9
    journal = ReceiptJournal.open(path)
    assert [item.receipt for item in journal.after(0, 10)] == [b"\0", b"\1", b"\2"]
    await journal.close()


async def test_a_disk_that_fails_takes_no_more_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = ReceiptJournal.open(path)
    monkeypatch.setattr(os, "fdatasync", fail)
    journal.append(b"x")
    assert journal.usable
    await asyncio.sleep(5 * journal_module.SYNC_S)
    assert not journal.usable
    await journal.close()


async def test_a_second_enclave_is_refused(path: Path) -> None:
    journal = ReceiptJournal.open(path)
    with pytest.raises(StartError, match="in use"):
        ReceiptJournal.open(path)
    await journal.close()


async def test_a_file_that_is_no_journal_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"somebody's poem")
    with pytest.raises(StartError, match="not a receipt journal"):
        ReceiptJournal.open(path)
    assert path.read_bytes() == b"somebody's poem"


async def test_only_its_user_can_read_it(path: Path) -> None:
    await ReceiptJournal.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), flip=st.integers(0, 2000), flips=st.booleans())
def test_a_journal_cut_or_altered_anywhere_keeps_its_whole_beginning(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, flips: bool
) -> None:
    path = tmp_path_factory.mktemp("journal") / "receipts"
    written = [bytes([n]) * (40 * n) for n in range(1, 7)]

    async def scenario() -> list[bytes]:
        journal = ReceiptJournal.open(path)
        for receipt in written:
            journal.append(receipt)
        await journal.close()
        data = bytearray(path.read_bytes())
        if flips:
            data[len(LABEL) + flip % (len(data) - len(LABEL))] ^= 1
        else:
            del data[cut % len(data) :]
        path.write_bytes(data)
        again = ReceiptJournal.open(path)
        kept = [item.receipt for item in again.after(0, 10)]
        seq = again.append(b"after")
        await again.close()
        last = ReceiptJournal.open(path)
        assert [item.receipt for item in last.after(0, 10)] == [*kept, b"after"]
        assert seq == len(kept) + 1
        await last.close()
        return kept

    kept = asyncio.run(scenario())
    assert kept == written[: len(kept)]
    assert len(kept) < len(written)


async def test_a_disk_that_fills_up_leaves_no_half_record_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ReceiptJournal.open(path)
    journal.append(b"before")
    room = [30, 0]

    def write(file: int, data: bytes) -> int:
        free = room.pop(0)
        if not free:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(file, data[:free])

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            journal.append(bytes(300))
    journal.append(b"after")
    await journal.close()
    again = ReceiptJournal.open(path)
    assert [item.receipt for item in again.after(0, 10)] == [b"before", b"after"]
    await again.close()


async def test_a_long_journal_is_rewritten_without_what_was_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 5000)
    journal = ReceiptJournal.open(path)
    for _ in range(20):
        journal.append(bytes(400))
    before = path.stat().st_size
    journal.acknowledge(18)
    for _ in range(3):
        journal.append(b"meanwhile")
    assert path.stat().st_size < before / 4
    with pytest.raises(StartError):
        ReceiptJournal.open(path)  # the new file is held too
    journal.append(b"last")
    await journal.close()
    again = ReceiptJournal.open(path)
    assert [item.seq for item in again.after(0, 10)] == [19, 20, 21, 22, 23, 24]
    await again.close()
