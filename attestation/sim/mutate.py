"""What an attacker could make of somebody's evidence without any key: every document here must be refused.

Evidence is opened down to its certificates, collateral and signed texts, changed in one place, and closed again so
that only the change is wrong. The walk knows no field by name but the three that nest other formats, so fields that
are added to evidence later are covered without a line here.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from random import Random
from typing import Any, TypeAlias

from cryptography import x509

from attestation import cbor
from attestation.certificate import Certificate
from attestation.errors import MalformedEvidenceError
from attestation.tdx_quote import parse_quote
from attestation.x509 import encode_pem, parse_pem

Path: TypeAlias = tuple[str | int, ...]
Tree: TypeAlias = Any  # maps, arrays, certificates, numbers and texts of whatever format
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_EMPTY: tuple[Tree, ...] = (None, True, 0, b"", "", [], {})
_MOMENT = timedelta(seconds=1)
# What a vendor publishes for many hosts: from a sibling of the same vendor it is as good as one's own.
_SHARED = frozenset({"collateral", "crl", "ask", "ark", "rims", "ocsp", "inclusion"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One changed document.

    Attributes:
        kind: sort of change, for counting.
        place: where, for finding it again.
        document: the evidence document, changed.
    """

    kind: str
    place: str
    document: bytes


@dataclass(frozen=True, slots=True)
class _Quote:
    """A TDX quote opened at its certificate chain."""

    head: bytes
    chain: list[bytes]
    tail: bytes


def flip_bits(document: bytes, *, start: int = 0, step: int = 1) -> Iterator[Mutation]:
    """Flip each bit, or every `step`-th from `start` on."""
    for bit in range(start, 8 * len(document), step):
        altered = bytearray(document)
        altered[bit // 8] ^= 1 << bit % 8
        yield Mutation(kind="bit flip", place=f"bit {bit}", document=bytes(altered))


def cut(document: bytes, *, start: int = 0, step: int = 1) -> Iterator[Mutation]:
    """Cut the document at each length, or every `step`-th from `start` on, and once add a byte."""
    for size in range(start, len(document), step):
        yield Mutation(kind="cut", place=f"at {size}", document=document[:size])
    yield Mutation(kind="cut", place="one byte more", document=document + b"\0")


def splice(document: bytes, donors: Sequence[bytes], *, seed: int, count: int) -> Iterator[Mutation]:
    """Put pieces of this and other documents, or noise, into places of its own; `count` times."""
    rng = Random(seed)
    number = 0
    while number < count:
        source = rng.choice([document, *donors])
        at, begin = rng.randrange(len(document)), rng.randrange(len(source))
        size = min(1 << rng.randrange(10), len(document) - at)
        piece = source[begin : begin + size] if rng.random() < 0.7 else rng.randbytes(size)
        end = at + rng.choice((len(piece), 0, size))
        altered = document[:at] + piece + document[end:]
        if altered != document:  # a piece may meet its like
            yield Mutation(kind="splice", place=f"seed {seed} number {number}", document=altered)
            number += 1


def change_fields(
    document: bytes,
    *,
    siblings: Sequence[bytes] = (),
    strangers: Sequence[bytes] = (),
    pool_max: int = 200,
    start: int = 0,
    step: int = 1,
) -> Iterator[Mutation]:
    """Change one field at a time.

    Every value is replaced by each other value of its type that this document or a stranger's holds (at most
    `pool_max` of them, evenly chosen), by its neighbours and by empty ones; certificates are cut as well. Every map and
    array loses, doubles, exchanges and reorders its members. What names a host is taken over from its siblings.

    Args:
        document: evidence that holds.
        siblings: evidence of other hosts under the same vendors.
        strangers: evidence under other vendors.
        pool_max: most values tried in one place.
        start: the first change that is made.
        step: how many further on the next one is.
    """
    tree = open_document(document)
    pools = _pools([tree, *map(open_document, strangers)], pool_max)
    changes = chain(
        ((path, *change) for path, value in walk(tree) for change in _replacements(value, pools)),
        ((path, *change) for path, value in walk(tree) for change in _rearrangements(value)),
        ((path, "part of a sibling", part) for other in siblings for path, part in _own_parts(open_document(other))),
    )
    for path, kind, value in islice(changes, start, None, step):
        yield from _changed(tree, path, kind, value, document)


def validity_edges(document: bytes) -> set[datetime]:
    """Return the times one second outside the validity of each certificate, list and signed text inside."""
    edges: set[datetime] = set()
    for _, value in walk(open_document(document)):
        for start, end in _validity(value):
            edges.add(start - _MOMENT)
            with contextlib.suppress(OverflowError):  # "no end" is the last second there is
                edges.add(end + _MOMENT)
    return edges


def open_document(document: bytes) -> Tree:
    """Return evidence as maps, arrays and values, nested formats opened."""
    return _open(cbor.decode(document))


def close_document(tree: Tree) -> bytes:
    """Return the document of a tree; ValueError when it cannot be written at all."""
    return cbor.encode(_close(tree))


def walk(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Tree]]:
    """Visit every value of a tree, containers too, with its path."""
    yield path, tree
    for key, value in _members(tree):
        yield from walk(value, (*path, key))


