"""Refusals of the operator's HTTP interface: status, OpenAI's error shape, and the codes of docs/PROTOCOL.md."""

from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from billing.errors import (
    BadSignatureError,
    BillingError,
    ChainError,
    ChannelError,
    InsufficientFundsError,
    JournalError,
    MalformedRecordError,
    NoStatementError,
    NothingToClaimError,
    SettlementError,
    StatementTooLongError,
    UnknownReviewError,
    VerdictConflictError,
    VerdictLateError,
    VerdictRefusedError,
    VoucherNeededError,
    WrongContractError,
)
from cluster.errors import (
    LeaseRequestError,
    NoEligibleHostError,
    OperatorClosedError,
    ReceiptRefusedError,
    StaleRequestError,
    TooManyVerdictsError,
    TroubleError,
    UnknownModelError,
)

__all__ = ["HTTP_CODES", "REFUSALS", "Refusal", "answer_http_error", "answer_refusal"]

RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How one kind of error is answered."""

    status: int
    kind: str
    code: str


REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (  # the first that fits counts
    (MalformedRecordError, Refusal(status=400, kind="invalid_request_error", code="malformed_request")),
    (BadSignatureError, Refusal(status=401, kind="authentication_error", code="invalid_signature")),
    (StaleRequestError, Refusal(status=401, kind="authentication_error", code="stale_request")),
    (LeaseRequestError, Refusal(status=400, kind="invalid_request_error", code="invalid_lease_request")),
    (UnknownModelError, Refusal(status=404, kind="invalid_request_error", code="model_not_found")),
    (InsufficientFundsError, Refusal(status=402, kind="insufficient_quota", code="insufficient_funds")),
    (VoucherNeededError, Refusal(status=402, kind="insufficient_quota", code="voucher_needed")),
    (ChannelError, Refusal(status=402, kind="insufficient_quota", code="voucher_refused")),
    (WrongContractError, Refusal(status=402, kind="insufficient_quota", code="voucher_refused")),
    (NothingToClaimError, Refusal(status=404, kind="invalid_request_error", code="nothing_to_claim")),
    (NoStatementError, Refusal(status=404, kind="invalid_request_error", code="nothing_booked")),
    (StatementTooLongError, Refusal(status=413, kind="invalid_request_error", code="statement_too_long")),
    (JournalError, Refusal(status=503, kind="service_unavailable", code="try_again")),
    (SettlementError, Refusal(status=409, kind="invalid_request_error", code="claim_refused")),
    (OperatorClosedError, Refusal(status=403, kind="invalid_request_error", code="operator_closed")),
    (NoEligibleHostError, Refusal(status=503, kind="service_unavailable", code="no_eligible_host")),
    (VerdictConflictError, Refusal(status=409, kind="invalid_request_error", code="verdict_conflict")),
    (VerdictLateError, Refusal(status=409, kind="invalid_request_error", code="verdict_late")),
    (VerdictRefusedError, Refusal(status=409, kind="invalid_request_error", code="verdict_refused")),
    (UnknownReviewError, Refusal(status=409, kind="invalid_request_error", code="verdict_refused")),
    (ReceiptRefusedError, Refusal(status=409, kind="invalid_request_error", code="verdict_refused")),
    (TooManyVerdictsError, Refusal(status=429, kind="rate_limit_error", code="rate_limited")),
    (BillingError, Refusal(status=409, kind="invalid_request_error", code="lease_refused")),
    (TroubleError, Refusal(status=503, kind="service_unavailable", code="try_again")),
    (ChainError, Refusal(status=503, kind="service_unavailable", code="try_again")),
)


HTTP_CODES = {400: "malformed_request", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


async def answer_http_error(_: Request, error: Exception) -> JSONResponse:
    """The answer to a request that is none of the interface's."""
    if not isinstance(error, HTTPException):
        raise error
    code = HTTP_CODES.get(error.status_code, "http_error")
    refusal = Refusal(status=error.status_code, kind="invalid_request_error", code=code)
    return _error(refusal, str(error.detail))


async def answer_refusal(_: Request, error: Exception) -> JSONResponse:
    """The answer to what billing, cluster or chain refused; an error that no row knows is raised on."""
    refusal = next((refusal for kind, refusal in REFUSALS if isinstance(error, kind)), None)
    if refusal is None:
        raise error
    asked = {"voucher_total": error.asked} if isinstance(error, VoucherNeededError) else {}
    return _error(refusal, str(error), **asked)


def _error(refusal: Refusal, message: str, **more: int) -> JSONResponse:
    body = {"error": {"message": message, "type": refusal.kind, "param": None, "code": refusal.code, **more}}
    headers = {"retry-after": str(RETRY_AFTER_S)} if refusal.status in {429, 503} else None
    return JSONResponse(body, status_code=refusal.status, headers=headers)
