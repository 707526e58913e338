"""The books as of one record of their journal, in a file, so that a start has to read only what came after.

A cache and nothing more: what the journal says counts. A checkpoint is used only if the journal has that very record at
that place, the file is whole, and it was written by this very code; otherwise the journal is read from its beginning.

Layout: tag | SHA-256 of all that follows | digest of the code, 32 | u64 sequence | checksum of that record, 32 | state
"""

from __future__ import annotations

import io
import logging
import pickle
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from billing.batch import Batch
from billing.ledger import Ledger

TAG = b"chrysalis books checkpoint 1\n"
RECORDS_MIN = 20_000  # a start reads this many in under a second
SHARE = 10  # a new one is due when the books have grown by a tenth, so that writing them stays cheap for each record
# What the state may be made of: everything else in a file is refused unread.
_PARTS = {
    "billing.batch": {"Anchor", "Batch", "BatchState", "Payout", "PayoutState", "SignedMessage"},
    "billing.channel_book": {"AgreedClose", "ChannelAccount", "ChannelBook"},
    "billing.entries": {"Entry", "EntryKind", "Posting"},
    "billing.grant": {"Grant", "HostSlice"},
    "billing.hold_book": {"HoldBook", "Lease"},
    "billing.ledger": {"Ledger"},
    "billing.payment": {"Payment"},
    "billing.payout_book": {"PayoutBook", "_OpenPayout"},
    "billing.receipt": {"Receipt"},
    "billing.review_book": {"Review", "ReviewBook", "_Ended"},
    "billing.tallies": {"Tally", "TallyBook"},
    "billing.tariff": {"Tariff", "Usage"},
    "billing.verdict": {"UnitVerdict"},
    "builtins": {"int"},
    "collections": {"defaultdict"},
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Ledger and batches after record `seq` of a journal, whose checksum there is `checksum` (32 bytes)."""

    seq: int
    checksum: bytes
    ledger: Ledger
    batches: dict[str, Batch]

    def encode(self) -> bytes:
        """Return the file's bytes: what is booked later is not in them."""
        state = pickle.dumps((self.ledger, self.batches), protocol=5)
        body = b"".join((_code_digest(), self.seq.to_bytes(8, "big"), self.checksum, state))
        return TAG + sha256(body).digest() + body


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint at `path`; None, with a line in the log, when this code can use none there."""
    try:
        return decode_checkpoint(path.read_bytes())
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  the file may say anything, and the journal has it all
        _log.warning("%s is not used, the whole journal is read: %s", path, error)
        return None


def is_due(records: int, last: int) -> bool:
    """Tell whether books of so many records need a checkpoint, when the last one was after record `last`."""
    return records - last >= max(RECORDS_MIN, records // SHARE)


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Return the checkpoint in `Checkpoint.encode`'s bytes.

    Raises:
        ValueError: they are damaged, another version's, or name what no checkpoint is made of; nothing of it was made.
        pickle.UnpicklingError, EOFError, TypeError: they are no state.
    """
    reader = io.BytesIO(data)
    tag, digest = reader.read(len(TAG)), reader.read(32)
    body = reader.getbuffer()[reader.tell() :]
    if tag != TAG or not compare_digest(digest, sha256(body).digest()):
        raise ValueError("it is damaged, or no checkpoint")
    if reader.read(32) != _code_digest():
        raise ValueError("another version wrote it")
    seq, checksum = int.from_bytes(reader.read(8), "big"), reader.read(32)
    ledger, batches = _Reader(reader).load()
    return Checkpoint(seq=seq, checksum=checksum, ledger=ledger, batches=batches)


class _Reader(pickle.Unpickler):
    """Makes nothing but the classes named above."""

    def find_class(self, module: str, name: str) -> object:
        if name not in _PARTS.get(module, ()):
            raise ValueError(f"it contains {module}.{name}, which no books do")
        return super().find_class(module, name)


@cache
def _code_digest() -> bytes:
    """Of this package's sources and this Python: what another version wrote may mean something else to this one."""
    digest = sha256(sys.version.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


_code_digest()  # now: a new version may be put in place of these files while the old one runs
