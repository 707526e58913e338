"""Tickets: what the gateway signs so that the relay lets one account through to one host until a lease ends.

A ticket is a JWT (RFC 7519) signed with HMAC-SHA256. HAProxy checks it, so it has the one form HAProxy is told to take:
algorithm HS256 and the claims `host`, `account`, `lease` (hex) and `exp` (unix seconds). It protects the operator's
relay from strangers; prompts and money do not depend on it.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import RefusedError

KEY_SIZE = 32
HEADER = {"alg": "HS256", "typ": "JWT"}
TICKET_SIZE_MAX = 1024
CLAIM_SIZES = {"host": 8, "account": 32, "lease": 16}  # bytes; written as hex


class TicketError(RefusedError):
    """This ticket opens nothing: altered, expired, or not a ticket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A checked ticket: `account` (32 bytes) may reach `host_id` (8 bytes) under `lease` (16 bytes) until `expires`."""

    host_id: bytes
    account: bytes
    lease: bytes
    expires: int  # unix seconds


def make_ticket(key: bytes, *, host_id: bytes, account: bytes, lease: bytes, expires: int) -> str:
    """Sign a ticket with the operator's 32-byte ticket key."""
    values = {"host": host_id, "account": account, "lease": lease}
    for name, value in values.items():
        if len(value) != CLAIM_SIZES[name]:
            raise ValueError(f"{name} must be {CLAIM_SIZES[name]} bytes, not {len(value)}")
    claims: dict[str, str | int] = {name: value.hex() for name, value in values.items()}
    signed = f"{_encode(HEADER)}.{_encode({**claims, 'exp': expires})}"
    return f"{signed}.{_base64(_signature(key, signed))}"


def check_ticket(key: bytes, ticket: str, *, now: int) -> Ticket:
    """The ticket's content, if `key` signed it and it has not expired; raises `TicketError`. `now` is unix seconds."""
    if len(ticket) > TICKET_SIZE_MAX or ticket.count(".") != 2:
        raise TicketError("this is not a ticket")
    signed, _, signature = ticket.rpartition(".")
    if not hmac.compare_digest(_signature(key, signed), _decode(signature)):
        raise TicketError("the ticket was not signed by this operator")
    header, claims = (_parse(part) for part in signed.split("."))
    if header != HEADER:
        raise TicketError(f"a ticket has the header {HEADER}")
    checked = _claims(claims)
    if checked.expires <= now:
        raise TicketError("the ticket has expired: take a new lease")
    return checked


def relay_secret(key: bytes) -> str:
    """The HMAC secret as text, because HAProxy takes it from a line of text."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"a ticket key has {KEY_SIZE} bytes, not {len(key)}")
    return key.hex()


def _claims(claims: Mapping[str, object]) -> Ticket:
    if set(claims) != {*CLAIM_SIZES, "exp"}:
        raise TicketError(f"a ticket has the claims {', '.join(CLAIM_SIZES)} and exp")
    values = {}
    for name, size in CLAIM_SIZES.items():
        try:
            values[name] = bytes.fromhex(str(claims[name]))
        except ValueError:
            raise TicketError(f"the ticket's {name} is not hex") from None
        if len(values[name]) != size:
            raise TicketError(f"the ticket's {name} must be {size} bytes")
    expires = claims["exp"]
    if not isinstance(expires, int) or isinstance(expires, bool):
        raise TicketError("the ticket's exp is not a whole number")
    return Ticket(host_id=values["host"], account=values["account"], lease=values["lease"], expires=expires)


def _signature(key: bytes, signed: str) -> bytes:
    return hmac.digest(relay_secret(key).encode(), signed.encode(), "sha256")


def _encode(value: Mapping[str, object]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TicketError("the ticket is not base64url") from None


def _parse(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(_decode(text))
    except ValueError:
        raise TicketError("the ticket does not hold JSON") from None
    if not isinstance(value, dict):
        raise TicketError("the ticket does not hold a JSON object")
    return value
