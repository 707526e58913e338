"""The receipt: what a host signs, inside its enclave, about one answered request. Layout: docs/protocol/receipt.md.

    signed = body | signature over the body
           | body | u16 index | u16 size | path | signature over tag, size and root     size 2 to 128

An Ed25519 signature costs more than everything else a short answer does to the enclave. Receipts that are ready at the
same moment therefore share one: it signs the root of a tree over their bodies, and each carries its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from struct import Struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.tariff import Usage
from billing.tree import hash_leaf, root_of, tree_paths, tree_sides
from billing.wire import (
    SIGNATURE_SIZE,
    KnownSignatures,
    append_signature,
    check_signature,
    check_size,
    check_uint,
    split_signed,
)

RECEIPT_TAG = b"chrysalis/1 receipt"
BATCH_TAG = b"chrysalis/1 receipt batch"
BATCH_MAX = 128  # receipts under one signature
_LAYOUT = Struct(f">{len(RECEIPT_TAG)}s32s32s16s8s32sIIIIQ32s48s33sQ")
BODY_SIZE = _LAYOUT.size
RECEIPT_SIZE = BODY_SIZE + SIGNATURE_SIZE  # of a receipt with a signature of its own
_PLACE = Struct(">HH")
_HASH = 32
RECEIPT_SIZE_MAX = RECEIPT_SIZE + _PLACE.size + _HASH * (BATCH_MAX - 1).bit_length()

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
_FIELDS = attrgetter(*_SIZES)


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
        for (name, size), value in zip(_SIZES.items(), _FIELDS(self), strict=True):
            if type(value) is not bytes or len(value) != size:
                check_size(name, value, size)
        check_nanotons(self.price, "price")
        check_uint("issued_at", self.issued_at, 63)


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the receipt's body, `BODY_SIZE` bytes."""
    return receipt_body(
        request_hash=receipt.request_hash,
        account=receipt.account,
        lease=receipt.lease,
        host_id=receipt.host_id,
        model_root=receipt.model_root,
        usage=receipt.usage,
        price=receipt.price,
        response_hash=receipt.response_hash,
        transcript=receipt.transcript,
        payee=receipt.payee,
        issued_at=receipt.issued_at,
    )


def receipt_body(
    *,
    request_hash: bytes,
    account: bytes,
    lease: bytes,
    host_id: bytes,
    model_root: bytes,
    usage: Usage,
    price: int,
    response_hash: bytes,
    transcript: bytes,
    payee: bytes,
    issued_at: int,
) -> bytes:
    """Return the body of a receipt of these fields, whose sizes the caller has checked: for a host's every answer."""
    return _LAYOUT.pack(
        RECEIPT_TAG,
        request_hash,
        account,
        lease,
        host_id,
        model_root,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        price,
        response_hash,
        transcript,
        payee,
        issued_at,
    )


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    """Return the receipt with a signature of its own, `RECEIPT_SIZE` bytes."""
    return append_signature(encode_receipt(receipt), key)


def sign_receipts(bodies: Sequence[bytes], key: Ed25519PrivateKey) -> list[bytes]:
    """Return these 1 to `BATCH_MAX` receipt bodies signed, in the same order; several share one signature."""
    if not 1 <= len(bodies) <= BATCH_MAX:
        raise ValueError(f"one signature serves 1 to {BATCH_MAX} receipts, not {len(bodies)}")
    if len(bodies) == 1:
        return [append_signature(bodies[0], key)]
    root, paths = tree_paths([hash_leaf(body) for body in bodies])
    size = len(bodies)
    signature = key.sign(_batch_message(size, root))
    return [
        b"".join((body, _PLACE.pack(index, size), *path, signature))
        for index, (body, path) in enumerate(zip(bodies, paths, strict=True))
    ]


def parse_receipt(data: bytes) -> Receipt:
    """Return the receipt inside signed bytes without checking who signed; use `verify_receipt` to rely on it.

    Raises:
        MalformedRecordError: the bytes are not a receipt.
    """
    return _parse_body(_split(data)[0])


def verify_receipt(data: bytes, public_key: bytes, *, known: KnownSignatures | None = None) -> Receipt:
    """Return the receipt that `public_key` signed.

    Args:
        data: the signed receipt, `RECEIPT_SIZE` bytes or, in a batch, up to `RECEIPT_SIZE_MAX`.
        public_key: the host's attested Ed25519 receipt key, 32 bytes.
        known: remembers signatures that several receipts share, so that each is checked once.

    Raises:
        MalformedRecordError: the bytes are not a receipt.
        BadSignatureError: another key signed, or a byte was changed.
    """
    body, place, signature = _split(data)
    receipt = _parse_body(body)
    if not place:
        check_signature(body, signature, public_key, "receipt")
        return receipt
    index, size = _PLACE.unpack_from(place)
    path = [place[at : at + _HASH] for at in range(_PLACE.size, len(place), _HASH)]
    root = root_of(hash_leaf(body), index=index, size=size, path=path)
    if root is None:
        raise MalformedRecordError("receipt", f"no batch of {size} has a place {index} with a path of {len(path)}")
    (known or KnownSignatures()).check(_batch_message(size, root), signature, public_key, "receipt")
    return receipt


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return body, place and path in a batch (empty for a receipt that stands alone), and the signature."""
    if len(data) <= RECEIPT_SIZE:
        body, signature = split_signed(data, "receipt", size_max=RECEIPT_SIZE)
        return body, b"", signature
    rest, signature = split_signed(data, "receipt", size_max=RECEIPT_SIZE_MAX)
    place = rest[BODY_SIZE:]
    if len(place) < _PLACE.size:
        raise MalformedRecordError("receipt", f"its place in a batch has {_PLACE.size} bytes, got {len(place)}")
    index, size = _PLACE.unpack_from(place)
    steps = len(place) - _PLACE.size
    if not 2 <= size <= BATCH_MAX or index >= size or steps != _HASH * len(tree_sides(index, size)):
        raise MalformedRecordError("receipt", f"no batch of {size} has a place {index} with a path of {steps} bytes")
    return rest[:BODY_SIZE], place, signature


def _parse_body(body: bytes) -> Receipt:
    if len(body) != BODY_SIZE or not body.startswith(RECEIPT_TAG):
        raise MalformedRecordError("receipt", f"a body has {BODY_SIZE} bytes and begins with its tag")
    values = _LAYOUT.unpack(body)[1:]
    request_hash, account, lease, host_id, model_root, prompt, cached, completion, reasoning = values[:9]
    price, response_hash, transcript, payee, issued_at = values[9:]
    try:
        return Receipt(
            request_hash=request_hash,
            account=account,
            lease=lease,
            host_id=host_id,
            model_root=model_root,
            usage=Usage(
                prompt_tokens=prompt,
                completion_tokens=completion,
                cached_tokens=cached,
                reasoning_tokens=reasoning,
            ),
            price=Nanotons(price),
            response_hash=response_hash,
            transcript=transcript,
            payee=payee,
            issued_at=issued_at,
        )
    except ValueError as error:
        raise MalformedRecordError("receipt", str(error)) from error


def _batch_message(size: int, root: bytes) -> bytes:
    return BATCH_TAG + size.to_bytes(2, "big") + root
