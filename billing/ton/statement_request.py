"""The statement request: whoever has the key of an account or of a payee's wallet asks for what the books say of it.

Layout: docs/protocol/receipt.md. A payee is a TON address; its statement is given to the key whose wallet (V5, as
`chrysalis wallet` makes it) lives there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.statement import Party, Role
from billing.ton.cells import payee_of
from billing.ton.wallet import Wallet
from billing.wire import SIGNATURE_SIZE, check_signature, check_size, check_uint

STATEMENT_REQUEST_TAG = b"chrysalis/1 statement request"
_ROLES = {Role.CLIENT: 1, Role.PAYEE: 2}
_FIELDS = frozenset({"role", "key", "start", "end", "issued_at", "signature"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRequest:
    """What a client or a host's owner asks the gateway for."""

    operator: bytes  # 32, whose books are meant; not sent, both ends know it
    role: Role  # client or payee
    key: bytes  # 32, Ed25519: the account, or the key of the payee's wallet; it signs
    start: int  # unix seconds, the first that counts
    end: int  # unix seconds, the first that does not count any more
    issued_at: int  # unix seconds

    def __post_init__(self) -> None:
        check_size("operator", self.operator, 32)
        check_size("key", self.key, 32)
        for name in ("start", "end", "issued_at"):
            check_uint(name, getattr(self, name), 63)
        if self.role not in _ROLES:
            raise ValueError("role must be client or payee")
        if self.end < self.start:
            raise ValueError("the period ends before it begins")

    def party(self, network_id: int) -> Party:
        """Whose statement the key may see, on the network of this global id."""
        if self.role is Role.CLIENT:
            return Party(Role.CLIENT, self.key)
        return Party(Role.PAYEE, payee_of(Wallet(public_key=self.key, network_id=network_id).address))


def statement_request_bytes(request: StatementRequest) -> bytes:
    """Return the bytes that the key signs."""
    times = (request.start, request.end, request.issued_at)
    return b"".join(
        (
            STATEMENT_REQUEST_TAG,
            request.operator,
            _ROLES[request.role].to_bytes(1, "big"),
            request.key,
            *(time.to_bytes(8, "big") for time in times),
        )
    )


def sign_statement_request(request: StatementRequest, key: Ed25519PrivateKey) -> dict[str, str | int]:
    """Return the JSON object of POST /v1/statements."""
    return {
        "role": request.role.value,
        "key": request.key.hex(),
        "start": request.start,
        "end": request.end,
        "issued_at": request.issued_at,
        "signature": key.sign(statement_request_bytes(request)).hex(),
    }


def verify_statement_request(body: Mapping[str, object], *, operator: bytes) -> StatementRequest:
    """Return the request that its key signed for this operator. Age is the caller's to check.

    Args:
        body: the parsed JSON object of POST /v1/statements.
        operator: the verifying operator's own Ed25519 public key, 32 bytes.

    Raises:
        MalformedRecordError: a field is missing, unknown or out of range.
        BadSignatureError: the key did not sign this, or signed it for another operator.
    """
    if set(body) != _FIELDS:
        raise MalformedRecordError("statement request", f"exactly {', '.join(sorted(_FIELDS))} are expected")
    try:
        request = StatementRequest(
            operator=operator,
            role=Role(body["role"]),  # type: ignore[arg-type]  # refused below
            key=_unhex(body["key"], "key", 32),
            start=body["start"],  # type: ignore[arg-type]  # checked by the class, as those below
            end=body["end"],  # type: ignore[arg-type]
            issued_at=body["issued_at"],  # type: ignore[arg-type]
        )
        signature = _unhex(body["signature"], "signature", SIGNATURE_SIZE)
    except (ValueError, TypeError) as error:
        raise MalformedRecordError("statement request", str(error)[:200]) from error
    check_signature(statement_request_bytes(request), signature, request.key, "statement request")
    return request


def _unhex(text: object, name: str, size: int) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise ValueError(f"{name} must be {2 * size} lower-case hex digits")
    return bytes.fromhex(text)
