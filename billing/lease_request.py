"""The lease request: a client's signed order to hold money for a lease. Layout: docs/protocol/receipt.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.payment import PAYMENT_FIELD
from billing.wire import SIGNATURE_SIZE, check_signature, check_size, check_uint

LEASE_REQUEST_TAG = b"chrysalis/1 lease request"
LEASE_HOSTS_MAX = 3
OPEN_TIER = "open"
OPEN_HOSTS_MAX = 6  # of an open lease: one for each result that a unit may need
LEASE_REQUEST_MAX_AGE_S = 60  # a gateway refuses older ones, and future ones beyond the same bound

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_TIER = re.compile(r"[a-z][a-z0-9-]{0,31}")
_Field = TypeVar("_Field", str, int)
_FIELDS = frozenset({"account", "model", "tier", "hosts", "budget", "request_id", "issued_at", "signature"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """What the client asks the gateway to hold money for."""

    operator: bytes  # 32, whose books are meant; not sent, both ends know it
    account: bytes  # 32, Ed25519 public key that pays and signs
    model: str
    tier: str
    hosts: int  # candidates wanted, 1 to LEASE_HOSTS_MAX; of tier open to OPEN_HOSTS_MAX
    budget: Nanotons  # held for the whole lease
    request_id: bytes  # 16, the same again returns the same lease
    issued_at: int  # unix seconds

    def __post_init__(self) -> None:
        check_size("operator", self.operator, 32)
        check_size("account", self.account, 32)
        check_size("request_id", self.request_id, 16)
        check_uint("issued_at", self.issued_at, 63)
        check_nanotons(self.budget, "budget")
        most = OPEN_HOSTS_MAX if self.tier == OPEN_TIER else LEASE_HOSTS_MAX
        if type(self.hosts) is not int or not 1 <= self.hosts <= most:
            raise ValueError(f"hosts must be 1 to {most}, got {self.hosts!r}")
        if not _MODEL.fullmatch(self.model):
            raise ValueError("model must be a name of 1 to 128 letters, digits and ._:/@+-")
        if not _TIER.fullmatch(self.tier):
            raise ValueError("tier must be a name of 1 to 32 lower-case letters, digits and -")


def lease_request_bytes(request: LeaseRequest) -> bytes:
    """Return the bytes that the account signs."""
    model, tier = request.model.encode(), request.tier.encode()
    return b"".join(
        (
            LEASE_REQUEST_TAG,
            request.operator,
            request.account,
            request.request_id,
            request.issued_at.to_bytes(8, "big"),
            request.budget.to_bytes(8, "big"),
            request.hosts.to_bytes(1, "big"),
            len(tier).to_bytes(1, "big") + tier,
            len(model).to_bytes(1, "big") + model,
        )
    )


def sign_lease_request(request: LeaseRequest, key: Ed25519PrivateKey) -> dict[str, str | int]:
    """Return the JSON object of POST /v1/leases."""
    return {
        "account": request.account.hex(),
        "model": request.model,
        "tier": request.tier,
        "hosts": request.hosts,
        "budget": request.budget,
        "request_id": request.request_id.hex(),
        "issued_at": request.issued_at,
        "signature": key.sign(lease_request_bytes(request)).hex(),
    }


def verify_lease_request(body: Mapping[str, object], *, operator: bytes) -> LeaseRequest:
    """Return the request that its account signed for this operator. Age is the caller's to check.

    A payment beside it (`billing.payment`) is no part of it, and the caller's to parse.

    Args:
        body: the parsed JSON object of POST /v1/leases.
        operator: the verifying operator's own Ed25519 public key, 32 bytes.

    Raises:
        MalformedRecordError: a field is missing, unknown or out of range.
        BadSignatureError: the account did not sign this, or signed it for another operator.
    """
    if set(body) - {PAYMENT_FIELD} != _FIELDS:
        odd = ", ".join(sorted(map(str, (set(body) - {PAYMENT_FIELD}) ^ _FIELDS)))
        raise MalformedRecordError("lease request", f"missing or unknown: {odd[:200]}")
    try:
        request = LeaseRequest(
            operator=operator,
            account=_unhex(body, "account", 32),
            model=_typed(body, "model", str),
            tier=_typed(body, "tier", str),
            hosts=_typed(body, "hosts", int),
            budget=Nanotons(_typed(body, "budget", int)),
            request_id=_unhex(body, "request_id", 16),
            issued_at=_typed(body, "issued_at", int),
        )
        signature = _unhex(body, "signature", SIGNATURE_SIZE)
    except ValueError as error:
        raise MalformedRecordError("lease request", str(error)) from error
    check_signature(lease_request_bytes(request), signature, request.account, "lease request")
    return request


def _typed(body: Mapping[str, object], name: str, kind: type[_Field]) -> _Field:
    value = body[name]
    if type(value) is not kind:
        raise ValueError(f"{name} must be {kind.__name__}")
    return value


def _unhex(body: Mapping[str, object], name: str, size: int) -> bytes:
    text = _typed(body, name, str)
    if len(text) != 2 * size or not re.fullmatch(r"[0-9a-f]*", text):
        raise ValueError(f"{name} must be {2 * size} lower-case hex digits")
    return bytes.fromhex(text)
