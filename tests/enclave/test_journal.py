"""The receipt journal: on disk before anybody sees it, alone, whole after any cut."""

import asyncio
import errno
import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.sealed_state import HEADER
from enclave import journal as journal_module
from enclave.errors import StartError
from enclave.journal import LABEL, ReceiptJournal, StoredReceipt

KEY = b"k" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "receipts"


async def test_receipts_survive_a_restart_in_order(path: Path) -> None:
    journal = ReceiptJournal.open(path, KEY)
    assert [journal.append(bytes([n]) * 300) for n in range(5)] == [1, 2, 3, 4, 5]
    await journal.close()
    again = ReceiptJournal.open(path, KEY)
    assert again.after(0, 10) == [StoredReceipt(seq=n + 1, receipt=bytes([n]) * 300) for n in range(5)]
    assert [item.seq for item in again.after(2, 2)] == [3, 4]
    assert again.append(b"six") == 6
    await again.close()


async def test_acknowledged_receipts_are_gone_for_good_and_numbers_go_on(path: Path) -> None:
    journal = ReceiptJournal.open(path, KEY)
    for n in range(4):
        journal.append(bytes([n]))
    journal.acknowledge(3)
    journal.acknowledge(2)  # again, late: nothing changes
    assert [item.seq for item in journal.after(0, 10)] == [4]
    journal.acknowledge(4)
    await journal.close()
    again = ReceiptJournal.open(path, KEY)
    assert len(again) == 0
    assert again.append(b"next") == 5
    await again.close()


async def test_acknowledging_what_does_not_exist_is_refused(path: Path) -> None:
    journal = ReceiptJournal.open(path, KEY)
    journal.append(b"x")
    for seq in (-1, 2):
        with pytest.raises(ValueError, match="does not exist"):
            journal.acknowledge(seq)
    await journal.close()


async def test_receipts_that_come_together_share_a_disk_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced = ReceiptJournal.open(path, KEY), []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    assert [journal.append(bytes(300)) for _ in range(50)] == list(range(1, 51))
    await asyncio.sleep(5 * journal_module.SYNC_S)
    assert len(synced) == 1
    await journal.close()


async def test_receipts_survive_a_process_that_is_killed(path: Path) -> None:
    code = (
        "import asyncio, os, sys; from pathlib import Path; from enclave.journal import ReceiptJournal\n"
        "async def run():\n"
        "    journal = ReceiptJournal.open(Path(sys.argv[1]), b'k' * 32)\n"
        "    [journal.append(bytes([n])) for n in range(3)]\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(run())"
    )
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path))
    assert await done.wait() == -9
    journal = ReceiptJournal.open(path, KEY)
    assert [item.receipt for item in journal.after(0, 10)] == [b"\0", b"\1", b"\2"]
    await journal.close()


async def test_a_disk_that_fails_takes_no_more_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = ReceiptJournal.open(path, KEY)
    monkeypatch.setattr(os, "fdatasync", fail)
    journal.append(b"x")
    assert journal.usable
    await asyncio.sleep(5 * journal_module.SYNC_S)
    assert not journal.usable
    await journal.close()


async def test_a_second_enclave_is_refused(path: Path) -> None:
    journal = ReceiptJournal.open(path, KEY)
    with pytest.raises(StartError, match="in use"):
        ReceiptJournal.open(path, KEY)
    await journal.close()


async def test_a_file_that_is_no_journal_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"somebody's poem")
    with pytest.raises(StartError, match="not a receipt journal"):
        ReceiptJournal.open(path, KEY)
    assert path.read_bytes() == b"somebody's poem"


async def test_only_its_user_can_read_it(path: Path) -> None:
    await ReceiptJournal.open(path, KEY).close()
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
        journal = ReceiptJournal.open(path, KEY)
        for receipt in written:
            journal.append(receipt)
        await journal.close()
        data = bytearray(path.read_bytes())
        if flips:
            begin = len(LABEL) + HEADER
            data[begin + flip % (len(data) - begin)] ^= 1
        else:
            del data[cut % len(data) :]
        path.write_bytes(data)
        again = ReceiptJournal.open(path, KEY)
        kept = [item.receipt for item in again.after(0, 10)]
        seq = again.append(b"after")
        await again.close()
        last = ReceiptJournal.open(path, KEY)
        assert [item.receipt for item in last.after(0, 10)] == [*kept, b"after"]
        assert seq == len(kept) + 1
        await last.close()
        return kept

    kept = asyncio.run(scenario())
    assert kept == written[: len(kept)]
    assert len(kept) < len(written)


async def test_a_disk_that_fills_up_leaves_no_half_record_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ReceiptJournal.open(path, KEY)
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
    again = ReceiptJournal.open(path, KEY)
    assert [item.receipt for item in again.after(0, 10)] == [b"before", b"after"]
    await again.close()


