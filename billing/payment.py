"""A payment by voucher: which channel a client pays from, and its latest voucher. Layout: docs/protocol/channel.md.

It travels beside a signed lease request and stands in the journal behind every voucher booked. It needs no signature of
its own: the terms give the channel's address, and the voucher is signed for that address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.voucher import VOUCHER_SIZE
from billing.wire import SIGNATURE_SIZE, Reader, check_size, check_uint

PAYMENT_FIELD = "payment"  # in the JSON object of POST /v1/leases
PAYMENT_SIZE = 32 + 4 + 8 + VOUCHER_SIZE
_CLOSE_FIELDS = frozenset({"account", PAYMENT_FIELD, "total", "valid_until", "signature"})
_FIELDS = frozenset({"wallet", "delay_s", "nonce", "voucher"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What of the channel's terms only its client knows, and the latest voucher."""

    wallet: bytes  # 32, account id of the client's wallet in the basechain
    delay_s: int
    nonce: int
    voucher: bytes  # signed, VOUCHER_SIZE; not verified yet

    def __post_init__(self) -> None:
        check_size("wallet", self.wallet, 32)
        check_uint("delay_s", self.delay_s, 32)
        check_uint("nonce", self.nonce, 64)
        check_size("voucher", self.voucher, VOUCHER_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOrder:
    """A client's order to close its channel at once: the operator has `total` in all, the client the rest."""

    account: bytes  # 32, Ed25519 key
    payment: Payment  # names the channel
    total: Nanotons
    valid_until: int  # unix seconds
    signature: bytes  # 64, over `billing.voucher.close_bytes`; not verified yet

    def __post_init__(self) -> None:
        check_size("account", self.account, 32)
        check_nanotons(self.total, "total")
        check_uint("valid_until", self.valid_until, 32)
        check_size("signature", self.signature, SIGNATURE_SIZE)


def encode_payment(payment: Payment) -> bytes:
    """Return its `PAYMENT_SIZE` bytes, as the journal keeps them."""
    numbers = payment.delay_s.to_bytes(4, "big") + payment.nonce.to_bytes(8, "big")
    return payment.wallet + numbers + payment.voucher


def decode_payment(data: bytes) -> Payment:
    """Return the payment in `encode_payment`'s bytes.

    Raises:
        MalformedRecordError: the bytes are not a payment.
    """
    reader = Reader(data, "payment")
    wallet, delay_s, nonce, voucher = reader.take(32), reader.take_int(4), reader.take_int(8), reader.take(VOUCHER_SIZE)
    reader.finish()
    return Payment(wallet=wallet, delay_s=delay_s, nonce=nonce, voucher=voucher)


def payment_fields(payment: Payment) -> dict[str, str | int]:
    """Return it as the JSON object under `PAYMENT_FIELD`."""
    return {
        "wallet": payment.wallet.hex(),
        "delay_s": payment.delay_s,
        "nonce": str(payment.nonce),  # 64 bits do not survive every JSON library
        "voucher": payment.voucher.hex(),
    }


def parse_payment(value: object) -> Payment:
    """Return the payment in a JSON object from a client.

    Raises:
        MalformedRecordError: a field is missing, unknown or out of range.
    """
    if not isinstance(value, Mapping) or set(value) != _FIELDS:
        raise MalformedRecordError("payment", f"a JSON object of exactly {', '.join(sorted(_FIELDS))} is expected")
    nonce = value["nonce"]
    if not isinstance(nonce, str) or not re.fullmatch(r"[0-9]{1,20}", nonce):
        raise MalformedRecordError("payment", "nonce must be a decimal number in quotes")
    try:
        return Payment(
            wallet=_unhex(value["wallet"], "wallet", 32),
            delay_s=value["delay_s"],
            nonce=int(nonce),
            voucher=_unhex(value["voucher"], "voucher", VOUCHER_SIZE),
        )
    except ValueError as error:
        raise MalformedRecordError("payment", str(error)) from error


def close_order_fields(order: CloseOrder) -> dict[str, object]:
    """Return the JSON object of POST /v1/channels/close."""
    return {
        "account": order.account.hex(),
        PAYMENT_FIELD: payment_fields(order.payment),
        "total": order.total,
        "valid_until": order.valid_until,
        "signature": order.signature.hex(),
    }


def parse_close_order(body: Mapping[str, object]) -> CloseOrder:
    """Return the order in a JSON object from a client.

    Raises:
        MalformedRecordError: a field is missing, unknown or out of range.
    """
    if set(body) != _CLOSE_FIELDS:
        raise MalformedRecordError("close order", f"exactly {', '.join(sorted(_CLOSE_FIELDS))} are expected")
    payment = parse_payment(body[PAYMENT_FIELD])
    try:
        return CloseOrder(
            account=_unhex(body["account"], "account", 32),
            payment=payment,
            total=body["total"],  # type: ignore[arg-type]  # checked by the class
            valid_until=body["valid_until"],  # type: ignore[arg-type]  # likewise
            signature=_unhex(body["signature"], "signature", SIGNATURE_SIZE),
        )
    except ValueError as error:
        raise MalformedRecordError("close order", str(error)) from error


def _unhex(text: object, name: str, size: int) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise ValueError(f"{name} must be {2 * size} lower-case hex digits")
    return bytes.fromhex(text)
