"""The note that a relay leaves on disk, by which whoever comes next finds the HAProxy that runs."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayNote:
    """A HAProxy that outlives the process that started it."""

    pid: int
    born: float  # when the process began, seconds since 1970 as psutil tells it: process ids are used again
    folder: str  # of its files
    address: str  # IP:PORT it listens on
    settings: str  # digest of its configuration and its secret, hex

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if same else None


def read_note(path: Path) -> RelayNote | None:
    """The note, None when there is none that can be read."""
    try:
        note = RelayNote(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    kinds = isinstance(note.pid, int) and isinstance(note.born, float) and isinstance(note.folder, str)
    return note if kinds and isinstance(note.address, str) else None


def write_note(path: Path, note: RelayNote) -> None:
    """Put the note in place of an older one, all or nothing; mode 0600."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(asdict(note), out)
    fresh.replace(path)
