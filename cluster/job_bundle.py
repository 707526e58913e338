"""The code that travels with a Python job: one ZIP archive, the same bytes for the same files.

Sorted names, fixed times and modes, no compression (whose output changes between versions of zlib). Digest: SHA-256
of the archive, what governance lists as `job_bundles` of a policy.
"""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster.errors import BundleError, BundleRefusedError

BUNDLE_MAX = 64 << 20  # bytes; it is kept in the memory of Ray's head while the job is known
FILES_MAX = 10_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that ZIP can write
SKIPPED = frozenset({"__pycache__", ".git", ".venv"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An archive and how it is called."""

    data: bytes
    files: int

    @property
    def digest(self) -> bytes:
        """SHA-256 of the archive, 32 bytes."""
        return sha256(self.data).digest()


def make_bundle(folder: Path, *, size_max: int = BUNDLE_MAX) -> Bundle:
    """Pack a folder; `__pycache__`, `.git` and `.venv` stay behind.

    Raises:
        BundleError: it is no folder, too large, or holds what cannot travel: links, devices, sockets.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: set working_dir to one")
    packed, size, count = io.BytesIO(), 0, 0
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(_files(folder)):
            data, executable = _read(path, name, size_max - size)
            size, count = size + len(data), count + 1
            if count > FILES_MAX:
                raise BundleError(f"{folder} has more than {FILES_MAX} files: leave out what the job does not need")
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix: the mode counts
            info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(info, data)
    if not count:
        raise BundleError(f"{folder} has no files")
    data = packed.getvalue()
    if len(data) > size_max:
        raise BundleError(f"the bundle has {len(data)} bytes, at most {size_max}: let the job fetch large files itself")
    return Bundle(data=data, files=count)


def check_approved(digest: bytes, approved: frozenset[bytes]) -> None:
    """Refuse code that governance did not approve.

    Raises:
        BundleRefusedError: the digest is not in the list.
    """
    if digest not in approved:
        raise BundleRefusedError(digest.hex(), len(approved))


def is_portable(name: str) -> bool:
    """Whether every program reads this name as the same path: UTF-8, printable, no backslash."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\\" not in name and name.isprintable()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file with its name in the archive; what is neither file nor folder is refused, nothing is followed."""
    for where, folders, files in os.walk(folder, followlinks=False, onerror=_refuse_unreadable):
        for name in [*folders, *files]:
            path = Path(where, name)
            shown = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise BundleError(f"{shown} is a link: put the file itself there")
            if not is_portable(shown):
                raise BundleError(f"{shown!r} cannot be a name in a bundle: use printable characters, no backslash")
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in files:
            path = Path(where, name)
            yield path.relative_to(folder).as_posix(), path


def _read(path: Path, name: str, size_max: int) -> tuple[bytes, bool]:
    """The file's bytes and whether it may be run; a link that took its place meanwhile is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise BundleError(f"{name} is not a file: only files and folders can travel")
            data = file.read(size_max + 1) if state.st_size <= size_max else b""
    except OSError as error:
        raise BundleError(f"cannot read {name}: {error.strerror}") from error
    if max(len(data), state.st_size) > size_max:
        raise BundleError(
            f"the files have more than the {BUNDLE_MAX} bytes of a bundle, at {name}: fetch them in the job"
        )
    return data, bool(state.st_mode & stat.S_IXUSR)


def _refuse_unreadable(error: OSError) -> None:
    raise BundleError(f"cannot read {error.filename}: {error.strerror}") from error
