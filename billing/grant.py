"""The grant: the operator's signed word to hosts that a client's lease is covered. Layout: docs/protocol/receipt.md."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.tariff import Tariff, check_coefficient
from billing.wire import Reader, append_signature, check_signature, check_size, check_uint, split_signed

GRANT_TAG = b"chrysalis/1 grant"
REVIEWED_TAG = b"chrysalis/1 reviewed grant"
GRANT_SIZE_MAX = 1024
GRANT_HOSTS_MAX = 16
ANSWER_GRACE_S = 60  # after `not_after`: a host ends then what it began before

_PRICES = ("prompt_price", "cached_price", "completion_price", "reasoning_price")
_SIZES = {"lease": 16, "account": 32, "operator": 32, "model_root": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSlice:
    """The part of a lease's money that one host may earn."""

    host_id: bytes  # 8
    slice: Nanotons
    coefficient: int  # parts per thousand of the tariff, agreed for this lease

    def __post_init__(self) -> None:
        check_size("host_id", self.host_id, 8)
        check_nanotons(self.slice, "slice")
        check_coefficient(self.coefficient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A lease as its hosts see it. The ledger holds the sum of the slices for it."""

    lease: bytes  # 16
    account: bytes  # 32, the client's Ed25519 key
    operator: bytes  # 32, the Ed25519 key that signs the grant
    model_root: bytes  # 32
    tariff: Tariff
    hosts: tuple[HostSlice, ...]
    not_after: int  # unix seconds; no request starts later, no answer goes on later than ANSWER_GRACE_S after it
    review: bool = False  # open hosts: the ledger keeps what receipts earn until the client's verdict, or REVIEW_S

    def __post_init__(self) -> None:
        for name, size in _SIZES.items():
            check_size(name, getattr(self, name), size)
        check_uint("not_after", self.not_after, 63)
        if not 1 <= len(self.hosts) <= GRANT_HOSTS_MAX:
            raise ValueError(f"a grant names 1 to {GRANT_HOSTS_MAX} hosts, got {len(self.hosts)}")
        if len({host.host_id for host in self.hosts}) != len(self.hosts):
            raise ValueError("a grant names each host once")
        check_nanotons(sum(host.slice for host in self.hosts), "sum of slices")

    @property
    def amount(self) -> Nanotons:
        """The money held for the lease: the sum of its slices."""
        return Nanotons(sum(host.slice for host in self.hosts))

    def host(self, host_id: bytes) -> HostSlice | None:
        """Return the slice of `host_id`, None if the grant does not name that host."""
        return next((host for host in self.hosts if host.host_id == host_id), None)


def encode_grant(grant: Grant) -> bytes:
    """Return the bytes that are signed."""
    head = (
        REVIEWED_TAG if grant.review else GRANT_TAG,
        grant.lease,
        grant.account,
        grant.operator,
        grant.model_root,
        *(getattr(grant.tariff, name).to_bytes(8, "big") for name in _PRICES),
        grant.not_after.to_bytes(8, "big"),
        len(grant.hosts).to_bytes(1, "big"),
    )
    hosts = (host.host_id + host.slice.to_bytes(8, "big") + host.coefficient.to_bytes(4, "big") for host in grant.hosts)
    return b"".join(head) + b"".join(hosts)


def parse_grant_body(body: bytes) -> Grant:
    """Return the grant in `encode_grant`'s bytes.

    Raises:
        MalformedRecordError: the bytes are not a grant.
    """
    reader = Reader(body, "grant")
    review = body.startswith(REVIEWED_TAG)
    reader.expect(REVIEWED_TAG if review else GRANT_TAG)
    fields = {name: reader.take(size) for name, size in _SIZES.items()}
    prices = {name: reader.take_int(8) for name in _PRICES}
    not_after = reader.take_int(8)
    hosts = [(reader.take(8), reader.take_int(8), reader.take_int(4)) for _ in range(reader.take_int(1))]
    reader.finish()
    try:
        return Grant(
            **fields,
            tariff=Tariff(**prices),
            hosts=tuple(HostSlice(host_id=h, slice=Nanotons(s), coefficient=c) for h, s, c in hosts),
            not_after=not_after,
            review=review,
        )
    except ValueError as error:
        raise MalformedRecordError("grant", str(error)) from error


def sign_grant(grant: Grant, key: Ed25519PrivateKey) -> bytes:
    """Return the grant with its signature, at most `GRANT_SIZE_MAX` bytes.

    Raises:
        ValueError: `key` is not the operator's the grant names.
    """
    if key.public_key().public_bytes_raw() != grant.operator:
        raise ValueError("the signing key is not the operator key that the grant names")
    return append_signature(encode_grant(grant), key)


def verify_grant(data: bytes, operator_key: bytes) -> Grant:
    """Return the grant that the operator signed. Expiry is the caller's to check.

    Args:
        data: the signed grant, at most `GRANT_SIZE_MAX` bytes.
        operator_key: Ed25519 public key the reader trusts, 32 bytes.

    Raises:
        MalformedRecordError: the bytes are not a grant.
        BadSignatureError: another key signed, a byte was changed, or the grant names another operator.
    """
    body, signature = split_signed(data, "grant", size_max=GRANT_SIZE_MAX)
    grant = parse_grant_body(body)
    check_signature(body, signature, operator_key, "grant")
    if grant.operator != operator_key:
        raise MalformedRecordError("grant", "names another operator than the one that signed")
    return grant
