"""Receipts that nobody has acknowledged yet: kept from before the client sees them until the ledger has them.

    file   = label | header | record ...
    record = u32 size | u8 type | u64 sequence | sealed content        header and seal: attestation/sealed_state.py

Type 1 holds a signed receipt; type 2 says that all receipts up to its sequence were acknowledged. Receipts are no
secrets before the ledger, but who asked how much is nothing for whoever finds the disk: only the same image with the
same configuration on the same chip reads them again. Records are only appended, and each is tied to the one before it;
a tail that was being written when the machine stopped fails its seal and is cut off at the next start.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from struct import Struct

from attestation.errors import ForeignSealError, MalformedSealedStateError, SealedStateAlteredError
from attestation.sealed_state import HEADER, OVERHEAD, TAG, Random, RecordSealer
from enclave.errors import StartError

logger = logging.getLogger(__name__)

LABEL = b"chrysalis/1 sealed receipts\n"
SEALING_CONTEXT = b"receipts"  # names the journal's key among those of the same image
RECEIPT_MAX = 4096
COMPACT_BYTES = 16 << 20  # rewrite the file without acknowledged receipts when it has grown to this
WAITING_MAX = 1 << 20  # receipts kept; beyond, the host stops taking work rather than lose a proof
SYNC_S = 0.02
_HEAD = Struct(">IBQ")
_RECEIPT, _ACK = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReceipt:
    """A signed receipt and its place in the journal."""

    seq: int
    receipt: bytes


@dataclass(slots=True)
class _Contents:
    """What a journal file holds."""

    receipts: dict[int, bytes]  # not acknowledged, in order
    acked: int = 0
    last: int = 0
    end: int = 0  # bytes that hold valid records
    tail: bytes = b""  # tag of the last of them, or the start of the file: what the next record follows

    def take(self, kind: int, seq: int, receipt: bytes) -> None:
        self.last = max(self.last, seq)
        if kind == _RECEIPT:
            self.receipts[seq] = receipt
        elif seq > self.acked:
            self.acked = seq
            self.receipts = {number: kept for number, kept in self.receipts.items() if number > seq}


class ReceiptJournal:
    """Append and acknowledge receipts; belongs to one event loop.

    A receipt is with the kernel when `append` returns, so it survives the end of this process; it is on the disk, and
    survives the end of the machine, at most `SYNC_S` and one disk write later. Waiting for the disk before every answer
    would cost each of them milliseconds, for a host that loses at most its own last moments' earnings.
    """

    def __init__(self, path: Path, file: int, sealer: RecordSealer, contents: _Contents, key: bytes) -> None:
        self._path, self._file, self._sealer, self._contents = path, file, sealer, contents
        self._key = key
        self._syncing: asyncio.Task[None] | None = None
        self._broken = False

    @classmethod
    def open(cls, path: Path, key: bytes, *, random: Random = os.urandom) -> "ReceiptJournal":
        """Open or create the journal, alone.

        Args:
            path: the file.
            key: from a `SealingKeySource` for `SEALING_CONTEXT`, 32 bytes.
            random: n -> n unpredictable bytes.

        Raises:
            StartError: another process has it, it is not a journal, or another image or configuration wrote it.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _open_alone(path)
        try:
            found = _read(path, key, random)
        except StartError:
            os.close(file)
            raise
        if found is None:
            sealer = RecordSealer.create(key, generation=0, random=random)
            os.ftruncate(file, 0)
            found = sealer, _Contents({}, end=os.write(file, LABEL + sealer.header), tail=sealer.start)
        sealer, contents = found
        os.ftruncate(file, contents.end)
        os.fsync(file)
        return cls(path, file, sealer, contents, key)

    def __len__(self) -> int:
        return len(self._contents.receipts)

    @property
    def usable(self) -> bool:
        """Whether it takes receipts: not as many wait as it keeps, and the disk has not failed. Else take no work."""
        return not self._broken and len(self) < WAITING_MAX

    def append(self, *receipts: bytes) -> int:
        """Store receipts with one write; returns the last sequence number. On `OSError` none of them is stored."""
        if max(map(len, receipts)) > RECEIPT_MAX:
            raise ValueError(f"a receipt has at most {RECEIPT_MAX} bytes")
        self._write([(_RECEIPT, seq, receipt) for seq, receipt in enumerate(receipts, self._contents.last + 1)])
        return self._contents.last

    def after(self, seq: int, limit: int) -> list[StoredReceipt]:
        """The first `limit` receipts that are not acknowledged and come after `seq`."""
        later = (item for item in self._contents.receipts.items() if item[0] > seq)
        return [StoredReceipt(seq=number, receipt=receipt) for number, receipt in islice(later, limit)]

    def acknowledge(self, seq: int) -> None:
        """The ledger has all receipts up to `seq`: they need not be kept."""
        if not 0 <= seq <= self._contents.last:
            raise ValueError(f"receipt {seq} does not exist, the last one is {self._contents.last}")
        if seq > self._contents.acked:
            self._write([(_ACK, seq, b"")])
            if self._contents.end > COMPACT_BYTES:
                self._compact()

    async def close(self) -> None:
        """Put everything on the disk and let others open the journal."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        os.fsync(self._file)
        os.close(self._file)

    def _write(self, records: Sequence[tuple[int, int, bytes]]) -> None:
        data, tail = _seal(self._sealer, self._contents.tail, records)
        try:
            _write_all(self._file, data)
        except OSError:
            os.ftruncate(self._file, self._contents.end)  # what follows must stand behind whole records
            raise
        self._contents.end += len(data)
        self._contents.tail = tail
        for record in records:
            self._contents.take(*record)
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync())

    async def _sync(self) -> None:
        """Put what was written meanwhile on the disk, in a thread."""
        await asyncio.sleep(SYNC_S)
        file, self._syncing = os.dup(self._file), None
        try:
            await asyncio.to_thread(os.fdatasync, file)
        except OSError as error:  # what is on the disk is unknown from here on
            self._broken = True
            logger.error("the receipt journal cannot be written: %s", error)  # noqa: TRY400
        finally:
            os.close(file)

    def _compact(self) -> None:
        """Put a file that holds only what is still needed in the place of this one."""
        contents, path = self._contents, self._path.with_suffix(".new")
        path.unlink(missing_ok=True)
        file = _open_alone(path)
        sealer = RecordSealer.create(self._key, generation=self._sealer.generation + 1, random=os.urandom)
        kept = [(_RECEIPT, seq, receipt) for seq, receipt in contents.receipts.items()]
        records, tail = _seal(sealer, sealer.start, [(_ACK, contents.acked, b""), *kept])
        data = LABEL + sealer.header + records
        _write_all(file, data)
        os.fsync(file)
        path.replace(self._path)
        _sync_folder(self._path.parent)
        os.close(self._file)
        self._file, self._sealer, contents.end, contents.tail = file, sealer, len(data), tail


def _seal(sealer: RecordSealer, tail: bytes, records: Iterable[tuple[int, int, bytes]]) -> tuple[bytes, bytes]:
    """The records as they stand behind `tail`, and the new tail."""
    parts: list[bytes] = []
    for kind, seq, content in records:
        head = _HEAD.pack(len(content), kind, seq)
        sealed = sealer.seal(tail, head, content)
        parts += head, sealed
        tail = sealed[-TAG:]
    return b"".join(parts), tail


def _read(path: Path, key: bytes, random: Random) -> tuple[RecordSealer, _Contents] | None:
    """Everything up to the first record that is not whole; None for a file that was not made whole."""
    data, begin = path.read_bytes(), len(LABEL) + HEADER
    if not data.startswith(LABEL):
        if LABEL.startswith(data):  # empty, or stopped while it was made
            return None
        raise StartError(f"{path} is not a receipt journal: move it away or give another `state` folder")
    if len(data) < begin:
        return None
    try:
        sealer = RecordSealer.read(key, data[len(LABEL) : begin], random=random)
    except (ForeignSealError, MalformedSealedStateError) as error:
        raise StartError(
            f"{path}: {error}; start the one that wrote it until its receipts are delivered, or move the file away"
        ) from None
    contents = _Contents({}, end=begin, tail=sealer.start)
    while contents.end + _HEAD.size + OVERHEAD <= len(data):
        head = data[contents.end : contents.end + _HEAD.size]
        size, kind, seq = _HEAD.unpack(head)
        sealed = data[contents.end + _HEAD.size : contents.end + _HEAD.size + size + OVERHEAD]
        if size > RECEIPT_MAX or len(sealed) != size + OVERHEAD:
            break
        try:
            content = sealer.open(contents.tail, head, sealed)
        except SealedStateAlteredError:
            break
        contents.take(kind, seq, content)
        contents.end += len(head) + len(sealed)
        contents.tail = sealed[-TAG:]
    return sealer, contents


def _open_alone(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise StartError(f"{path} is in use by another enclave: give each its own `state` folder") from None
    return file


def _write_all(file: int, data: bytes) -> None:
    while data:  # a nearly full disk takes a part, and then says why it takes no more
        data = data[os.write(file, data) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
