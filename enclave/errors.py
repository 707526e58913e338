"""How the enclave says no: every refusal has an HTTP status, a code, and a sentence saying what to do.

RequestError           a request is refused; nothing is charged
├── BadRequestError    400, the request itself is wrong
├── UnauthorizedError  401, grant or signature does not hold
├── CreditError        402, the lease does not pay for it
├── ForbiddenError     403, this host must not do it
├── NotFoundError      404, this host does not have it
├── ReplayedError      409, received before
├── TooLargeError      413
├── BusyError          429, try again soon or try another host
└── UnavailableError   503, no engine to answer
StartError             the enclave cannot start: settings or machine; says what to change
"""

import json
from typing import ClassVar

from attestation.errors import (
    AccountSignatureError,
    EnvelopeAuthenticationError,
    EnvelopeError,
    EnvelopeExpiredError,
    LeaseUnknownError,
    MalformedEnvelopeError,
    NotRecipientError,
    ReplayError,
    SessionLimitError,
    SessionUnknownError,
)

JSON = "application/json"
RETRY_MS = 250


class RequestError(Exception):
    """A request is refused. The message never quotes the request's content."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message, code, param)
        self.message, self.code, self.param = message, code, param

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, object]:
        """The OpenAI error shape."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encode(self) -> bytes:
        """The body of a plain HTTP answer."""
        return json.dumps(self.body()).encode()

    def encode_sealed(self) -> bytes:
        """The payload of a sealed error frame: the same with the status inside."""
        return json.dumps({"status": self.status, **self.body()}).encode()

    def headers(self) -> dict[str, str]:
        """What tells an OpenAI client whether to try again."""
        return {"x-should-retry": "false"}


class BadRequestError(RequestError):
    """The request itself is wrong."""

    status = 400
    kind = "invalid_request_error"


class UnauthorizedError(RequestError):
    """The grant or a signature does not hold."""

    status = 401
    kind = "authentication_error"


class CreditError(RequestError):
    """The lease does not pay for this request."""

    status = 402
    kind = "insufficient_credit"


class ForbiddenError(RequestError):
    """This host must not do what was asked; asking again gives the same answer."""

    status = 403
    kind = "invalid_request_error"


class NotFoundError(RequestError):
    """This host does not have what was asked for."""

    status = 404
    kind = "invalid_request_error"


class ReplayedError(RequestError):
    """The request was received before."""

    status = 409
    kind = "invalid_request_error"


class TooLargeError(RequestError):
    """More bytes than the host reads."""

    status = 413
    kind = "invalid_request_error"


class BusyError(RequestError):
    """The host has as many requests as it takes."""

    status = 429
    kind = "rate_limit_error"

    def headers(self) -> dict[str, str]:
        """Says when to try again."""
        return {"retry-after-ms": str(RETRY_MS)}


class UnavailableError(RequestError):
    """There is no engine to answer."""

    status = 503

    def headers(self) -> dict[str, str]:
        """Says when to try again."""
        return {"retry-after-ms": str(RETRY_MS)}


class StartError(Exception):
    """The enclave cannot start; the message says what to change."""


_ENVELOPE: tuple[tuple[type[EnvelopeError], type[RequestError], str], ...] = (
    (MalformedEnvelopeError, BadRequestError, "malformed_envelope"),
    (NotRecipientError, NotFoundError, "not_a_recipient"),
    (EnvelopeAuthenticationError, BadRequestError, "envelope_refused"),
    (AccountSignatureError, UnauthorizedError, "bad_account_signature"),
    (EnvelopeExpiredError, CreditError, "lease_expired"),
    (LeaseUnknownError, UnauthorizedError, "unknown_lease"),
    (SessionUnknownError, UnauthorizedError, "unknown_session"),
    (ReplayError, ReplayedError, "replayed_request"),
    (SessionLimitError, BusyError, "session_limit"),
)


def refusal_of(error: EnvelopeError) -> RequestError:
    """The HTTP refusal of an envelope that did not open."""
    for kind, refusal, code in _ENVELOPE:
        if isinstance(error, kind):
            return refusal(str(error), code)
    return BadRequestError(str(error), "envelope_refused")
