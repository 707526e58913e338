"""A bundle on the host that runs it: read with a limit, compared with its digest, unpacked within its folder.

Archives are untrusted here, whoever approved them: only what `cluster.job_bundle` makes is taken.
"""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath

from cluster.errors import BundleError
from cluster.job_bundle import BUNDLE_MAX, FILES_MAX, Bundle, is_portable

BUNDLE_NAME = "bundle.zip"
_ENCRYPTED = 0x1  # general purpose bit 0; PKWARE APPNOTE 4.4.4


def wrap_bundle(bundle: Bundle) -> bytes:
    """A ZIP archive that holds the bundle as one file: Ray unpacks that, and nothing of the bundle."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(BUNDLE_NAME), bundle.data)
    return packed.getvalue()


def read_bundle(path: Path, digest: bytes, *, size_max: int = BUNDLE_MAX) -> bytes:
    """The archive's bytes.

    Args:
        path: the archive.
        digest: SHA-256 it must have, 32 bytes.
        size_max: bytes; a larger file is not read.

    Raises:
        BundleError: no file, too large, or another archive.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_size > size_max:
                raise BundleError(
                    f"{path.name} is no file of at most {size_max} bytes: let the job fetch large files itself"
                )
            data = file.read(size_max + 1)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error.strerror}; submit the job again") from error
    seen = sha256(data).digest()
    if seen != digest:
        raise BundleError(f"the bundle is {seen.hex()}, and the job was started for {digest.hex()}: submit it again")
    return data


def unpack_bundle(data: bytes, folder: Path) -> int:
    """Unpack a bundle into a new folder of one's own; returns how many files. Nothing is written unless all may be.

    Raises:
        BundleError: it is not an archive as `make_bundle` makes them, or cannot be written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [*_checked(archive.infolist())]
            for info, name in files:
                _write(folder.joinpath(*name.parts), archive.read(info), executable=_mode(info) & stat.S_IXUSR != 0)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
        raise BundleError(f"the bundle is not a ZIP archive of ours: {error}; make it by `chrysalis submit`") from error
    except OSError as error:
        raise BundleError(f"cannot unpack {error.filename or 'the bundle'}: {error.strerror or error}") from error
    return len(files)


def _checked(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Every entry with its path, which stays inside. Checked before the first one is written."""
    if len(entries) > FILES_MAX or sum(info.file_size for info in entries) > BUNDLE_MAX:
        raise BundleError(
            f"the bundle has more than {FILES_MAX} files or {BUNDLE_MAX} bytes: leave out what is not code"
        )
    seen = set[str]()
    for info in entries:
        name = info.orig_filename  # `filename` is already made harmless, and so might be another file's
        inside = all(part not in {"", ".", ".."} for part in name.split("/"))
        if not inside or not is_portable(name):
            raise BundleError(f"{name!r} cannot be a name in a bundle: it would lead out of the job's folder")
        if name in seen:
            raise BundleError(f"{name!r} stands in the bundle twice: make it by `chrysalis submit`")
        if not stat.S_ISREG(_mode(info)) or info.flag_bits & _ENCRYPTED or info.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"{name!r} is a link, a device, or packed otherwise: only plain files can travel")
        seen.add(name)
        yield info, PurePosixPath(name)


def _mode(info: zipfile.ZipInfo) -> int:
    return info.external_attr >> 16


def _write(path: Path, data: bytes, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o700 if executable else 0o600), "wb") as file:
        file.write(data)
