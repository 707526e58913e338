"""The verdict: a client's signed word on the copies of one unit of work. Layout: docs/protocol/receipt.md.

A unit is one question asked at several open hosts. Its verdict credits the copies that agree and refuses the others;
what the books make of it, `billing.review_book` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.wire import Reader, append_signature, check_signature, check_size, check_uint, split_signed

VERDICT_TAG = b"chrysalis/1 unit verdict"
QUORUM = 2  # payees whose copies have to agree
RESULTS_MAX = 6  # results of one unit, of as many payees: after that it has failed
COPIES_MAX = 8  # that one verdict names, those without a result included
UNIT_SIZE = 16
_HASH = 32
VERDICT_SIZE_MAX = len(VERDICT_TAG) + 32 + 32 + UNIT_SIZE + 8 + 2 + COPIES_MAX * _HASH + 64


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitVerdict:
    """Which copies of a unit are paid for and which are not, by the hashes of their sealed requests."""

    operator: bytes  # 32, whose books are meant
    account: bytes  # 32, Ed25519 public key that asked, pays and signs
    unit: bytes  # 16, chosen by the client; one verdict for each
    issued_at: int  # unix seconds
    credited: tuple[bytes, ...]  # 32 each, in ascending order
    refused: tuple[bytes, ...]  # 32 each, in ascending order

    def __post_init__(self) -> None:
        check_size("operator", self.operator, 32)
        check_size("account", self.account, 32)
        check_size("unit", self.unit, UNIT_SIZE)
        check_uint("issued_at", self.issued_at, 63)
        for copies in (self.credited, self.refused):
            for request_hash in copies:
                check_size("request hash", request_hash, _HASH)
            if any(left >= right for left, right in pairwise(copies)):
                raise ValueError("a verdict names its copies in ascending order, each once")
        if set(self.credited) & set(self.refused):
            raise ValueError("a verdict does not credit and refuse the same copy")
        if not 1 <= len(self.credited) + len(self.refused) <= COPIES_MAX:
            raise ValueError(f"a verdict is about 1 to {COPIES_MAX} copies")

    @property
    def copies(self) -> tuple[bytes, ...]:
        """All that it names."""
        return self.credited + self.refused


def encode_verdict(verdict: UnitVerdict) -> bytes:
    """Return the bytes that are signed."""
    head = (
        VERDICT_TAG,
        verdict.operator,
        verdict.account,
        verdict.unit,
        verdict.issued_at.to_bytes(8, "big"),
    )
    lists = (len(copies).to_bytes(1, "big") + b"".join(copies) for copies in (verdict.credited, verdict.refused))
    return b"".join((*head, *lists))


def sign_verdict(verdict: UnitVerdict, key: Ed25519PrivateKey) -> bytes:
    """Return the verdict with its signature, at most `VERDICT_SIZE_MAX` bytes.

    Raises:
        ValueError: `key` is not the account's.
    """
    if key.public_key().public_bytes_raw() != verdict.account:
        raise ValueError("the signing key is not the account that the verdict names")
    return append_signature(encode_verdict(verdict), key)


def verify_verdict(data: bytes, operator: bytes) -> UnitVerdict:
    """Return the verdict that its account signed for this operator.

    Raises:
        MalformedRecordError: the bytes are not a verdict, or one for another operator.
        BadSignatureError: the account did not sign it.
    """
    body, signature = split_signed(data, "verdict", size_max=VERDICT_SIZE_MAX)
    verdict = parse_verdict_body(body)
    check_signature(body, signature, verdict.account, "verdict")
    if verdict.operator != operator:
        raise MalformedRecordError("verdict", "it is for another operator's books")
    return verdict


def parse_verdict_body(body: bytes) -> UnitVerdict:
    """Return the verdict in `encode_verdict`'s bytes.

    Raises:
        MalformedRecordError: the bytes are not a verdict.
    """
    reader = Reader(body, "verdict")
    reader.expect(VERDICT_TAG)
    operator, account, unit = reader.take(32), reader.take(32), reader.take(UNIT_SIZE)
    issued_at = reader.take_int(8)
    credited = tuple(reader.take(_HASH) for _ in range(reader.take_int(1)))
    refused = tuple(reader.take(_HASH) for _ in range(reader.take_int(1)))
    reader.finish()
    try:
        return UnitVerdict(
            operator=operator, account=account, unit=unit, issued_at=issued_at, credited=credited, refused=refused
        )
    except ValueError as error:
        raise MalformedRecordError("verdict", str(error)) from error
