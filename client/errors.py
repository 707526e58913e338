"""What the client side refuses, or could not get; each error knows its answer in the OpenAI API.

ClientError
├── ConfigError                 a setting is missing, unknown or unsafe
├── WalletError                 the key file cannot be used
├── BadRequestError             the caller's request is not one
│   ├── UnknownModelError       the registry lists no such model
│   └── IdempotencyError        the Idempotency-Key was used for another body
├── RegistryUnavailableError    no current, proved registry
├── OperatorChoiceError         the settings mean no operator of the registry, or several, or one that takes no leases
├── GatewayError                the gateway gave no usable answer
│   ├── LeaseRefusedError       asked, and no (funds, model, signature)
│   └── LeaseMismatchError      the lease is not what was asked for, or contradicts the registry
├── ChannelUnusableError        the payment channel is not open, used up, or being closed
├── BillRefusedError            the operator asks for a voucher that receipts and leases do not justify
├── NoHostError                 no host of the lease passed verification and takes work
│   └── NotEnoughOwnersError    open hosts of too few owners for copies of one unit
├── NoQuorumError               the copies of a unit do not agree
├── NotAnsweredAgainError       a request whose outcome is unknown was sent again, and no host answers it
├── BatchError                  a batch cannot begin or go on; something has to be changed first
│   ├── BatchInputError         a line of the input is not one of a batch
│   ├── BatchOutputError        the output, or its journal, belongs to something else
│   └── BatchStoppedError       the batch stops with lines left; started again, it goes on
├── HostRefusedError            a host (or the relay) refused the request before reading it
├── AnswerError                 the answer cannot be used
│   ├── WorkerLostError         it ended before its authenticated end
│   ├── TamperedAnswerError     it does not open with the keys of the request
│   └── ReceiptInvalidError     its receipt is not the one this answer must carry
└── SealedRefusalError          the enclave refused the request after reading it, in its sealed answer
"""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """The request has no answer; `status`, `code` and `kind` are what the caller of the API sees."""

    status = 500
    code = "internal_error"
    kind = "server_error"
    param: str | None = None
    should_retry = False
    retry_after_ms: int | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class ConfigError(ClientError):
    """A setting is missing, unknown or unsafe."""


class WalletError(ClientError):
    """The key file cannot be used."""


class BadRequestError(ClientError):
    """The caller's request is not one this API takes."""

    status = 400
    kind = "invalid_request_error"

    def __init__(
        self, message: str, code: str = "invalid_request", param: str | None = None, status: int = 400
    ) -> None:
        Exception.__init__(self, message, code, param, status)
        self.message, self.code, self.param, self.status = message, code, param, status


class UnknownModelError(BadRequestError):
    """The registry lists no such model."""

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        offers = f"ask for one of {', '.join(known)}" if known else "the registry lists no model at all"
        super().__init__(f"the model {model!r} does not exist: {offers}", "model_not_found", "model", 404)
        self.args = (model, known)


class IdempotencyError(BadRequestError):
    """The Idempotency-Key was used for another body."""

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used for another request body: use a new key", "idempotency_key_reused", None, 422
        )
        self.args = ()


class RegistryUnavailableError(ClientError):
    """There is no current, proved registry to decide by."""

    status = 503
    code = "registry_unavailable"
    should_retry = True
    retry_after_ms = 2_000


class OperatorChoiceError(ClientError):
    """The settings mean no operator of the registry, or several, or one that takes no leases."""

    status = 503
    code = "operator_unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} (`operator` in the settings)")
        self.args = (why,)


class GatewayError(ClientError):
    """The gateway gave no usable answer."""

    status = 502
    code = "gateway_unavailable"
    should_retry = True
    retry_after_ms: int | None = 1_000


class LeaseRefusedError(GatewayError):
    """The gateway was asked for a lease, and said no."""

    def __init__(self, status: int, code: str, message: str, voucher_total: int | None = None) -> None:
        super().__init__(message)
        self.args = (status, code, message, voucher_total)
        self.status, self.code, self.voucher_total = status, code, voucher_total  # the voucher that would be enough
        self.kind = "invalid_request_error" if status < 500 else "server_error"
        self.should_retry = status in {429, 503}
        self.retry_after_ms = 1_000 if self.should_retry else None


class LeaseMismatchError(GatewayError):
    """The gateway's lease is not what was asked for, or contradicts the registry."""

    code = "lease_mismatch"
    should_retry = False
    retry_after_ms = None


class ChannelUnusableError(ClientError):
    """The payment channel cannot pay: not open, used up, or being closed. Nothing was signed."""

    status = 402
    code = "channel_unusable"
    kind = "insufficient_quota"