async def test_a_long_journal_is_rewritten_without_what_was_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 5000)
    journal = ReceiptJournal.open(path, KEY)
    for _ in range(20):
        journal.append(bytes(400))
    before = path.stat().st_size
    journal.acknowledge(18)
    for _ in range(3):
        journal.append(b"meanwhile")
    assert path.stat().st_size < before / 4
    with pytest.raises(StartError):
        ReceiptJournal.open(path, KEY)  # the new file is held too
    journal.append(b"last")
    await journal.close()
    again = ReceiptJournal.open(path, KEY)
    assert [item.seq for item in again.after(0, 10)] == [19, 20, 21, 22, 23, 24]
    await again.close()


async def test_the_disk_shows_nothing_of_a_receipt(path: Path) -> None:
    journal = ReceiptJournal.open(path, KEY)
    journal.append(b"account and usage " * 10)
    await journal.close()
    assert b"account" not in path.read_bytes()


@pytest.mark.parametrize("image", [b"another image", b"the same image, another configuration"])
async def test_another_image_cannot_read_it_and_leaves_it_alone(path: Path, image: bytes) -> None:
    journal = ReceiptJournal.open(path, KEY)
    journal.append(b"receipt")
    await journal.close()
    before = path.read_bytes()
    for _ in range(2):  # the file is free again after the first refusal
        with pytest.raises(StartError, match="another image, configuration or chip"):
            ReceiptJournal.open(path, sha256(image).digest())
    assert path.read_bytes() == before
    again = ReceiptJournal.open(path, KEY)
    assert [item.receipt for item in again.after(0, 10)] == [b"receipt"]
    await again.close()


@pytest.mark.parametrize("at", [0, 8, 9, 40, 41, HEADER - 1])
async def test_an_altered_header_is_refused_and_left_alone(path: Path, at: int) -> None:
    await ReceiptJournal.open(path, KEY).close()
    data = bytearray(path.read_bytes())
    data[len(LABEL) + at] ^= 1
    path.write_bytes(data)
    with pytest.raises(StartError):
        ReceiptJournal.open(path, KEY)
    assert path.read_bytes() == data


def records(path: Path, count: int) -> tuple[bytes, list[bytes]]:
    """The beginning of a journal file, and its records, all of one size."""
    data, begin = path.read_bytes(), len(LABEL) + HEADER
    size = (len(data) - begin) // count
    return data[:begin], [data[at : at + size] for at in range(begin, len(data), size)]


async def kept(path: Path) -> list[bytes]:
    journal = ReceiptJournal.open(path, KEY)
    found = [item.receipt for item in journal.after(0, 10)]
    await journal.close()
    return found


@pytest.mark.parametrize(
    ("order", "left"),
    [
        pytest.param([0, 2, 1], 1, id="reordered"),
        pytest.param([1, 2], 0, id="first-left-out"),
        pytest.param([0, 2], 1, id="middle-left-out"),
        pytest.param([0, 0, 1], 1, id="doubled"),
    ],
)
async def test_records_moved_or_left_out_are_refused(path: Path, order: list[int], left: int) -> None:
    journal, written = ReceiptJournal.open(path, KEY), [bytes([n]) * 300 for n in range(3)]
    for receipt in written:
        journal.append(receipt)
    await journal.close()
    begin, parts = records(path, 3)
    path.write_bytes(begin + b"".join(parts[number] for number in order))
    assert await kept(path) == written[:left]


async def test_records_of_another_future_of_the_same_file_are_refused(path: Path) -> None:
    """The owner puts an old copy back, lets the enclave write on, and mixes what came of both."""
    journal = ReceiptJournal.open(path, KEY)
    journal.append(b"0" * 300)
    await journal.close()
    old = path.read_bytes()
    futures = []
    for name in (b"a", b"b"):
        path.write_bytes(old)
        journal = ReceiptJournal.open(path, KEY)
        for _ in range(2):
            journal.append(name * 300)
        await journal.close()
        futures.append(records(path, 3))
    begin, first = futures[0]
    second = futures[1][1]
    path.write_bytes(begin + first[0] + first[1] + second[2])
    assert await kept(path) == [b"0" * 300, b"a" * 300]
    nonces = {part[13:25] for _, parts in futures for part in parts[1:]}
    assert len(nonces) == 4  # one key never saw a nonce twice


async def test_a_record_that_was_not_written_whole_uses_no_nonce_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, offered = ReceiptJournal.open(path, KEY), []

    def write(_: int, data: bytes) -> int:
        offered.append(data[13:25])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    for content in (b"one", b"two"):
        with pytest.raises(OSError, match="No space"):
            journal.append(content)
    monkeypatch.undo()
    await journal.close()
    assert len(set(offered)) == 2


async def test_a_rewritten_journal_is_under_another_key_and_can_be_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ReceiptJournal.open(path, KEY)
    for n in range(3):
        journal.append(bytes([n]) * 300)
    before = path.read_bytes()[len(LABEL) : len(LABEL) + HEADER]
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1)
    journal.acknowledge(1)
    after = path.read_bytes()[len(LABEL) : len(LABEL) + HEADER]
    journal.append(b"more")
    await journal.close()
    assert before[9:] != after[9:]
    assert await kept(path) == [b"\1" * 300, b"\2" * 300, b"more"]
