"""Certificate chains as text, and roots by their public key.

Text around certificates is signed by nobody, so only one way of writing a chain is read: PEM blocks of
64 columns, one newline after each line, nothing before, between or behind.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_der_x509_certificate

from attestation.certificate import Certificate
from attestation.errors import EvidenceSignatureError, MalformedEvidenceError, UntrustedRootError

_BEGIN = "-----BEGIN CERTIFICATE-----\n"
_END = "\n-----END CERTIFICATE-----\n"
_LINE = 64  # columns of base64


def encode_pem(chain: Sequence[bytes]) -> str:
    """Return DER certificates as the one text `parse_pem` reads."""
    return "".join(_BEGIN + _wrap(der) + _END for der in chain)


def parse_pem(text: str, *, count: int) -> tuple[bytes, ...]:
    """Return the DER certificates of a chain, leaf first.

    Args:
        text: PEM blocks.
        count: how many certificates the chain must have.

    Raises:
        MalformedEvidenceError: another number of certificates, or anything but their one spelling.
    """
    blocks = text.split(_END)
    if len(blocks) != count + 1 or blocks.pop() or not all(block.startswith(_BEGIN) for block in blocks):
        raise MalformedEvidenceError(f"certificate chain: want exactly {count} PEM blocks and nothing else")
    return tuple(_unwrap(block[len(_BEGIN) :]) for block in blocks)


def check_root(der: bytes, pins: frozenset[bytes]) -> bytes:
    """Return the pin of a self-signed P-256 root the policy trusts: SHA-256 of its SubjectPublicKeyInfo.

    Raises:
        MalformedEvidenceError: no certificate.
        UntrustedRootError: its key is not pinned.
        EvidenceSignatureError: it is not signed by its own key.
    """
    pin = _self_signed_pin(der)
    if pin not in pins:
        raise UntrustedRootError(f"root key {pin.hex()} is none of the {len(pins)} trusted ones")
    return pin


def not_after(chain: Sequence[bytes]) -> datetime:
    """Return when the first of these certificates, already verified, ends."""
    return min(map(_end_of, chain))


@lru_cache(maxsize=64)  # a fleet shares its CAs; the answer depends on the bytes alone
def _end_of(der: bytes) -> datetime:
    return load_der_x509_certificate(der).not_valid_after_utc


@lru_cache(maxsize=8)  # a handful of vendor roots; the answer depends on the bytes alone
def _self_signed_pin(der: bytes) -> bytes:
    certificate = Certificate.parse(der)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.issuer != certificate.subject:
        raise EvidenceSignatureError("the root is not a self-issued certificate with an EC key")
    try:
        key.verify(certificate.signature, certificate.signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise EvidenceSignatureError("the root certificate is not signed by its own key") from None
    return hashlib.sha256(certificate.public_key_info).digest()


@lru_cache(maxsize=64)  # as above
def _unwrap(body: str) -> bytes:
    """Return what stands between a PEM block's first and last line, if it is in its one spelling."""
    try:
        der = binascii.a2b_base64(body, strict_mode=False)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvidenceError(f"certificate chain: {error}") from error
    if _wrap(der) != body:
        raise MalformedEvidenceError("certificate chain: not in the one spelling (64 columns, plain newlines)")
    return der


def _wrap(der: bytes) -> str:
    text = binascii.b2a_base64(der, newline=False).decode()
    return "\n".join([text[at : at + _LINE] for at in range(0, len(text), _LINE)])
