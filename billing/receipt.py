"""The receipt: what a host signs, inside its enclave, about one answered request. Layout: docs/protocol/receipt.md."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.tariff import Usage
from billing.wire import SIGNATURE_SIZE, Reader, append_signature, check_signature, check_size, check_uint, split_signed

RECEIPT_TAG = b"chrysalis/1 receipt"
RECEIPT_SIZE = len(RECEIPT_TAG) + 32 + 32 + 16 + 8 + 32 + 4 + 4 + 8 + 32 + 48 + 33 + 8 + SIGNATURE_SIZE

_SIZES = {
    "request_hash": 32,
    "account": 32,
    "lease": 16,
    "host_id": 8,
    "model_root": 32,
    "response_hash": 32,
    "transcript": 48,
    "payee": 33,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One answered request: who asked, who answered, with what, for how much."""

    request_hash: bytes  # 32, header, commitment and chunks of the sealed request
    account: bytes  # 32, the payer's Ed25519 key
    lease: bytes  # 16
    host_id: bytes  # 8
    model_root: bytes  # 32
    usage: Usage
    price: Nanotons
    response_hash: bytes  # 32, over the answer's data frames
    transcript: bytes  # 48, digest of the attested transcript that names the signing key
    payee: bytes  # 33, workchain and TON account id that earns
    issued_at: int  # unix seconds

    def __post_init__(self) -> None:
        for name, size in _SIZES.items():
            check_size(name, getattr(self, name), size)
        check_nanotons(self.price, "price")
        check_uint("issued_at", self.issued_at, 63)


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the bytes that are signed."""
    return b"".join(
        (
            RECEIPT_TAG,
            receipt.request_hash,
            receipt.account,
            receipt.lease,
            receipt.host_id,
            receipt.model_root,
            receipt.usage.prompt_tokens.to_bytes(4, "big"),
            receipt.usage.completion_tokens.to_bytes(4, "big"),
            receipt.price.to_bytes(8, "big"),
            receipt.response_hash,
            receipt.transcript,
            receipt.payee,
            receipt.issued_at.to_bytes(8, "big"),
        )
    )


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    """Return the receipt with its signature, `RECEIPT_SIZE` bytes."""
    return append_signature(encode_receipt(receipt), key)


def parse_receipt(data: bytes) -> Receipt:
    """Return the receipt inside signed bytes without checking who signed; use `verify_receipt` to rely on it.

    Raises:
        MalformedRecordError: the bytes are not a receipt.
    """
    body, _ = split_signed(data, "receipt", size_max=RECEIPT_SIZE)
    reader = Reader(body, "receipt")
    reader.expect(RECEIPT_TAG)
    fields = {name: reader.take(_SIZES[name]) for name in ("request_hash", "account", "lease", "host_id", "model_root")}
    usage = Usage(prompt_tokens=reader.take_int(4), completion_tokens=reader.take_int(4))
    price = reader.take_int(8)
    fields |= {name: reader.take(_SIZES[name]) for name in ("response_hash", "transcript", "payee")}
    issued_at = reader.take_int(8)
    reader.finish()
    try:
        return Receipt(**fields, usage=usage, price=Nanotons(price), issued_at=issued_at)
    except ValueError as error:
        raise MalformedRecordError("receipt", str(error)) from error


def verify_receipt(data: bytes, public_key: bytes) -> Receipt:
    """Return the receipt that `public_key` signed.

    Args:
        data: the signed receipt, exactly `RECEIPT_SIZE` bytes.
        public_key: the host's attested Ed25519 receipt key, 32 bytes.

    Raises:
        MalformedRecordError: the bytes are not a receipt.
        BadSignatureError: another key signed, or a byte was changed.
    """
    receipt = parse_receipt(data)
    check_signature(data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:], public_key, "receipt")
    return receipt
