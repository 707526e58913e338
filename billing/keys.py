"""Key files that a password protects: the format, pure. Layout: docs/KEYS.md.

A key file is JSON. Its header says what the key is and how its password is stretched (Argon2id, RFC 9106); the key is
sealed with ChaCha20-Poly1305 (RFC 8439) and the whole header is authenticated with it. A file is as hostile as whoever
wrote it: costs outside of fixed bounds are refused before any memory is taken.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from billing.errors import MalformedKeyFileError, WeakPasswordError, WrongPasswordError

__all__ = [
    "FILE_SIZE_MAX",
    "SECRET_SIZE",
    "KdfCost",
    "KeyKind",
    "SealedKey",
    "normalise_password",
    "open_key",
    "parse_key",
    "public_key_of",
    "seal_key",
]

VERSION = 1
SECRET_SIZE = 32
SALT_SIZE, NONCE_SIZE, TAG_SIZE = 16, 12, 16
FILE_SIZE_MAX = 4096
PASSWORD_MIN, PASSWORD_MAX = 8, 1024  # bytes of UTF-8
MEMORY_KIB_MIN, MEMORY_KIB_MAX = 19_456, 1 << 20  # OWASP's least memory for two passes; 1 GiB
ITERATIONS_MIN, ITERATIONS_MAX = 2, 10
LANES_MAX = 8
KDF, CIPHER = "argon2id", "chacha20-poly1305"
_FIELDS = {"chrysalis_key": int, "kind": str, "public_key": str, "kdf": dict, "cipher": dict, "sealed": str}
_KDF_FIELDS = {"name": str, "salt": str, "memory_kib": int, "iterations": int, "lanes": int}
_CIPHER_FIELDS = {"name": str, "nonce": str}


class KeyKind(StrEnum):
    """What the 32 secret bytes are."""

    ED25519 = "ed25519"  # the seed of a signing key
    SECRET = "secret"  # noqa: S105  # not one; shared between machines, as the ticket key


@dataclass(frozen=True, slots=True, kw_only=True)
class KdfCost:
    """What one try of a password costs; the default is RFC 9106's second recommendation, 64 MiB."""

    memory_kib: int = 65_536
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        bounds = (
            ("memory_kib", self.memory_kib, MEMORY_KIB_MIN, MEMORY_KIB_MAX),
            ("iterations", self.iterations, ITERATIONS_MIN, ITERATIONS_MAX),
            ("lanes", self.lanes, 1, LANES_MAX),
        )
        for name, value, least, most in bounds:
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """A key file: everything but `sealed` is readable by whoever has the file, and authenticated when it is opened."""

    kind: KeyKind
    public_key: bytes  # 32, of an Ed25519 key; empty for a secret
    cost: KdfCost
    salt: bytes  # 16
    nonce: bytes  # 12
    sealed: bytes = b""  # the key's 32 bytes and the tag's 16

    def header(self) -> dict[str, Any]:
        """What the file says in clear."""
        return {
            "chrysalis_key": VERSION,
            "kind": self.kind.value,
            "public_key": self.public_key.hex(),
            "kdf": {
                "name": KDF,
                "salt": self.salt.hex(),
                "memory_kib": self.cost.memory_kib,
                "iterations": self.cost.iterations,
                "lanes": self.cost.lanes,
            },
            "cipher": {"name": CIPHER, "nonce": self.nonce.hex()},
        }

    def encode(self) -> bytes:
        """The file's content."""
        return json.dumps(self.header() | {"sealed": self.sealed.hex()}, indent=1).encode() + b"\n"

    def associated_data(self) -> bytes:
        """The header in its one form: sorted keys, no spaces."""
        return json.dumps(self.header(), sort_keys=True, separators=(",", ":")).encode()


def seal_key(
    secret: bytes,
    password: bytes,
    *,
    kind: KeyKind = KeyKind.ED25519,
    cost: KdfCost | None = None,
    salt: bytes | None = None,
    nonce: bytes | None = None,
) -> SealedKey:
    """Protect 32 secret bytes with a password; salt and nonce are random unless a test gives them.

    Raises:
        WeakPasswordError: the password has fewer than 8 bytes.
    """
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"a key has {SECRET_SIZE} bytes, got {len(secret)}")
    if len(password) < PASSWORD_MIN:
        raise WeakPasswordError(PASSWORD_MIN)
    header = SealedKey(
        kind=kind,
        public_key=public_key_of(secret) if kind is KeyKind.ED25519 else b"",
        cost=cost or KdfCost(),
        salt=os.urandom(SALT_SIZE) if salt is None else salt,
        nonce=os.urandom(NONCE_SIZE) if nonce is None else nonce,
    )
    cipher = ChaCha20Poly1305(_stretch(password, header))
    return replace(header, sealed=cipher.encrypt(header.nonce, secret, header.associated_data()))


