"""Reading fixed layouts: every field has a known place, and nothing may be left over."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from billing.errors import BadSignatureError, MalformedRecordError

SIGNATURE_SIZE = 64


class Reader:
    """Takes fields from the front of `data`; every shortage is a `MalformedRecordError`."""

    def __init__(self, data: bytes, record: str) -> None:
        self._data = data
        self._record = record
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        field = self._data[self._at : self._at + size]
        if len(field) != size:
            raise MalformedRecordError(self._record, f"ends after {len(self._data)} bytes")
        self._at += size
        return field

    def take_int(self, size: int) -> int:
        """Return the next `size` bytes as a big-endian unsigned int."""
        return int.from_bytes(self.take(size), "big")

    def expect(self, tag: bytes) -> None:
        """Take a fixed tag."""
        if self.take(len(tag)) != tag:
            raise MalformedRecordError(self._record, "does not start with its tag")

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise MalformedRecordError(self._record, f"{len(self._data) - self._at} bytes too many")


def check_size(name: str, value: bytes, size: int) -> None:
    """Raise ValueError unless `value` is `size` raw bytes."""
    if type(value) is not bytes or len(value) != size:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise ValueError(f"{name} must be {size} bytes, got {got}")


def check_uint(name: str, value: int, bits: int) -> None:
    """Raise ValueError unless `value` is an int of at most `bits` bits."""
    if type(value) is not int or value < 0 or value >> bits:
        raise ValueError(f"{name} must be an unsigned int of {bits} bits, got {value!r}")


def append_signature(body: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return `body` with its 64-byte Ed25519 signature behind it."""
    return body + key.sign(body)


def check_signature(body: bytes, signature: bytes, public_key: bytes, record: str) -> None:
    """Check an Ed25519 signature.

    Raises:
        BadSignatureError: it is not by `public_key`, or that is not a key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, body)
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError(record, public_key.hex()) from error


class KnownSignatures:
    """The latest signatures that held. One that several records share is checked once."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._held: dict[tuple[bytes, bytes, bytes], None] = {}

    def check(self, body: bytes, signature: bytes, public_key: bytes, record: str) -> None:
        """Check an Ed25519 signature as `check_signature` does, unless this very one over this body is known."""
        name = (body, signature, public_key)
        if name in self._held:
            return
        check_signature(body, signature, public_key, record)
        while len(self._held) >= self._size:
            del self._held[next(iter(self._held))]
        self._held[name] = None


def split_signed(data: bytes, record: str, *, size_max: int) -> tuple[bytes, bytes]:
    """Return (body, signature) of a signed record."""
    if not SIGNATURE_SIZE < len(data) <= size_max:
        raise MalformedRecordError(record, f"{len(data)} bytes, at most {size_max} are allowed")
    return data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
