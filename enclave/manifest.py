"""Names for what runs here: the digest of a model folder, and of the enclave's own code."""

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path

from enclave.errors import StartError

FILES_MAX = 4096
_READ = 1 << 20
_PACKAGES = ("enclave", "attestation", "billing")  # all code that the process runs, apart from installed libraries


def manifest_root(folder: Path) -> bytes:
    """SHA-256 that names a model folder: every regular file in it with path, size and content.

    The hash goes over `u32 length | relative path in UTF-8 | u64 size | SHA-256 of the content` of each file, sorted by
    path, after a label. Two folders have the same root only if they hold the same bytes under the same names.

    Raises:
        StartError: the folder is missing or empty, or has links, special files or too many files.
    """
    if not folder.is_dir():
        raise StartError(f"{folder} is not a folder: give the path of a model folder")
    files = sorted(_regular_files(folder))
    if not 1 <= len(files) <= FILES_MAX:
        raise StartError(f"{folder} has {len(files)} files, not 1 to {FILES_MAX}: is it a model folder?")
    return _list_hash(b"chrysalis/1 manifest", ((name, folder / name) for name in files))


def check_manifest(folder: Path, root: bytes) -> None:
    """Refuse a folder that does not hold the model of this root any more.

    Raises:
        StartError: another model, or what `manifest_root` refuses.
    """
    if manifest_root(folder) != root:
        raise StartError(f"{folder} was changed after the enclave started: start it again to attest what is there")


def engine_digest(versions: Iterable[str], root: Path | None = None) -> bytes:
    """SHA-256 over the enclave's own sources and the versions of what its engine runs on.

    Args:
        versions: lines `name version`, as `enclave.engine.engine_versions` gives them.
        root: the folder that holds the packages; by default where this one was imported from.
    """
    base = root or Path(__file__).resolve().parent.parent
    sources = sorted(
        path.relative_to(base).as_posix() for package in _PACKAGES for path in (base / package).rglob("*.py")
    )
    code = _list_hash(b"chrysalis/1 code", ((name, base / name) for name in sources))
    return hashlib.sha256(b"chrysalis/1 engine\0" + code + "\n".join(versions).encode()).digest()


def _regular_files(folder: Path) -> Iterable[str]:
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise StartError(f"{path} is a link or special file: a model folder holds plain files only")
        yield path.relative_to(folder).as_posix()


def _list_hash(label: bytes, files: Iterable[tuple[str, Path]]) -> bytes:
    digest = hashlib.sha256(label + b"\0")
    for name, path in files:
        size, content = _hash_file(path)
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded + size.to_bytes(8, "big") + content)
    return digest.digest()


def _hash_file(path: Path) -> tuple[int, bytes]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
            size += len(block)
    return size, digest.digest()
