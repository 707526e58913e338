"""An Attestation Result signed by its verifier: a JWT with Ed25519, and nothing else a JWT could be.

Source: RFC 7515 (JWS compact serialization), RFC 7519 (JWT), RFC 8037 (EdDSA). One header is written and read, byte for
byte, so there is no algorithm to choose, and base64url has one spelling.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import EndorsementExpiredError, EvidenceSignatureError, MalformedEvidenceError
from attestation.result import PROFILE, encode_result

TOKEN_SIZE_MAX = 1 << 20  # characters; the result of a sixteen-GPU host is about 60 KB
HEADER = b'{"alg":"EdDSA","typ":"JWT"}'
CLOCK_SKEW_S = 60


def sign_result(claims: dict[str, object], key: Ed25519PrivateKey) -> str:
    """Return the signed token; the same claims and key give the same text."""
    signed = f"{_encode(HEADER)}.{_encode(encode_result(claims))}"
    return f"{signed}.{_encode(key.sign(signed.encode()))}"


def verify_result(token: str, key: Ed25519PublicKey, *, now: datetime, age_max_s: int) -> dict[str, object]:
    """Return the claims of a token that this key signed recently. Whether they suffice is the caller's question.

    Args:
        token: compact serialization.
        key: the verifier's key, known from elsewhere.
        now: the caller's time, aware.
        age_max_s: oldest `iat` accepted, seconds; up to `CLOCK_SKEW_S` in the future is accepted.

    Raises:
        MalformedEvidenceError: no such token, another header, another profile, not in its one spelling.
        EvidenceSignatureError: another key signed it, or it was altered.
        EndorsementExpiredError: issued too long ago or in the future, or past its `exp`.
    """
    if len(token) > TOKEN_SIZE_MAX or token.count(".") != 2:
        raise MalformedEvidenceError(f"result token of {len(token)} characters: want three parts, at most 1 MiB")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    if _decode(header) != HEADER:
        raise MalformedEvidenceError("result token: want the header of an EdDSA JWT")
    text = _decode(payload)
    try:
        key.verify(_decode(signature), signed.encode())
    except InvalidSignature:
        raise EvidenceSignatureError("result token is not signed by the verifier's key") from None
    claims = _claims(text)
    _check_time(claims, now.astimezone(UTC).timestamp(), age_max_s)
    return claims


def _claims(payload: bytes) -> dict[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        raise MalformedEvidenceError("result token holds no JSON") from None
    if not isinstance(claims, dict) or claims.get("eat_profile") != PROFILE:
        raise MalformedEvidenceError(f"result token is not of the profile {PROFILE}")
    return claims


def _check_time(claims: dict[str, object], now_s: float, age_max_s: int) -> None:
    issued, ends = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(ends, int | None) or isinstance(issued, bool):
        raise MalformedEvidenceError("result token: iat and exp must be whole seconds")
    if not issued - CLOCK_SKEW_S <= now_s <= issued + age_max_s:
        raise EndorsementExpiredError(f"result of {issued}, judged at {now_s:.0f}: at most {age_max_s} s old")
    if ends is not None and now_s > ends:
        raise EndorsementExpiredError(f"result ended at {ends}, judged at {now_s:.0f}")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise MalformedEvidenceError("result token is not base64url") from None
    if _encode(data) != text:
        raise MalformedEvidenceError("result token is not in its one spelling")
    return data
