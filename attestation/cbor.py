"""The deterministic subset of CBOR (RFC 8949, section 4.2.1) all our documents are written in.

Unsigned integers, byte strings, text, arrays, maps with text keys, true, false and null; shortest
lengths, sorted keys, no tags, no indefinite lengths. One value therefore has exactly one encoding, and
decoding refuses every other: bytes nobody signed cannot hide in a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TypeAlias

from attestation.errors import MalformedEvidenceError

Value: TypeAlias = "int | bytes | str | bool | Sequence[Value] | Mapping[str, Value] | None"

SIZE_MAX = 1 << 20  # bytes; ten times the evidence of an eight-GPU host
DEPTH_MAX = 8
ITEMS_MAX = 1 << 16  # values and keys in one document: a byte can be an item, and an item costs 70 bytes and 1 us
_UINT, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 2, 3, 4, 5, 7
_first = itemgetter(0)
_CONSTANTS: dict[int, bool | None] = {0xF4: False, 0xF5: True, 0xF6: None}
_SIMPLES = {value: bytes([byte]) for byte, value in _CONSTANTS.items()}


def encode(value: Value) -> bytes:
    """Return the one encoding of `value`.

    Raises:
        ValueError: a type or a number the subset does not have.
    """
    parts: list[bytes] = []
    _append(value, parts)
    return b"".join(parts)


def decode(data: bytes, *, size_max: int = SIZE_MAX) -> Value:
    """Return the value whose encoding is exactly `data`.

    Raises:
        MalformedEvidenceError: too large, nested deeper than `DEPTH_MAX`, more than `ITEMS_MAX` items, truncated,
            followed by other bytes, or not the shortest form.
    """
    if len(data) > size_max:
        raise MalformedEvidenceError(f"document of {len(data)} bytes, at most {size_max} are read")
    value, end = _decode(data, 0, DEPTH_MAX, iter(range(ITEMS_MAX)))
    if end != len(data):
        raise MalformedEvidenceError(f"{len(data) - end} bytes follow the document")
    return value


def _append(value: Value, parts: list[bytes]) -> None:
    """Add the encoding of `value`; the order of the tests is that of their frequency."""
    if isinstance(value, bytes):
        parts += (_head(_BYTES, len(value)), value)
    elif isinstance(value, str):
        parts.append(_text(value))
    elif value is None or isinstance(value, bool):
        parts.append(_SIMPLES[value])
    elif isinstance(value, int):
        parts.append(_head(_UINT, value))
    elif isinstance(value, dict | Mapping):  # asking for dict first saves the slow question
        keyed = sorted([(_key(key), item) for key, item in value.items()], key=_first)
        parts.append(_head(_MAP, len(keyed)))
        for key, item in keyed:
            parts.append(key)
            _append(item, parts)
    elif isinstance(value, list | tuple | Sequence):
        parts.append(_head(_ARRAY, len(value)))
        for item in value:
            _append(item, parts)
    else:
        raise ValueError(f"not encodable: {type(value).__name__}")


@lru_cache(maxsize=256)  # the keys of our documents are a few dozen words
def _key(text: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"map key is no text: {type(text).__name__}")  # noqa: TRY004  (as for every other type)
    return _text(text)


def _text(text: str) -> bytes:
    data = text.encode()
    return _head(_TEXT, len(data)) + data


def _head(major: int, number: int) -> bytes:
    if 0 <= number < 24:
        return bytes((major << 5 | number,))
    if 0 < number < 1 << 8:
        return bytes((major << 5 | 24, number))
    if number < 0 or number >= 1 << 64:
        raise ValueError(f"not an unsigned 64-bit number: {number}")
    size = 2 if number < 1 << 16 else 4 if number < 1 << 32 else 8
    return bytes((major << 5 | 23 + size.bit_length(),)) + number.to_bytes(size, "big")


def _decode(data: bytes, at: int, depth: int, items_left: Iterator[int]) -> tuple[Value, int]:
    if depth < 0:
        raise MalformedEvidenceError(f"nested deeper than {DEPTH_MAX}")
    if next(items_left, None) is None:
        raise MalformedEvidenceError(f"more than {ITEMS_MAX} items")
    first = _take(data, at, 1)[0]
    major = first >> 5
    if major == _SIMPLE:
        if first not in _CONSTANTS:
            raise MalformedEvidenceError(f"byte 0x{first:02x} at {at} is no value of the format")
        return _CONSTANTS[first], at + 1
    number, at = _decode_head(data, at)
    if major == _UINT:
        return number, at
    if major == _BYTES:
        return _take(data, at, number), at + number
    if major == _TEXT:
        return _decode_text(_take(data, at, number)), at + number
    if number > len(data) - at:  # each item takes at least one byte: bounds the loops below
        raise MalformedEvidenceError(f"{number} items announced at {at}, only {len(data) - at} bytes left")
    if major == _ARRAY:
        return _decode_array(data, at, number, depth, items_left)
    if major == _MAP:
        return _decode_map(data, at, number, depth, items_left)
    raise MalformedEvidenceError(f"byte 0x{first:02x} at {at} is no value of the format")


def _decode_head(data: bytes, at: int) -> tuple[int, int]:
    """Read the argument of a data item; only its shortest form is taken."""
    info = data[at] & 31
    if info < 24:
        return info, at + 1
    if info > 27:
        raise MalformedEvidenceError(f"indefinite or reserved length at {at}")
    size = 1 << info - 24
    number = int.from_bytes(_take(data, at + 1, size), "big")
    if number < (24 if size == 1 else 1 << 4 * size):
        raise MalformedEvidenceError(f"number at {at} is not in its shortest form")
    return number, at + 1 + size


def _decode_array(data: bytes, at: int, count: int, depth: int, items_left: Iterator[int]) -> tuple[list[Value], int]:
    items: list[Value] = []
    for _ in range(count):
        item, at = _decode(data, at, depth - 1, items_left)
        items.append(item)
    return items, at


def _decode_map(
    data: bytes, at: int, count: int, depth: int, items_left: Iterator[int]
) -> tuple[dict[str, Value], int]:
    items: dict[str, Value] = {}
    previous = b""
    for _ in range(count):
        start = at
        key, at = _decode(data, at, depth - 1, items_left)
        if not isinstance(key, str):
            raise MalformedEvidenceError(f"map key at {start} is not text")
        if data[start:at] <= previous:
            raise MalformedEvidenceError(f"map key {key[:32]!r} is doubled or out of order")
        previous = data[start:at]
        items[key], at = _decode(data, at, depth - 1, items_left)
    return items, at


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedEvidenceError("text is not UTF-8") from error


def _take(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise MalformedEvidenceError(f"truncated: {size} bytes wanted at {at}, {max(0, len(data) - at)} left")
    return data[at : at + size]