def _members(tree: Tree) -> Sequence[tuple[str | int, Tree]]:
    match tree:
        case dict():
            return list(tree.items())
        case list():
            return list(enumerate(tree))
        case _Quote():
            return list(enumerate(tree.chain))
    return ()


def _open(value: Tree) -> Tree:
    match value:
        case dict():
            return {key: _open(item) for key, item in value.items()}
        case list():
            return [_open(item) for item in value]
        case bytes() if _BEGIN in value:
            return _open_quote(value)
        case str() if value.startswith("{"):
            return _Text(_open(json.loads(value)))
        case str() if value.startswith(_BEGIN.decode()):
            return _Chain(parse_pem(value, count=value.count(_BEGIN.decode())))
    return value


class _Text(dict[str, Tree]):
    """A map that stands in its document as JSON text."""


class _Chain(list[bytes]):
    """Certificates that stand in their document as PEM text."""


def _open_quote(value: bytes) -> Tree:
    try:
        certificates = parse_quote(value).chain
    except MalformedEvidenceError:
        return value
    head, _, _ = value.partition(_BEGIN)
    return _Quote(head, list(certificates), value[len(head) + len(encode_pem(certificates)) :])


def _close(tree: Tree) -> Tree:
    match tree:
        case _Text():
            sort = "tcb_info" in tree  # our own object has sorted keys; the texts inside are as the vendor wrote them
            return json.dumps({key: _close(item) for key, item in tree.items()}, separators=(",", ":"), sort_keys=sort)
        case _Chain():
            return encode_pem(tree)
        case dict():
            return {key: _close(item) for key, item in tree.items()}
        case list():
            return [_close(item) for item in tree]
        case _Quote():
            return _close_quote(tree)
    return tree


def _close_quote(quote: _Quote) -> bytes:
    """Write the chain back and put its length into the three places that name it."""
    text = encode_pem(quote.chain).encode() + quote.tail
    head = bytearray(quote.head)
    body = 48 + 584 if head[0] == 4 else 54 + int.from_bytes(head[50:54], "little")
    struct.pack_into("<I", head, len(head) - 4, len(text))
    struct.pack_into("<I", head, body + 4 + 130, len(head) - body - 4 - 134 + len(text))
    struct.pack_into("<I", head, body, len(head) - body - 4 + len(text))
    return bytes(head) + text


