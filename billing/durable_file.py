"""A file that is replaced as a whole: whoever reads it, after a power cut too, finds the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file, mode 0600; on disk when this returns. One writer at a time.

    Raises:
        OSError: it cannot be written; the old file stands.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # of a writer that died; it may have another mode
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
