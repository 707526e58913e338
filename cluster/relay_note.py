"""The note that a relay leaves on disk, by which whoever comes next finds the HAProxy that runs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from billing.durable_file import replace_file


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayNote:
    """A HAProxy that outlives the process that started it."""

    pid: int
    born: int  # when the process began, see `born_at`: process ids are used again
    folder: str  # of its files
    address: str  # IP:PORT it listens on
    settings: str  # digest of its configuration and its secret, hex

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = born_at(self.pid) == self.born and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return None
        return process if same else None


def born_at(pid: int) -> int:
    """When a process began, clock ticks since boot (proc(5), field 22); OSError when there is none.

    Not psutil's create_time: it adds the time of the boot, which moves by a second when the clock is set.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def read_note(path: Path) -> RelayNote | None:
    """The note, None when there is none that can be read."""
    try:
        note = RelayNote(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    kinds = isinstance(note.pid, int) and isinstance(note.born, int) and isinstance(note.folder, str)
    return note if kinds and isinstance(note.address, str) else None


def write_note(path: Path, note: RelayNote) -> None:
    """Put the note in place of an older one, all or nothing; mode 0600."""
    replace_file(path, json.dumps(asdict(note)).encode())