def _pools(trees: Sequence[Tree], most: int) -> dict[type, list[Tree]]:
    pools: dict[type, list[Tree]] = {}
    for tree in trees:
        for _, value in walk(tree):
            kind = type(value)
            if not isinstance(value, dict | list | _Quote) and value not in pools.setdefault(kind, []):
                pools[kind].append(value)
    return {kind: values[:: max(1, -(-len(values) // most))] for kind, values in pools.items()}


def _replacements(value: Tree, pools: Mapping[type, Sequence[Tree]]) -> Iterator[tuple[str, Tree]]:
    """Other values for one place: of its type, next to it, empty, and of other types."""
    kind = "certificate exchanged" if is_certificate(value) else "value exchanged"
    for other in pools.get(type(value), ()):
        yield kind, other
    for empty in _EMPTY:
        yield "value emptied", empty
    match value:
        case int():
            for number in (value + 1, max(0, value - 1), (1 << 64) - 1):
                yield "value next to it", number
        case str():
            for text in (value + " ", value.upper(), value.lower(), value[:-1], value * 2):
                yield "value next to it", text
        case bytes():
            for blob in (value + b"\0", value[:-1], value[1:], value[::-1], bytes(len(value)), value * 2):
                yield "value next to it", blob
            if is_certificate(value):
                yield from (("certificate cut", value[:size]) for size in range(0, len(value), 16))


def _rearrangements(value: Tree) -> Iterator[tuple[str, Tree]]:
    """Every way one member of a container is lost, doubled, exchanged or moved."""
    match value:
        case dict():
            for key in value:
                yield "member lost", type(value)({k: v for k, v in value.items() if k != key})
            yield "member added", type(value)({**value, "zz": 0})
            for first in value:
                for second in value:
                    if first < second:
                        yield "members exchanged", type(value)({**value, first: value[second], second: value[first]})
        case list():
            yield from _reordered(value, type(value))
        case _Quote():
            yield from _reordered(value.chain, lambda items: _Quote(value.head, list(items), value.tail))
            yield "member added", _Quote(value.head, value.chain, value.tail + b"\0")


def _reordered(items: Sequence[Tree], build: Callable[[Sequence[Tree]], Tree]) -> Iterator[tuple[str, Tree]]:
    for index, item in enumerate(items):
        yield "member lost", build([*items[:index], *items[index + 1 :]])
        yield "member doubled", build([*items[:index], item, *items[index:]])
        for other in range(index):
            moved = list(items)
            moved[index], moved[other] = moved[other], moved[index]
            yield "members exchanged", build(moved)
    yield "members reversed", build(items[::-1])


def _own_parts(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """The parts of a sibling's evidence that are its own."""
    for path, value in walk(tree):
        if 0 < len(path) <= 3 and not _SHARED & set(path):
            yield path, value


def _changed(tree: Tree, path: Path, kind: str, other: Tree, document: bytes) -> Iterator[Mutation]:
    """The document with another value at `path`, if that is another document at all."""
    try:
        altered = close_document(_with(tree, path, other))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error):
        return  # no document can say this, or this document has no such place
    if altered != document:
        yield Mutation(kind=kind, place="/".join(map(str, path)), document=altered)


def _with(tree: Tree, path: Path, value: Tree) -> Tree:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(tree, _Quote):
        certificates = list(tree.chain)
        certificates[int(key)] = _with(tree.chain[int(key)], rest, value)
        return _Quote(tree.head, certificates, tree.tail)
    copy = type(tree)(tree)
    copy[key] = _with(tree[key], rest, value)
    return copy


def is_certificate(value: Tree) -> bool:
    """Say whether a value of a tree looks like a certificate or revocation list in DER."""
    return isinstance(value, bytes) and value[:2] in (b"\x30\x82", b"\x30\x81")


def _validity(value: Tree) -> Iterator[tuple[datetime, datetime]]:
    if isinstance(value, _Text) and "nextUpdate" in value:
        yield datetime.fromisoformat(value["issueDate"]), datetime.fromisoformat(value["nextUpdate"])
    data = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, binascii.Error):
            data = bytes.fromhex(value)
    if not is_certificate(data):
        return
    with contextlib.suppress(MalformedEvidenceError):
        certificate = Certificate.parse(data)
        yield certificate.not_before, certificate.not_after
    with contextlib.suppress(ValueError):
        crl = x509.load_der_x509_crl(data)
        yield crl.last_update_utc, (crl.next_update_utc or datetime.max.replace(tzinfo=UTC))
