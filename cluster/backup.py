"""A copy of the operator's state while everything runs: each database as of one moment, every other file whole.

SQLite files are copied by SQLite's own backup, which sees what still lies in the write-ahead log; all others are only
ever replaced by rename. Books in PostgreSQL are not here: they have backups of their own.
"""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from cluster.errors import ConfigError
from cluster.relay_service import NOTE_FILE

SQLITE_MAGIC = b"SQLite format 3\0"
_LEFT_OUT = {NOTE_FILE}  # names a process of this machine
_SIDES = ("-wal", "-shm", ".new")


def back_up(state: Path, target: Path) -> int:
    """Copy a state folder into a new folder, mode 0700, files 0600; returns how many files.

    Raises:
        ConfigError: there is no such state, the target is there already or in it, or a file cannot be copied.
    """
    if not state.is_dir():
        raise ConfigError(f"{state} is no folder: name the settings of an operator that has run here")
    if target.resolve().is_relative_to(state.resolve()):
        raise ConfigError(f"{target} lies in what is to be copied: choose a folder elsewhere")
    partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
        partial.mkdir(mode=0o700)
        if target.exists():
            raise ConfigError(f"{target} is there already: each backup takes a new folder")
        files = [*_files(state)]
        for path in files:
            _copy(path, partial / path.relative_to(state))
        partial.rename(target)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"no backup was made in {target}: {error}") from error
    return len(files)


def _files(state: Path) -> list[Path]:
    every = sorted(path for path in state.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in every if path.name not in _LEFT_OUT and not path.name.endswith(_SIDES)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        source.open("rb") as file,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out,
    ):
        if file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC:
            _copy_database(source, target)
        else:
            file.seek(0)
            shutil.copyfileobj(file, out)
            out.flush()
        os.fsync(out.fileno())


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as theirs,
        closing(sqlite3.connect(target)) as ours,
    ):
        theirs.backup(ours)
