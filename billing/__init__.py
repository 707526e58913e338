"""Who owes whom, and who was paid? Integers of nanoton, double entry, one receipt per request."""

from billing.errors import BillingError, ChainError
from billing.grant import Grant, HostSlice, sign_grant, verify_grant
from billing.lease_request import LeaseRequest, lease_request_bytes, sign_lease_request, verify_lease_request
from billing.money import Nanotons, format_ton, parse_ton
from billing.receipt import Receipt, sign_receipt, verify_receipt
from billing.tariff import Tariff, Usage, price, quote
from billing.voucher import Voucher, sign_voucher, verify_voucher

__all__ = [
    "BillingError",
    "ChainError",
    "Grant",
    "HostSlice",
    "LeaseRequest",
    "Nanotons",
    "Receipt",
    "Tariff",
    "Usage",
    "Voucher",
    "format_ton",
    "lease_request_bytes",
    "parse_ton",
    "price",
    "quote",
    "sign_grant",
    "sign_lease_request",
    "sign_receipt",
    "sign_voucher",
    "verify_grant",
    "verify_lease_request",
    "verify_receipt",
    "verify_voucher",
]
