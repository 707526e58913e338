"""Looks for planted strings where no prompt may ever be: files, logs, and processes that only carry ciphertext."""

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CHUNK = 1 << 22
REGION_MAX = 1 << 30  # larger mappings are reserved address space, not data
_MAPS_LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was looked at, and where a planted string stood."""

    files: int
    file_bytes: int
    processes: int
    memory_bytes: int
    unreadable: tuple[str, ...]
    hits: tuple[str, ...]


def scan(canaries: Sequence[bytes], *, folders: Iterable[Path], processes: Iterable[psutil.Process]) -> Scan:
    """Search every file below `folders` and the readable memory of `processes` for any of `canaries`.

    Returns:
        Counts, the names of what could not be read (not searched: say so), and one line for each hit.
    """
    pattern = re.compile(b"|".join(re.escape(canary) for canary in canaries))
    overlap = max(map(len, canaries))
    hits: list[str] = []
    unreadable: list[str] = []
    files = file_bytes = searched = memory_bytes = 0
    for path in _files(folders):
        try:
            size, found = _search_file(path, pattern, overlap)
        except OSError:
            unreadable.append(str(path))
            continue
        files, file_bytes = files + 1, file_bytes + size
        if found:
            hits.append(f"file {path}")
    for process in processes:
        title = f"{_title(process)} ({process.pid})"
        try:
            size, found = _search_memory(process.pid, pattern, overlap)
        except OSError:
            unreadable.append(f"memory of {title}")
            continue
        searched, memory_bytes = searched + 1, memory_bytes + size
        if found:
            hits.append(f"memory of {title}")
    return Scan(
        files=files,
        file_bytes=file_bytes,
        processes=searched,
        memory_bytes=memory_bytes,
        unreadable=tuple(unreadable),
        hits=tuple(hits),
    )


def _files(folders: Iterable[Path]) -> Iterable[Path]:
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def _search_file(path: Path, pattern: re.Pattern[bytes], overlap: int) -> tuple[int, bool]:
    tail, size = b"", 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            if pattern.search(tail + chunk):
                return size, True
            tail = chunk[-overlap:]
    return size, False


def _search_memory(pid: int, pattern: re.Pattern[bytes], overlap: int) -> tuple[int, bool]:
    """Read /proc/PID/mem region by region; regions that vanish or refuse (device memory) are passed over."""
    size = 0
    regions = [
        match for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if (match := _MAPS_LINE.match(line))
    ]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in ((int(match[1], 16), int(match[2], 16)) for match in regions):
            if end - start > REGION_MAX:
                continue
            tail = b""
            with contextlib.suppress(OSError, ValueError):
                for at in range(start, end, CHUNK):
                    memory.seek(at)
                    chunk = memory.read(min(CHUNK, end - at))
                    size += len(chunk)
                    if pattern.search(tail + chunk):
                        return size, True
                    tail = chunk[-overlap:]
    return size, False


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return (process.cmdline() or [process.name()])[0][-40:]
    return "ended"