class BillRefusedError(ClientError):
    """The operator asks for a voucher that receipts, leases and the advance do not justify. It was not signed."""

    status = 402
    code = "bill_refused"
    kind = "insufficient_quota"

    def __init__(self, asked: int, payable: int) -> None:
        super().__init__(
            f"the operator asks for a voucher of {asked} nanoton in all, receipts, leases and advance come to "
            f"{payable}: wait until running leases have ended, compare the bills, or raise channel.advance"
        )
        self.args = (asked, payable)
        self.asked, self.payable = asked, payable


class NoHostError(ClientError):
    """No host of the lease passed verification and takes work; `reasons` says why each did not."""

    status = 503
    code = "no_host"
    should_retry = True
    retry_after_ms = 1_000

    def __init__(self, model: str, reasons: Mapping[str, str]) -> None:
        listed = "; ".join(f"{host}: {why}" for host, why in sorted(reasons.items())) or "the lease names none"
        super().__init__(f"no host can take a request for {model} ({listed})")
        self.args = (model, dict(reasons))
        self.reasons = dict(reasons)


class NotEnoughOwnersError(NoHostError):
    """Open hosts of too few owners serve the model: copies of one unit go to different ones."""

    code = "not_enough_owners"

    def __init__(self, model: str, owners: int, needed: int) -> None:
        Exception.__init__(self, model, owners, needed)
        self.message = (
            f"open hosts of {owners} owners can be asked about {model} now, {needed} are needed: copies of one line go "
            "to different owners; start again later, or leave --tier out for attested hosts"
        )
        self.reasons = {}


class NoQuorumError(ClientError):
    """The copies of a unit do not agree, or there is nobody left to ask."""

    status = 502
    code = "no_quorum"
    should_retry = True  # more owners may come
    retry_after_ms = 1_000

    def __init__(self, results: int) -> None:
        super().__init__(
            f"open hosts of {results} owners gave results, and no two agree more than others: ask at temperature 0, "
            "loosen --tolerance, or leave --tier out for attested hosts"
        )
        self.args = (results,)


class NotAnsweredAgainError(ClientError):
    """A request whose outcome is unknown was sent again, the same bytes, and no host of its lease answers it."""

    status = 502
    code = "not_answered_again"

    def __init__(self, reasons: Mapping[str, str], should_retry: bool) -> None:
        listed = "; ".join(f"{host}: {why}" for host, why in sorted(reasons.items())) or "its lease is over"
        super().__init__(f"no host answers the request again ({listed}): ask anew, it may have been paid for")
        self.args = (dict(reasons), should_retry)
        self.should_retry = should_retry


class BatchError(ClientError):
    """A batch cannot begin or go on; the text says what to change first."""

    status = 400
    code = "batch_refused"
    kind = "invalid_request_error"


class BatchInputError(BatchError):
    """A line of the input is not one of a batch; `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.args = (line, why)
        self.line, self.why = line, why


class BatchOutputError(BatchError):
    """The output or its journal belongs to something else, or cannot be written."""


class BatchStoppedError(BatchError):
    """The batch stops with lines left; started again, it goes on with them."""

    code = "batch_stopped"


class HostRefusedError(ClientError):
    """A host, or the relay before it, refused the request without reading its body."""

    def __init__(self, host: str, status: int, code: str) -> None:
        super().__init__(f"host {host} refused the request: {status} {code}")
        self.args = (host, status, code)
        self.host, self.status, self.code = host, status, code
        self.kind = "invalid_request_error" if status < 500 else "server_error"
        self.should_retry = status in {429, 503}
        self.retry_after_ms = 500 if self.should_retry else None


class AnswerError(ClientError):
    """The answer, or what came of it, cannot be used."""

    status = 502

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"{self.prefix()} (host {host}): {why}")
        self.args = (host, why)
        self.host, self.why = host, why

    @classmethod
    def prefix(cls) -> str:
        """Begin the sentence."""
        return "the answer cannot be used"


class WorkerLostError(AnswerError):
    """The answer ended before its authenticated end."""

    code = "worker_lost"

    @classmethod
    def prefix(cls) -> str:
        """Begin the sentence."""
        return "the host was lost before the end of its answer"


class TamperedAnswerError(AnswerError):
    """The answer does not open with the keys of the request: it was altered, or is another host's."""

    code = "answer_tampered"


class ReceiptInvalidError(AnswerError):
    """The receipt is not the one this answer must carry: the host is avoided from now on."""

    code = "receipt_invalid"

    @classmethod
    def prefix(cls) -> str:
        """Begin the sentence."""
        return "the receipt of the answer does not hold"


class SealedRefusalError(ClientError):
    """The enclave read the request and refused it; this is its own word, authenticated."""

    def __init__(self, status: int, code: str, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.args = (status, code, kind, message, param)
        self.status, self.code, self.kind, self.param = status, code, kind, param
        self.should_retry = status in {429, 503}
        self.retry_after_ms = 500 if self.should_retry else None
