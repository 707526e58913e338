"""RA-TLS: a certificate that carries its host's evidence, and what must hold before its TLS key is believed.

    extension = CBOR {v, evidence: zlib of the evidence document, signature}       under `EXTENSION_OID`
    nonce     = SHA-256("chrysalis/1 ra-tls" | 0 | SPKI | not_before | not_after)  times in unix seconds, u64
    signature = by the attested receipt key, over "chrysalis/1 ra-tls key" | 0 | nonce

The nonce ties the evidence to one key and a short time. It does not tie the key to the enclave: an enclave answers
everybody's nonces, so anybody can have evidence about a nonce that names a key of his own. The signature does: only
the enclave holds the receipt key that its evidence names.

Every certificate is issued by `issuer()`, whose private key is public. That issuer proves nothing and is trusted with
nothing; a TLS library without a hook for certificates of its own kind asks a client for one, and hands it over, only
when its chain ends in a root it knows. What else such a certificate says (names, serial number) is anybody's word.

Pure: no clock, no network, no randomness. The contexts are in attestation/tls.py, the page is docs/protocol/ratls.md.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation import cbor
from attestation.certificate import Certificate
from attestation.errors import (
    EndorsementExpiredError,
    FreshnessError,
    HostMismatchError,
    MalformedEvidenceError,
    TlsKeyUnboundError,
)
from attestation.evidence import EVIDENCE_SIZE_MAX, Evidence, parse_evidence
from attestation.floors import Floors
from attestation.nvidia import ChainCache
from attestation.policy import AppraisalPolicy
from attestation.verdict import CheckLog, Verdict
from attestation.verify import verify

EXTENSION_OID = "2.25.50525804311760259900311166168782420188.1"  # UUID 2602ea7b-9f50-4237-9e22-be8ae3d538dc, arc 1
CERTIFICATE_MAX = 100_000  # bytes; OpenSSL reads a certificate message of 102,400 and Python cannot raise that
LIFE_S = 300  # from not_before to not_after
SKEW_S = 60  # how far not_before lies behind the maker's clock
SIGNATURE_SIZE = 64
_EXTENSION = bytes.fromhex("69cc82f59ef3f58288ef9e91afd1ae9ed4f15c01")  # EXTENSION_OID as DER content
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410; the 32 bytes of the key follow
_EXTENSION_VERSION = 1
_ISSUER_SEED = hashlib.sha256(b"chrysalis/1 ra-tls issuer\0").digest()  # known to everybody, on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsKeyStatement:
    """What a host says about one TLS key: it is mine, for this short time.

    Attributes:
        key: the Ed25519 public key of the certificate, 32 bytes.
        not_before, not_after: when the certificate holds, whole seconds, aware.
    """

    key: bytes
    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if len(self.key) != 32 or self.not_before.tzinfo is None or self.not_after.tzinfo is None:
            raise ValueError("a statement takes 32 bytes of key and two aware times")
        if not self.not_before < self.not_after or self.not_before.microsecond or self.not_after.microsecond:
            raise ValueError("a certificate ends after it begins, both at whole seconds")

    @classmethod
    def of(cls, key: bytes, now: datetime) -> TlsKeyStatement:
        """Return the statement for a new key: `LIFE_S` long, begun `SKEW_S` ago for verifiers with late clocks."""
        begin = now.astimezone(UTC).replace(microsecond=0) - timedelta(seconds=SKEW_S)
        return cls(key=key, not_before=begin, not_after=begin + timedelta(seconds=LIFE_S))

    @property
    def nonce(self) -> bytes:
        """The nonce that the certificate's evidence answers, 32 bytes."""
        window = struct.pack(">QQ", int(self.not_before.timestamp()), int(self.not_after.timestamp()))
        return hashlib.sha256(b"chrysalis/1 ra-tls\0" + _ED25519_SPKI + self.key + window).digest()

    def sign(self, receipt_key: Ed25519PrivateKey) -> bytes:
        """Return the signature of the enclave that says so, 64 bytes."""
        return receipt_key.sign(_signed(self.nonce))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedCertificate:
    """A certificate that was read and not believed yet."""

    statement: TlsKeyStatement
    evidence: Evidence
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a TLS connection: a verdict whose enclave signed for the connection's key.

    Attributes:
        verdict: as from `attestation.verify.verify`; it ends with the certificate if that is sooner. An open connection
            does not end with it: whoever keeps one longer challenges the host again.
        certificate: SHA-256 of the certificate, 32 bytes.
    """

    verdict: Verdict
    certificate: bytes


def build_certificate(statement: TlsKeyStatement, *, evidence: bytes, signature: bytes) -> bytes:
    """Return the certificate, DER.

    Args:
        statement: key and time.
        evidence: encoded evidence that answers `statement.nonce`.
        signature: `statement.sign` by the receipt key that the evidence names.

    Raises:
        ValueError: larger than a TLS library reads.
    """
    content = cbor.encode({"v": _EXTENSION_VERSION, "evidence": zlib.compress(evidence, 6), "signature": signature})
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(EXTENSION_OID), content)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("Chrysalis attested host: see the evidence"))
        .issuer_name(_issuer_name())
        .serial_number(int.from_bytes(statement.nonce[:8], "big") | 1)
        .public_key(Ed25519PublicKey.from_public_bytes(statement.key))
        .not_valid_before(statement.not_before)
        .not_valid_after(statement.not_after)
        .add_extension(extension, critical=False)  # OpenSSL refuses critical extensions it does not know
    )
    certificate = builder.sign(_issuer_key(), None).public_bytes(Encoding.DER)
    if len(certificate) > CERTIFICATE_MAX:
        raise ValueError(f"a certificate of {len(certificate)} bytes; TLS libraries read at most {CERTIFICATE_MAX}")
    return certificate


def parse_certificate(data: bytes) -> AttestedCertificate:
    """Read a certificate; nothing in it is believed yet.

    Raises:
        MalformedEvidenceError: larger than `CERTIFICATE_MAX`, not X.509, another key than Ed25519, other extensions
            than ours, content that is not the layout above, or evidence that is none.
    """
    certificate = Certificate.parse(data, size_max=CERTIFICATE_MAX)
    prefix, key = certificate.public_key_info[: len(_ED25519_SPKI)], certificate.public_key_info[len(_ED25519_SPKI) :]
    if prefix != _ED25519_SPKI or certificate.extensions.keys() != {_EXTENSION}:
        raise MalformedEvidenceError("RA-TLS certificate: want an Ed25519 key and one extension, the evidence")
    try:
        statement = TlsKeyStatement(key=key, not_before=certificate.not_before, not_after=certificate.not_after)
    except ValueError as error:
        raise MalformedEvidenceError(f"RA-TLS certificate: {error}") from error
    match cbor.decode(certificate.extensions[_EXTENSION], size_max=CERTIFICATE_MAX):
        case {"v": 1, "evidence": bytes(packed), "signature": bytes(signature), **rest} if not rest:
            if len(signature) != SIGNATURE_SIZE:
                raise MalformedEvidenceError(f"signature of {len(signature)} bytes, want {SIGNATURE_SIZE}")
            return AttestedCertificate(
                statement=statement, evidence=parse_evidence(_unpack(packed)), signature=signature
            )
    raise MalformedEvidenceError("RA-TLS extension: want a map of v = 1, evidence and signature")


def check_certificate(
    data: bytes,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    host_id: bytes | None = None,
    chains: ChainCache | None = None,
    floors: Floors | None = None,
) -> Peer:
    """Appraise the certificate of a TLS peer; that the peer holds its private key is the handshake's to show.

    1. Layout: one Ed25519 key, one extension.
    2. Time: it holds now, and for no longer altogether than `policy.max_age_s`: the age its evidence can have.
    3. Evidence: `attestation.verify.verify` for the nonce that names this key and this time.
    4. Binding: the receipt key in that evidence signed for this key and this time.
    5. Host: the one asked for, where one was.

    Args:
        data: the peer's certificate, DER.
        policy: what we accept.
        now: our time, aware.
        host_id: the host that must be at the other end, 8 bytes; None takes any that the policy accepts.
        chains: GPU certificate chains that held before, when the caller keeps them.
        floors: how new vendors' lists have been, when the caller keeps that.

    Raises:
        AttestationError: a subclass named after what failed.
    """
    read = parse_certificate(data)  # (1)
    statement, log = read.statement, CheckLog()
    _check_window(statement, policy, now, log)  # (2)
    verdict = verify(read.evidence, policy, nonce=statement.nonce, now=now, chains=chains, floors=floors)  # (3)
    log.extend(verdict.checks)
    log.require(
        "TLS key",
        _is_signed(read, verdict),
        seen=f"key {statement.key.hex()[:16]}",
        required=f"one that the attested receipt key {verdict.receipt.hex()[:16]} signed for, with its time",
        error=TlsKeyUnboundError,
    )  # (4)
    if host_id is not None:
        log.require(
            "host",
            verdict.host_id == host_id,
            seen=verdict.host_id.hex(),
            required=host_id.hex(),
            error=HostMismatchError,
        )  # (5)
    return Peer(
        verdict=verdict._replace(not_after=min(verdict.not_after, statement.not_after), checks=log.checks),
        certificate=hashlib.sha256(data).digest(),
    )


@lru_cache(maxsize=1)  # always the same bytes
def issuer() -> bytes:
    """Return the certificate of the issuer that anybody can sign as, DER: the root that TLS libraries are given."""
    key = _issuer_key().public_key()
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_issuer_name())
        .issuer_name(_issuer_name())
        .serial_number(1)
        .public_key(key)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    return builder.sign(_issuer_key(), None).public_bytes(Encoding.DER)


def _check_window(statement: TlsKeyStatement, policy: AppraisalPolicy, now: datetime, log: CheckLog) -> None:
    log.require(
        "certificate time",
        statement.not_before <= now < statement.not_after,
        seen=f"{statement.not_before.isoformat()} to {statement.not_after.isoformat()}",
        required=f"around {now.isoformat()}",
        error=EndorsementExpiredError,
    )
    window = statement.not_after - statement.not_before
    log.require(
        "certificate life",
        window <= timedelta(seconds=policy.max_age_s),
        seen=f"{window.total_seconds():.0f} s",
        required=f"at most {policy.max_age_s} s",
        error=FreshnessError,
    )


def _is_signed(read: AttestedCertificate, verdict: Verdict) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(verdict.receipt).verify(read.signature, _signed(read.statement.nonce))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(nonce: bytes) -> bytes:
    return b"chrysalis/1 ra-tls key\0" + nonce


def _unpack(packed: bytes) -> bytes:
    """Return the evidence document: one whole zlib stream, of no more bytes than a verifier reads."""
    stream = zlib.decompressobj()
    try:
        document = stream.decompress(packed, EVIDENCE_SIZE_MAX + 1)
    except zlib.error as error:
        raise MalformedEvidenceError(f"RA-TLS evidence is not a zlib stream: {error}") from error
    if not stream.eof or stream.unused_data:
        raise MalformedEvidenceError("RA-TLS evidence is cut short, too large, or followed by other bytes")
    return document


def _issuer_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_ISSUER_SEED)


def _issuer_name() -> x509.Name:
    return _name("Chrysalis RA-TLS: anyone can issue, only evidence counts")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
