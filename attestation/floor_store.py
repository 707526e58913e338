"""A verifier's floors in a file that outlives it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attestation.errors import FloorFileError, MalformedEvidenceError
from attestation.floors import FLOORS_SIZE_MAX, Floors, encode_floors, parse_floors

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class FloorStore:
    """The floors of one verifier, on disk before they count. One process writes a file.

    No file is a first start. A file that cannot be read is an error and never an empty start: somebody may want the
    verifier to forget.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`, whose folder exists.

        Raises:
            FloorFileError: it is damaged, or others could have written it.
        """
        self._path = path
        self._floors = _read(path)

    @property
    def floors(self) -> Floors:
        """The floors now."""
        return self._floors

    def raise_by(self, seen: Floors) -> None:
        """Raise the floors to what evidence that held has shown.

        Raises:
            OSError: the file cannot be written; the floors are as before.
        """
        raised = self._floors.raised_by(seen)
        if raised != self._floors:
            _write(self._path, encode_floors(raised))
            self._floors = raised


def _read(path: Path) -> Floors:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FLOORS_SIZE_MAX + 1)
    except FileNotFoundError:
        return Floors()
    except OSError as error:
        raise FloorFileError(f"{path} cannot be read: {error.strerror}") from error
    if mode & _WRITABLE_BY_OTHERS:
        raise FloorFileError(f"{path} has mode {stat.S_IMODE(mode):04o}: others may have lowered it; want 0600")
    try:
        return parse_floors(data)
    except MalformedEvidenceError as error:
        raise FloorFileError(
            f"{path} is damaged ({error}): restore it, or remove it to believe any valid list again"
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Replace the file at once, and on disk."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
