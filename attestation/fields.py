"""Reading CBOR documents: each field must exist, have its type, and be asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attestation import cbor
from attestation.errors import MalformedEvidenceError

_T = TypeVar("_T")


def built(build: Callable[..., _T], *args: object, **fields: object) -> _T:
    """Call a validating constructor; what it refuses is malformed evidence."""
    try:
        return build(*args, **fields)
    except ValueError as error:
        raise MalformedEvidenceError(str(error)) from error


class Fields:
    """A map read field by field; every method raises MalformedEvidenceError when the field is not as said."""

    def __init__(self, value: cbor.Value, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedEvidenceError(f"{where}: want a map")
        self._left: dict[str, cbor.Value] = dict(value)
        self._where = where

    def take(self, name: str) -> cbor.Value:
        """Return a field, whatever it is."""
        if name not in self._left:
            raise MalformedEvidenceError(f"{self._where}: no field {name!r}")
        return self._left.pop(name)

    def version(self, want: int) -> None:
        """Check that the version is this one."""
        got = self.take("v")
        if got != want or isinstance(got, bool):
            raise MalformedEvidenceError(f"{self._where}: another version than {want}")

    def blob(self, name: str) -> bytes:
        """Return a byte string."""
        value = self.take(name)
        if not isinstance(value, bytes):
            raise self._mistyped(name, "a byte string")
        return value

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.take(name)
        if not isinstance(value, str):
            raise self._mistyped(name, "text")
        return value

    def number(self, name: str, maximum: int) -> int:
        """Return a whole number up to `maximum`."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value > maximum:
            raise self._mistyped(name, f"a number up to {maximum}")
        return value

    def array(self, name: str, count_max: int) -> list[cbor.Value]:
        """Return an array of at most `count_max` items."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) > count_max:
            raise self._mistyped(name, f"an array of at most {count_max}")
        return value

    def blobs(self, name: str, count_max: int) -> tuple[bytes, ...]:
        """Return an array of at most `count_max` byte strings."""
        items = self.array(name, count_max)
        blobs = tuple(item for item in items if isinstance(item, bytes))
        if len(blobs) != len(items):
            raise self._mistyped(name, "byte strings only")
        return blobs

    def blobs_if_any(self, name: str, count_max: int) -> tuple[bytes, ...]:
        """Return an array that is left out when it is empty: one document, one encoding."""
        if name not in self._left:
            return ()
        blobs = self.blobs(name, count_max)
        if not blobs:
            raise self._mistyped(name, "left out when it is empty")
        return blobs

    def end(self) -> None:
        """Refuse what nobody asked for."""
        if self._left:
            raise MalformedEvidenceError(f"{self._where}: unknown field {min(self._left)[:32]!r}")

    def _mistyped(self, name: str, want: str) -> MalformedEvidenceError:
        return MalformedEvidenceError(f"{self._where}: {name} must be {want}")
