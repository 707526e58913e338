"""Whether NVIDIA has revoked a GPU: its responder's signed answers, carried with the evidence.

An answer is believed from the issuer of the certificate it is about, or from a responder that this issuer certified for
the purpose. It has an end; one without is refused. "Unknown" is not "good". Only ECDSA P-384 with SHA-384 is taken, as
everywhere in NVIDIA's certificates.

Source: RFC 6960, sections 4.1 and 4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hmac import compare_digest
from itertools import pairwise

from attestation.certificate import (
    BIT_STRING,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    Certificate,
    Element,
    read_elements,
    read_integer,
    read_one,
    read_time,
)
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RevocationUnknownError,
    RevokedError,
)
from attestation.p384 import load_p384
from attestation.policy import Revocation
from attestation.verdict import CheckLog

RESPONSE_SIZE_MAX = 16 * 1024
SINGLES_MAX = 16  # certificates one answer may be about
CERTIFICATES_MAX = 4
_ENUMERATED, _EXPLICIT_0, _EXPLICIT_1, _EXPLICIT_2 = 0x0A, 0xA0, 0xA1, 0xA2
_STATUSES = {0x80: "good", 0xA1: "revoked", 0x82: "unknown"}
_BASIC_RESPONSE = bytes.fromhex("2b0601050507300101")  # 1.3.6.1.5.5.7.48.1.1
_ECDSA_SHA384 = bytes.fromhex("2a8648ce3d040303")  # 1.2.840.10045.4.3.3
_HASHES = {bytes.fromhex("608648016503040201"): "sha256", bytes.fromhex("608648016503040202"): "sha384"}
_EXTENDED_KEY_USAGE = bytes.fromhex("551d25")  # 2.5.29.37
_OCSP_SIGNING = bytes.fromhex("2b06010505070309")  # 1.3.6.1.5.5.7.3.9
_NONCE = bytes.fromhex("2b0601050507300102")  # 1.3.6.1.5.5.7.48.1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """What an answer says about one certificate.

    Attributes:
        hash_name: "sha256" or "sha384": how the issuer is named.
        issuer_name: hash of the issuer's name.
        issuer_key: hash of the issuer's key.
        serial: of the certificate.
        status: "good", "revoked" or "unknown".
        this_update: when this was known to be so.
        next_update: until when it may be relied on.
    """

    hash_name: str
    issuer_name: bytes
    issuer_key: bytes
    serial: int
    status: str
    this_update: datetime
    next_update: datetime

    def is_about(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Say whether this is about a certificate of an issuer."""
        return (
            self.serial == certificate.serial
            and compare_digest(self.issuer_name, hashlib.new(self.hash_name, issuer.subject).digest())
            and compare_digest(self.issuer_key, hashlib.new(self.hash_name, issuer.key_bits()).digest())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspResponse:
    """One answer, read but not verified."""

    signed: bytes
    signature: bytes
    certificates: tuple[bytes, ...]
    singles: tuple[Single, ...]
    nonce: bytes  # empty when it repeats none

    @property
    def next_update(self) -> datetime:
        """When the first of its statements runs out."""
        return min(single.next_update for single in self.singles)


def parse_ocsp(data: bytes) -> OcspResponse:
    """Read one answer.

    Raises:
        MalformedEvidenceError: too large, not DER of this form, unsuccessful, or a statement without an end.
    """
    if len(data) > RESPONSE_SIZE_MAX:
        raise MalformedEvidenceError(f"OCSP answer of {len(data)} bytes, at most {RESPONSE_SIZE_MAX} are read")
    status, *rest = _sequence(data, "OCSP answer")
    if status.whole != b"\x0a\x01\x00" or len(rest) != 1:
        raise MalformedEvidenceError(f"OCSP answer with status {status.content.hex()[:8]}, want 00: successful")
    kind, basic = _exactly(read_one(rest[0].content, SEQUENCE), [OID, OCTET_STRING], "OCSP answer")
    if rest[0].tag != _EXPLICIT_0 or kind.content != _BASIC_RESPONSE:
        raise MalformedEvidenceError("OCSP answer of another type than basic")
    signed, algorithm, signature, *certificates = _sequence(basic.content, "basic OCSP answer", least=3)
    tags = (signed.tag, algorithm.tag, algorithm.content, signature.tag, signature.content[:1])
    if tags != (SEQUENCE, SEQUENCE, b"\x06\x08" + _ECDSA_SHA384, BIT_STRING, b"\0") or len(certificates) > 1:
        raise MalformedEvidenceError("OCSP answer is not signed with ECDSA and SHA-384, or has more parts than it may")
    singles, nonce = _read_data(signed.content)
    return OcspResponse(
        signed=signed.whole,
        signature=signature.content[1:],
        certificates=_read_certificates(certificates),
        singles=singles,
        nonce=nonce,
    )


def check_revocation(
    chain: Sequence[bytes],
    responses: Sequence[OcspResponse],
    *,
    policy: Revocation,
    now: datetime,
    log: CheckLog,
    device: str = "GPU",
) -> datetime | None:
    """Check that none of a device's certificates was revoked, as far as the policy wants to know.

    1. For each certificate but the first (the device made it itself) and the last (the root): all answers about it.
    2. None there: refused if the policy requires one.
    3. Signed by the issuer or its responder, and current.
    4. Every one of them says "good".

    Args:
        chain: DER certificates that were verified up to a pinned root, leaf first.
        responses: answers that came with the evidence.
        policy: whether answers must be there.
        now: the verifier's time.
        log: collects the checks.
        device: what it is, in the names of the checks.

    Returns:
        When the first answer runs out; None when there was none.

    Raises:
        RevokedError, RevocationUnknownError, EndorsementExpiredError, EvidenceSignatureError, MalformedEvidenceError.
    """
    names = [f"{device} certificate {position} revocation" for position in range(1, len(chain) - 1)]
    if not responses and policy is Revocation.IF_PRESENT:  # nothing to parse certificates for
        for name in names:
            log.skip(name, why="an OCSP answer")
        return None
    certificates = [Certificate.parse(der) for der in chain[1:]]
    ends: list[datetime] = []
    for name, (certificate, issuer) in zip(names, pairwise(certificates), strict=True):
        about = [
            (response, single)
            for response in responses
            for single in response.singles
            if single.is_about(certificate, issuer)
        ]  # (1)
        if not about and policy is Revocation.IF_PRESENT:
            log.skip(name, why="an OCSP answer")
            continue
        log.require(name, bool(about), seen="no answer", required="an OCSP answer", error=RevocationUnknownError)  # (2)
        for response, single in about:
            _check_signed(response, issuer, now, log)  # (3)
            _check_current(single, now, log)
            _check_good(name, single, log)  # (4)
            ends.append(single.next_update)
    return min(ends, default=None)


def _check_signed(response: OcspResponse, issuer: Certificate, now: datetime, log: CheckLog) -> None:
    candidates = [issuer]
    for der in response.certificates:
        delegate = Certificate.parse(der, understood=frozenset({_EXTENDED_KEY_USAGE}))
        if _is_delegate(delegate, issuer, now):
            candidates.append(delegate)
    signed = any(_holds(one, response.signature, response.signed) for one in candidates)
    log.require(
        "OCSP signature",
        signed,
        seen="valid" if signed else f"by none of {len(candidates)} entitled keys",
        required="by the issuer or its responder",
        error=EvidenceSignatureError,
    )


def _is_delegate(delegate: Certificate, issuer: Certificate, now: datetime) -> bool:
    """Say whether the issuer itself certified this key to sign answers, and nothing else (RFC 6960, 4.2.2.2)."""
    usages = delegate.extensions.get(_EXTENDED_KEY_USAGE, b"\x30\0")
    return (
        delegate.issuer == issuer.subject
        and not delegate.is_authority()
        and [usage.content for usage in read_elements(read_one(usages, SEQUENCE))] == [_OCSP_SIGNING]
        and delegate.not_before <= now <= delegate.not_after
        and _holds(issuer, delegate.signature, delegate.signed)
    )


def _check_current(single: Single, now: datetime, log: CheckLog) -> None:
    log.require(
        "OCSP validity",
        single.this_update <= now <= single.next_update,
        seen=f"{single.this_update:%F %T} to {single.next_update:%F %T}",
        required=f"valid at {now:%F %T}",
        error=EndorsementExpiredError,
    )


def _check_good(name: str, single: Single, log: CheckLog) -> None:
    error = RevokedError if single.status == "revoked" else RevocationUnknownError
    log.require(name, single.status == "good", seen=single.status, required="good", error=error)


def _holds(signer: Certificate, signature: bytes, signed: bytes) -> bool:
    return _holds_under(signer.public_key_info, signature, signed)


@lru_cache(maxsize=256)  # GPUs of a host share the upper certificates and their answers; it depends on the bytes alone
def _holds_under(public_key_info: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        return load_p384(public_key_info).holds(signature, signed)
    except MalformedEvidenceError:
        return False


def _read_data(content: bytes) -> tuple[tuple[Single, ...], bytes]:
    parts = list(read_elements(content))
    if parts and parts[0].tag == _EXPLICIT_0:  # the version, which is written only where it is not the first
        raise MalformedEvidenceError("OCSP answer of another version than 1")
    extensions = parts.pop() if len(parts) == 4 else None
    if [part.tag for part in parts[1:]] != [GENERALIZED_TIME, SEQUENCE] or parts[0].tag not in {
        _EXPLICIT_1,
        _EXPLICIT_2,
    }:
        raise MalformedEvidenceError("OCSP answer is not (responder, time, statements)")
    read_time(parts[1])
    singles = tuple(_read_single(part) for part in read_elements(parts[2].content))
    if not 0 < len(singles) <= SINGLES_MAX:
        raise MalformedEvidenceError(f"OCSP answer with {len(singles)} statements, want 1 to {SINGLES_MAX}")
    if extensions is None:
        return singles, b""
    if extensions.tag != _EXPLICIT_1:
        raise MalformedEvidenceError("OCSP answer with an unknown part")
    return singles, _read_nonce(extensions.content)


def _read_single(element: Element) -> Single:
    name, status, this_update, *rest = _sequence(element.whole, "OCSP statement", least=3)
    algorithm, issuer_name, issuer_key, serial = _exactly(
        name.content, [SEQUENCE, OCTET_STRING, OCTET_STRING, INTEGER], "OCSP certificate id"
    )
    hash_name = _HASHES.get(next(iter(read_elements(algorithm.content)), algorithm).content)
    if name.tag != SEQUENCE or hash_name is None or status.tag not in _STATUSES or this_update.tag != GENERALIZED_TIME:
        raise MalformedEvidenceError("OCSP statement with an unknown hash or status")
    if not rest or rest[0].tag != _EXPLICIT_0 or any(part.tag != _EXPLICIT_1 for part in rest[1:]):
        raise MalformedEvidenceError("OCSP statement does not say until when it holds")
    next_update = Element(tag=GENERALIZED_TIME, content=read_one(rest[0].content, GENERALIZED_TIME), whole=b"")
    return Single(
        hash_name=hash_name,
        issuer_name=issuer_name.content,
        issuer_key=issuer_key.content,
        serial=read_integer(serial.content),
        status=_STATUSES[status.tag],
        this_update=read_time(this_update),
        next_update=read_time(next_update),
    )


def _read_nonce(content: bytes) -> bytes:
    for extension in read_elements(read_one(content, SEQUENCE)):
        parts = list(read_elements(extension.content))
        if len(parts) >= 2 and parts[0].content == _NONCE:
            return read_one(parts[-1].content, OCTET_STRING)
    return b""


def _read_certificates(parts: Sequence[Element]) -> tuple[bytes, ...]:
    if not parts:
        return ()
    found = list(read_elements(read_one(parts[0].content, SEQUENCE)))
    if parts[0].tag != _EXPLICIT_0 or len(found) > CERTIFICATES_MAX:
        raise MalformedEvidenceError(f"OCSP answer with more than {CERTIFICATES_MAX} certificates")
    return tuple(one.whole for one in found)


def _sequence(data: bytes, what: str, *, least: int = 1) -> list[Element]:
    parts = list(read_elements(read_one(data, SEQUENCE)))
    if not least <= len(parts) <= least + 2:
        raise MalformedEvidenceError(f"{what} of {len(parts)} parts")
    return parts


def _exactly(content: bytes, tags: list[int], what: str) -> list[Element]:
    parts = list(read_elements(content))
    if [part.tag for part in parts] != tags:
        raise MalformedEvidenceError(f"{what} has other parts than it should")
    return parts
