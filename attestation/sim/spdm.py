"""SPDM reports, written: the request a simulated device answers and its signed answer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.spdm import NONCE_SIZE, REQUEST_HEAD, RESPONSE_HEAD


def sign_report(
    key: ec.EllipticCurvePrivateKey, nonce: bytes, blocks: Sequence[bytes], fields: Mapping[int, bytes]
) -> bytes:
    """Return request and signed answer.

    Args:
        key: the device's firmware key, P-384.
        nonce: 32 bytes.
        blocks: SHA-384 of each measurement.
        fields: the vendor's opaque fields, in their order.
    """
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"nonce of {len(nonce)} bytes, want {NONCE_SIZE}")
    record = b"".join(bytes([number, 1, 51, 0, 1, 48, 0]) + value for number, value in enumerate(blocks, 1))
    opaque = b"".join(_u16(number) + _u16(len(value)) + value for number, value in fields.items())
    signed = b"".join(
        (
            REQUEST_HEAD + nonce + b"\0",
            RESPONSE_HEAD + bytes([len(blocks)]) + len(record).to_bytes(3, "little") + record,
            secrets.token_bytes(32) + _u16(len(opaque)) + opaque,
        )
    )
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA384())))
    return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def inverted(blocks: Sequence[bytes], indices: Sequence[int]) -> list[bytes]:
    """Return measurements of which some are as other firmware would measure."""
    return [bytes(byte ^ 0xFF for byte in value) if index in indices else value for index, value in enumerate(blocks)]


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "little")
