"""A statement on the wire: JSON lines, with the signed receipts behind it. Layout: docs/protocol/receipt.md.

The first line says whose and when, the last one how much there must be, so that a stream that breaks is no statement.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from billing.entries import EntryKind
from billing.errors import MalformedRecordError
from billing.receipt import RECEIPT_SIZE_MAX, parse_receipt
from billing.statement import Movement, Party, Role, Statement
from billing.wire import check_uint

VERSION = 1
MOVEMENTS_MAX = 100_000  # of one answer; a longer statement is asked for in shorter periods
LINE_SIZE_MAX = 2048
LINES_SIZE_MAX = 128 << 20  # a reader takes no more
_HEAD = {"chrysalis_statement", "role", "name", "start", "end", "opening"}
_MOVEMENT = {"at", "kind", "reference", "amount"}
_PRICED = frozenset(
    {EntryKind.REVIEW, EntryKind.REFUSAL}
)  # their line says what they are about, the receipt is elsewhere
_TAIL = {"movements", "closing", "aside"}
_REFERENCE_MAX = 256


def encode_statement(statement: Statement) -> Iterator[bytes]:
    """Yield the statement's lines, each with its line end."""
    party = statement.party
    head = {"chrysalis_statement": VERSION, "role": party.role.value, "name": party.name.hex()}
    yield _line(head | {"start": statement.start, "end": statement.end, "opening": statement.opening})
    for movement in statement.movements:
        fields = {name: getattr(movement, name) for name in ("at", "reference", "amount")}
        signed = {"receipt": base64.b64encode(movement.signed).decode()} if movement.signed else {}
        price = {"price": movement.price} if movement.kind in _PRICED else {}
        yield _line(fields | {"kind": movement.kind.value} | signed | price)
    yield _line({"movements": len(statement.movements), "closing": statement.closing, "aside": statement.aside})


def parse_statement(data: bytes) -> Statement:
    """Return the statement in `encode_statement`'s bytes; receipts in it are parsed, and not verified.

    Raises:
        MalformedRecordError: it is none, or its end is missing.
    """
    lines = data.split(b"\n")
    if len(lines) < 3 or lines[-1]:
        raise MalformedRecordError("statement", "it ends before its last line: fetch it again")
    try:
        head, *middle, tail = (_object(line) for line in lines[:-1])
        return _assemble(head, middle, tail)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MalformedRecordError("statement", str(error)[:200]) from error


def _assemble(head: dict[str, Any], middle: list[dict[str, Any]], tail: dict[str, Any]) -> Statement:
    if set(head) != _HEAD or head["chrysalis_statement"] != VERSION or set(tail) != _TAIL:
        raise ValueError("it does not begin or end as one: another version made it, or it was cut")
    statement = Statement(
        party=Party(Role(head["role"]), bytes.fromhex(head["name"])),
        start=_time(head["start"]),
        end=_time(head["end"]),
        opening=_int(head["opening"]),
        movements=tuple(map(_movement, middle)),
        aside=_int(tail["aside"]),
    )
    if (len(statement.movements), statement.closing) != (tail["movements"], tail["closing"]):
        raise ValueError("its movements do not lead to its closing balance")
    return statement


def _movement(fields: dict[str, Any]) -> Movement:
    if not _MOVEMENT <= set(fields) <= _MOVEMENT | {"receipt", "price"}:
        raise ValueError("a movement has other fields than it should")
    kind, reference = EntryKind(fields["kind"]), fields["reference"]
    if not isinstance(reference, str) or len(reference) > _REFERENCE_MAX or not reference.isprintable():
        raise ValueError("a movement's reference is not a short text")
    values: dict[str, Any] = {"at": _time(fields["at"]), "kind": kind, "reference": reference}
    values["amount"] = _int(fields["amount"])
    if (kind is EntryKind.RECEIPT) != ("receipt" in fields):
        raise ValueError("receipts, and only those, carry what the host signed")
    if (kind in _PRICED) != ("price" in fields):
        raise ValueError("reviews and refusals, and only those, say a price")
    if kind in _PRICED:
        values["price"] = _int(fields["price"])
        if values["price"] < 0:
            raise ValueError("a price is negative")
    if kind is EntryKind.RECEIPT:
        signed = base64.b64decode(fields["receipt"], validate=True)
        if len(signed) > RECEIPT_SIZE_MAX:
            raise ValueError("a receipt is too large")
        receipt = parse_receipt(signed)
        values |= {"price": receipt.price, "usage": receipt.usage, "signed": signed}
    return Movement(**values)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_SIZE_MAX:
        raise ValueError("a line is too long")
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("a line is no JSON object")  # noqa: TRY004  malformed like everything else here
    return value


def _int(value: object) -> int:
    if type(value) is not int or value.bit_length() > 63:
        raise ValueError("an amount is no whole number of nanotons")
    return value


def _time(value: object) -> int:
    check_uint("a time", value, 63)  # type: ignore[arg-type]  # that is what it checks
    return int(value)  # type: ignore[call-overload, no-any-return]
