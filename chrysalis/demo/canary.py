"""Looks for planted strings where no prompt may ever be: files, logs, and processes that only carry ciphertext."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

CHUNK = 1 << 22
_WRITABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw")  # a line of /proc/PID/maps
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Top byte of a /proc/PID/pagemap entry -> "1" if the page is present or swapped (Linux, admin-guide/mm/pagemap).
_IN_USE = bytes(ord("1") if byte & 0xC0 else ord("0") for byte in range(256))


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
    wanted = tuple(canaries)
    hits: list[str] = []
    unreadable: list[str] = []
    files = file_bytes = searched = memory_bytes = 0
    for path in _files(folders):
        try:
            size, found = _search_file(path, wanted)
        except OSError:
            unreadable.append(str(path))
            continue
        files, file_bytes = files + 1, file_bytes + size
        if found:
            hits.append(f"file {path}")
    for process in processes:
        title = f"{_title(process)} ({process.pid})"
        try:
            size, found = _search_memory(process.pid, wanted)
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


def _search_file(path: Path, wanted: tuple[bytes, ...]) -> tuple[int, bool]:
    with path.open("rb") as file:
        return _search_parts(iter(lambda: file.read(CHUNK), b""), wanted)


def _search_memory(pid: int, wanted: tuple[bytes, ...]) -> tuple[int, bool]:
    """Read what a process has written: the pages in use of its writable mappings."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    regions = [(int(line[1], 16), int(line[2], 16)) for line in map(_WRITABLE.match, lines) if line]
    size = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory, Path(f"/proc/{pid}/pagemap").open("rb") as pages:
        for start, end in regions:
            pages.seek(start // _PAGE * 8)
            in_use = pages.read((end - start) // _PAGE * 8)[7::8].translate(_IN_USE)
            for run in re.finditer(b"1+", in_use):
                read, found = _search_parts(
                    _read_pages(memory, start + run.start() * _PAGE, start + run.end() * _PAGE), wanted
                )
                size += read
                if found:
                    return size, True
    return size, False


def _read_pages(memory: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # unmapped meanwhile, or a device's memory
        memory.seek(start)
        while start < end and (data := memory.read(min(CHUNK, end - start))):
            start += len(data)
            yield data


def _search_parts(parts: Iterator[bytes], wanted: tuple[bytes, ...]) -> tuple[int, bool]:
    """Look for any of `wanted`, also across the borders of parts; returns (bytes read, found)."""
    size, tail, overlap = 0, b"", max(map(len, wanted)) - 1
    for part in parts:
        size += len(part)
        data = tail + part
        if any(item in data for item in wanted):
            return size, True
        tail = data[-overlap:]
    return size, False


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str((process.cmdline() or [process.name()])[0])[-40:]
    return "ended"
