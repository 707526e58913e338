"""Key files on the disk: reading them, writing them so that no crash loses a key, and passwords from files.

What may be read by others is refused, whatever it holds. Two forms are read: sealed by a password (`billing.keys`), and
plain, 32 bytes in hexadecimal, which a caller must allow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core.crypto.keys import mnemonic_is_valid, mnemonic_to_private_key

from billing.durable_file import sync_folder
from billing.errors import (
    ExposedKeyFileError,
    KeyFileExistsError,
    KeyFileUnreadableError,
    MalformedKeyFileError,
    PasswordNeededError,
    PlainKeyRefusedError,
)
from billing.keys import FILE_SIZE_MAX, SECRET_SIZE, SealedKey, normalise_password, open_key, parse_key

__all__ = ["KeySource", "create_key_file", "read_key_file", "read_password_file", "read_seed", "replace_key_file"]

MNEMONIC_WORDS = 24

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where a program that nobody sits at finds a key: the file, the file with its password, and what is allowed."""

    file: Path
    password_file: Path | None = None
    plain_allowed: bool = True  # an unencrypted file; programs say False where real money is at stake

    @classmethod
    def parse(cls, value: object, folder: Path, *, plain_allowed: bool) -> KeySource:
        """A setting: a path, or {file: path, password_file: path}; relative paths are relative to `folder`.

        Raises:
            ValueError: it is neither.
        """
        fields = {"file": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or "file" not in fields or set(fields) - {"file", "password_file"}:
            raise ValueError("a key is a path, or {file: path, password_file: path}")
        if not all(isinstance(path, str) and path for path in fields.values()):
            raise ValueError("file and password_file are paths (put hexadecimal numbers in quotes)")
        paths = {name: folder / path for name, path in fields.items()}
        return cls(**paths, plain_allowed=plain_allowed)

    def secret(self) -> bytes:
        """The 32 secret bytes.

        Raises:
            KeyFileError: whatever is wrong with the file, or its password.
        """
        found = read_key_file(self.file)
        if isinstance(found, SealedKey):
            if self.password_file is None:
                raise PasswordNeededError(str(self.file))
            return open_key(found, read_password_file(self.password_file))
        if self.password_file is not None or not self.plain_allowed:
            raise PlainKeyRefusedError(str(self.file))
        _log.warning("%s is not encrypted: chrysalis wallet rotate-password protects it", self.file)
        return found

    def signing_key(self) -> Ed25519PrivateKey:
        """The Ed25519 key of that seed; raises as `secret` does."""
        return Ed25519PrivateKey.from_private_bytes(self.secret())


def read_key_file(path: Path) -> SealedKey | bytes:
    """What a key file holds: a sealed key, or the 32 bytes of a plain one.

    Raises:
        KeyFileUnreadableError: it is not there, or not a file.
        ExposedKeyFileError: others can read it.
        MalformedKeyFileError: neither form.
    """
    data = _read_private(path, FILE_SIZE_MAX)
    sealed = parse_key(data)
    if sealed is not None:
        return sealed
    if not re.fullmatch(rb"\s*[0-9a-fA-F]{64}\s*", data):
        raise MalformedKeyFileError(f"{path} holds neither a sealed key nor {SECRET_SIZE} bytes: 64 hex digits")
    return bytes.fromhex(data.strip().decode())


def read_seed(path: Path) -> bytes:
    """The Ed25519 seed in a file of another program: 64 hex digits, or the 24 words of a TON wallet without password.

    Raises:
        KeyFileUnreadableError, ExposedKeyFileError: as for key files.
        MalformedKeyFileError: neither, or a word is mistyped.
    """
    data = _read_private(path, FILE_SIZE_MAX)
    if re.fullmatch(rb"\s*[0-9a-fA-F]{64}\s*", data):
        return bytes.fromhex(data.strip().decode())
    words = data.decode(errors="replace").lower().split()
    if len(words) != MNEMONIC_WORDS or not mnemonic_is_valid(words):
        raise MalformedKeyFileError(f"{path} holds neither 64 hex digits nor the {MNEMONIC_WORDS} words of a wallet")
    _, secret = mnemonic_to_private_key(words)
    return bytes(secret[:SECRET_SIZE])


def read_password_file(path: Path) -> bytes:
    """The password in a file, a pipe (/dev/fd/N) or a systemd credential.

    Raises:
        KeyFileUnreadableError, ExposedKeyFileError: as for key files.
        MalformedKeyFileError: not one line of text.
        WeakPasswordError: it is empty.
    """
    data = _read_private(path, FILE_SIZE_MAX, group_of_root=True)
    try:
        return normalise_password(data)
    except ValueError as error:
        raise MalformedKeyFileError(f"{path}: {error}") from None


def create_key_file(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600, durably, whole or not at all.

    Raises:
        KeyFileExistsError: something is there already; a key is never overwritten.
        KeyFileUnreadableError: the folder cannot be written.
    """
    with _draft(path, data) as draft:
        try:
            os.link(draft, path)  # unlike a rename it fails when something is there
        except FileExistsError:
            raise KeyFileExistsError(str(path)) from None
    sync_folder(path.parent)


def replace_key_file(path: Path, data: bytes, *, check: Callable[[bytes], object]) -> None:
    """Put another content in the place of a key file, in one step; `check` sees it as it was read back from the disk.

    Raises:
        KeyFileUnreadableError: the folder cannot be written; the old file stands.
    """
    with _draft(path, data) as draft:
        check(draft.read_bytes())  # a file that cannot be opened any more must not take the place of one that can
        draft.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path`, on the disk; removed at the end if it still has its own name."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        yield draft
    except OSError as error:
        raise KeyFileUnreadableError(str(path), f"cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _read_private(path: Path, size_max: int, *, group_of_root: bool = False) -> bytes:
    """The content of a file that only its owner can read; looked at after it was opened, so it cannot be exchanged.

    With `group_of_root` a file of root may be readable by its group: systemd shows so that a service has been let in.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            allowed = 0o040 if group_of_root and status.st_uid == 0 else 0
            if mode & 0o077 & ~allowed:
                raise ExposedKeyFileError(str(path), f"{mode:04o}")
            data = file.read(size_max + 1)
    except OSError as error:
        raise KeyFileUnreadableError(str(path), f"cannot be read: {error.strerror}") from error
    if len(data) > size_max:
        raise MalformedKeyFileError(f"{path} is larger than {size_max} bytes")
    return data