def open_key(key: SealedKey, password: bytes) -> bytes:
    """The 32 secret bytes.

    Raises:
        WrongPasswordError: the password is another one, or a byte of the file was changed: the two look the same.
        MalformedKeyFileError: whoever made the file named another public key than its own.
    """
    try:
        secret = ChaCha20Poly1305(_stretch(password, key)).decrypt(key.nonce, key.sealed, key.associated_data())
    except InvalidTag:
        raise WrongPasswordError from None
    if key.kind is KeyKind.ED25519 and public_key_of(secret) != key.public_key:
        raise MalformedKeyFileError("its public_key is not that of the key inside")
    return secret


def parse_key(data: bytes) -> SealedKey | None:
    """The sealed key in a file's content; None when the file is not of this kind at all (a plain key is hex).

    Raises:
        MalformedKeyFileError: it is, and a field is missing, unknown, or out of its bounds.
    """
    if not data.lstrip().startswith(b"{"):
        return None
    if len(data) > FILE_SIZE_MAX:
        raise MalformedKeyFileError(f"{len(data)} bytes, at most {FILE_SIZE_MAX} are read")
    try:
        values = json.loads(data, object_pairs_hook=_no_repetition)
        _check_fields(values, "the file", _FIELDS)
        kdf, cipher = values["kdf"], values["cipher"]
        _check_fields(kdf, "kdf", _KDF_FIELDS)
        _check_fields(cipher, "cipher", _CIPHER_FIELDS)
        _check_names(values["chrysalis_key"], kdf["name"], cipher["name"])
        kind = KeyKind(values["kind"])
        return SealedKey(
            kind=kind,
            public_key=_hex(values["public_key"], SECRET_SIZE if kind is KeyKind.ED25519 else 0, "public_key"),
            cost=KdfCost(memory_kib=kdf["memory_kib"], iterations=kdf["iterations"], lanes=kdf["lanes"]),
            salt=_hex(kdf["salt"], SALT_SIZE, "salt"),
            nonce=_hex(cipher["nonce"], NONCE_SIZE, "nonce"),
            sealed=_hex(values["sealed"], SECRET_SIZE + TAG_SIZE, "sealed"),
        )
    except (ValueError, RecursionError) as error:
        raise MalformedKeyFileError(str(error)) from error


def public_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key, 32 bytes, of a seed of 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def normalise_password(text: bytes) -> bytes:
    """A password as it is used: without the line's end, in Unicode's NFC, so that every keyboard gives the same bytes.

    Raises:
        WeakPasswordError: it is empty.
        ValueError: not UTF-8, several lines, or longer than 1024 bytes.
    """
    line = text.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line or b"\0" in line:
        raise ValueError("a password is one line of text")
    if len(line) > PASSWORD_MAX:
        raise ValueError(f"a password has at most {PASSWORD_MAX} bytes")
    if not line:
        raise WeakPasswordError(PASSWORD_MIN)
    try:
        return unicodedata.normalize("NFC", line.decode()).encode()
    except UnicodeDecodeError:
        raise ValueError("a password is text in UTF-8") from None  # the cause would show its bytes


def _stretch(password: bytes, key: SealedKey) -> bytes:
    return Argon2id(
        salt=key.salt,
        length=32,
        iterations=key.cost.iterations,
        lanes=key.cost.lanes,
        memory_cost=key.cost.memory_kib,
    ).derive(password)


def _check_fields(values: object, what: str, kinds: Mapping[str, type]) -> None:
    if not isinstance(values, dict) or set(values) != set(kinds):
        raise ValueError(f"{what} has exactly the fields {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name} must be {kind.__name__}")


def _check_names(version: int, kdf: str, cipher: str) -> None:
    if (version, kdf, cipher) != (VERSION, KDF, CIPHER):
        raise ValueError(
            f"version {version} with {kdf[:40]} and {cipher[:40]}; this program reads version {VERSION} with {KDF} "
            f"and {CIPHER}"
        )


def _hex(text: str, size: int, name: str) -> bytes:
    if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", text):
        raise ValueError(f"{name} must be {size} bytes in lower-case hexadecimal")
    return bytes.fromhex(text)


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field stands twice")
    return values
