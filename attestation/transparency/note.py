"""Signed notes: a few lines of text, a blank line, and the signatures below it, as transparency logs write them.

Two kinds of Ed25519 signature are known: over the text itself (type 1), and a cosignature (type 4) that also signs the
time at which its owner saw the note. Signatures under keys nobody asked for are ignored, as the format wants.

Source: C2SP signed-note v1.0.0, tlog-cosignature v1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import LogSignatureError, MalformedEvidenceError

NOTE_SIZE_MAX = 16 * 1024
SIGNATURES_MAX = 32
NAME_MAX = 120
TIME_MAX = 253402300799  # the last second of the year 9999
_KEY_ID_SIZE, _KEY_SIZE, _SIGNATURE_SIZE, _TIME_SIZE = 4, 32, 64, 8
_LINE = re.compile(r"\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)\n")
_NAME = re.compile(r"[!-*,-~]+")  # printable ASCII without space and plus


class KeyKind(IntEnum):
    """Signature type, the first byte of a key."""

    SIGNER = 1  # Ed25519 over the text
    COSIGNER = 4  # Ed25519 over a time and the text


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A public key with the name it signs under.

    Attributes:
        name: printable ASCII without spaces and plus signs; a schema-less URL by custom.
        kind: what its signatures cover.
        public_key: Ed25519, 32 bytes.
    """

    name: str
    kind: KeyKind
    public_key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > NAME_MAX:
            raise ValueError(f"key name: want 1 to {NAME_MAX} printable characters without spaces and plus signs")
        if len(self.public_key) != _KEY_SIZE:
            raise ValueError(f"key of {len(self.public_key)} bytes, want {_KEY_SIZE}")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that a signature line begins with."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed()).digest()[:_KEY_ID_SIZE]

    def encode(self) -> str:
        """Return the key as it is written in settings: name, key id in hex and typed key in base64."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._typed()).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is something else, or its key id does not belong to it.
        """
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            typed = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            typed = b""
        if len(typed) != 1 + _KEY_SIZE or typed[0] not in set(KeyKind):
            raise ValueError(f"{text[:40]!r} is no key of a log or witness: want name+id+base64")
        key = cls(name=name, kind=KeyKind(typed[0]), public_key=typed[1:])
        if key.encode() != text:
            raise ValueError(f"{text[:40]!r}: key id {key_id[:16]!r} does not belong to this name and key")
        return key

    def _typed(self) -> bytes:
        return bytes([self.kind]) + self.public_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note whose signatures have not been checked.

    Attributes:
        text: what is signed, its last newline included.
        signatures: (key name, key id and signature) of each line.
    """

    text: str
    signatures: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        lines = (f"\u2014 {name} {base64.b64encode(blob).decode()}\n" for name, blob in self.signatures)
        return (self.text + "\n" + "".join(lines)).encode()

    def signed_by(self, key: NoteKey) -> bool:
        """Say whether this key signed the text.

        Raises:
            LogSignatureError: a signature in its name does not verify, or there are two.
        """
        blob = self._of(key, _SIGNATURE_SIZE)
        if blob is not None:
            _verify(key, blob, self.text.encode())
        return blob is not None

    def cosigned_by(self, key: NoteKey) -> datetime | None:
        """Return when this key's owner vouched for the text, None if it did not.

        Raises:
            LogSignatureError: a signature in its name does not verify, or there are two.
        """
        blob = self._of(key, _TIME_SIZE + _SIGNATURE_SIZE)
        if blob is None:
            return None
        seconds = int.from_bytes(blob[:_TIME_SIZE], "big")
        _verify(key, blob[_TIME_SIZE:], _cosigned(self.text, seconds))
        if seconds > TIME_MAX:
            raise LogSignatureError(f"{key.name} cosigned at second {seconds}, which is no time")
        return datetime.fromtimestamp(seconds, UTC)

    def with_signature(self, name: str, blob: bytes) -> Note:
        """Return the note with one more signature line."""
        return Note(text=self.text, signatures=(*self.signatures, (name, blob)))

    def _of(self, key: NoteKey, size: int) -> bytes | None:
        mine = [blob for name, blob in self.signatures if name == key.name and blob[:_KEY_ID_SIZE] == key.key_id]
        if len(mine) > 1 or any(len(blob) != _KEY_ID_SIZE + size for blob in mine):
            raise LogSignatureError(f"{key.name} signed twice, or not with {size} bytes")
        return mine[0][_KEY_ID_SIZE:] if mine else None


def parse_note(data: bytes) -> Note:
    """Read a note.

    Raises:
        MalformedEvidenceError: too large, not UTF-8, no text, no signature, or too many.
    """
    if len(data) > NOTE_SIZE_MAX:
        raise MalformedEvidenceError(f"note of {len(data)} bytes, at most {NOTE_SIZE_MAX} are read")
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedEvidenceError("note is not UTF-8") from error
    text, separator, tail = decoded.rpartition("\n\n")
    if not separator or not text or any(ord(letter) < 0x20 and letter != "\n" for letter in decoded):
        raise MalformedEvidenceError("note: want text, a blank line and signatures")
    lines = tail.splitlines(keepends=True)
    found = [_LINE.fullmatch(line) for line in lines]
    matches = [match for match in found if match]
    if not 0 < len(lines) <= SIGNATURES_MAX or len(matches) != len(lines):
        raise MalformedEvidenceError(f"note: want 1 to {SIGNATURES_MAX} signature lines and nothing else")
    note = Note(text=text + "\n", signatures=tuple((match[1], _decode(match[2])) for match in matches))
    if note.encode() != data:
        raise MalformedEvidenceError("note: a signature is not in its one spelling")
    return note


def sign(text: str, key: Ed25519PrivateKey, name: str) -> Note:
    """Return a note that the key signed."""
    signer = NoteKey(name=name, kind=KeyKind.SIGNER, public_key=key.public_key().public_bytes_raw())
    return Note(text=text, signatures=((name, signer.key_id + key.sign(text.encode())),))


def cosign(note: Note, key: Ed25519PrivateKey, name: str, *, now: datetime) -> Note:
    """Return the note with the word of this key's owner that it was seen now."""
    signer = NoteKey(name=name, kind=KeyKind.COSIGNER, public_key=key.public_key().public_bytes_raw())
    seconds = int(now.timestamp())
    blob = signer.key_id + seconds.to_bytes(_TIME_SIZE, "big") + key.sign(_cosigned(note.text, seconds))
    return note.with_signature(name, blob)


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _verify(key: NoteKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise LogSignatureError(f"the signature in the name of {key.name} does not verify") from None


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise MalformedEvidenceError("note: a signature is not base64") from error
