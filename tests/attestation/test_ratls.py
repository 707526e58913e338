"""Certificates that carry evidence: what is believed about the TLS key in them, and what is not."""

import hashlib
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor
from attestation.certificate import Certificate
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    FreshnessError,
    HostMismatchError,
    MalformedEvidenceError,
    MeasurementNotAllowedError,
    TlsKeyUnboundError,
    UntrustedRootError,
)
from attestation.evidence import EVIDENCE_SIZE_MAX, encode_evidence
from attestation.policy import AppraisalPolicy
from attestation.ratls import (
    CERTIFICATE_MAX,
    EXTENSION_OID,
    LIFE_S,
    SKEW_S,
    TlsKeyStatement,
    build_certificate,
    check_certificate,
    issuer,
    parse_certificate,
)
from attestation.simulate import Fault
from tests.attestation.certificates import Member, member, policy, statement_for
from tests.attestation.hosts import SNP_CPU, TDX_CPU, host, policy_for
from tests.attestation.vendors import NOW, flipped

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def forge(of: Member, *, key: Ed25519PrivateKey = KEY, signature: bytes | None = None) -> bytes:
    """A certificate for `key` with everything that anybody can get from `of`: evidence about any nonce."""
    statement = statement_for(key)
    evidence = encode_evidence(of.evidence(statement.nonce))
    return build_certificate(
        statement, evidence=evidence, signature=signature or statement.sign(Ed25519PrivateKey.generate())
    )


def test_a_certificate_gives_the_verdict_of_its_evidence() -> None:
    anna = member()
    identity = anna.identity()
    peer = check_certificate(identity.certificate, policy(), now=NOW, host_id=anna.id)
    assert peer.verdict.host_id == anna.id
    assert peer.verdict.not_after == NOW + timedelta(seconds=LIFE_S - SKEW_S)
    assert [item.outcome for item in peer.verdict.checks[-2:]] == ["held", "held"]
    assert [item.name for item in peer.verdict.checks[-2:]] == ["TLS key", "host"]


@pytest.mark.parametrize("gpus", [0, 8])
def test_evidence_of_a_large_host_fits_into_what_tls_libraries_read(gpus: int) -> None:
    big = Member(KEY, host(TDX_CPU, gpus))
    certificate = big.identity().certificate
    assert len(certificate) < CERTIFICATE_MAX / 4
    assert check_certificate(certificate, policy_for(big.hardware), now=NOW).verdict.host_id == big.id


def test_a_key_of_somebody_who_only_asked_for_the_evidence_is_refused() -> None:
    with pytest.raises(TlsKeyUnboundError, match="TLS key"):
        check_certificate(forge(member()), policy(), now=NOW)


def test_the_signature_for_another_key_or_time_is_refused() -> None:
    other = statement_for(Ed25519PrivateKey.generate())
    later = statement_for(KEY, NOW + timedelta(seconds=1))
    for statement in (other, later):
        with pytest.raises(TlsKeyUnboundError):
            check_certificate(forge(member(), signature=statement.sign(member().receipt)), policy(), now=NOW)


def test_a_receipt_of_the_enclave_is_no_signature_for_a_tls_key() -> None:
    receipt = member().receipt.sign(statement_for(KEY).nonce)
    with pytest.raises(TlsKeyUnboundError):
        check_certificate(forge(member(), signature=receipt), policy(), now=NOW)


def test_evidence_about_another_key_is_refused() -> None:
    theirs = parse_certificate(member().identity().certificate)
    statement = statement_for(KEY)
    certificate = build_certificate(
        statement, evidence=encode_evidence(theirs.evidence), signature=statement.sign(member().receipt)
    )
    with pytest.raises(FreshnessError):
        check_certificate(certificate, policy(), now=NOW)


def test_evidence_of_another_host_under_a_key_of_ones_own_is_refused() -> None:
    statement, ben = statement_for(KEY), member("ben")
    evidence = encode_evidence(member().evidence(statement.nonce))
    certificate = build_certificate(statement, evidence=evidence, signature=statement.sign(ben.receipt))
    with pytest.raises(TlsKeyUnboundError):
        check_certificate(certificate, policy(), now=NOW)


def test_another_host_than_the_one_asked_for_is_refused() -> None:
    with pytest.raises(HostMismatchError, match=member().id.hex()):
        check_certificate(member("ben").identity().certificate, policy(), now=NOW, host_id=member().id)


@pytest.mark.parametrize("seconds", [-SKEW_S - 1, LIFE_S - SKEW_S, 86_400])
def test_a_certificate_outside_its_time_is_refused(seconds: int) -> None:
    certificate = member().identity().certificate
    with pytest.raises(EndorsementExpiredError, match="certificate time"):
        check_certificate(certificate, policy(), now=NOW + timedelta(seconds=seconds))


def test_a_certificate_that_holds_longer_than_evidence_may_age_is_refused() -> None:
    statement = TlsKeyStatement(key=bytes(32), not_before=NOW, not_after=NOW + timedelta(seconds=601))
    evidence = encode_evidence(member().evidence(statement.nonce))
    certificate = build_certificate(statement, evidence=evidence, signature=statement.sign(member().receipt))
    with pytest.raises(FreshnessError, match="at most 600 s"):
        check_certificate(certificate, policy(), now=NOW)


def test_a_simulated_host_is_refused_under_the_production_roots() -> None:
    production = AppraisalPolicy(reference=policy().reference)
    with pytest.raises(UntrustedRootError):
        check_certificate(member().identity().certificate, production, now=NOW)


def test_a_host_with_another_image_is_refused() -> None:
    lying = Member(member().receipt, host(SNP_CPU, 0, Fault.FOREIGN_MEASUREMENT))
    with pytest.raises(MeasurementNotAllowedError):
        check_certificate(lying.identity().certificate, policy(), now=NOW)


def test_a_certificate_that_was_edited_for_a_longer_time_is_refused() -> None:
    read = parse_certificate(member().identity().certificate)
    longer = replace(read.statement, not_after=read.statement.not_after + timedelta(seconds=60))
    certificate = build_certificate(longer, evidence=encode_evidence(read.evidence), signature=read.signature)
    with pytest.raises(FreshnessError):
        check_certificate(certificate, policy(), now=NOW)


CERTIFICATE = member().identity().certificate


@settings(max_examples=40, deadline=None)
@given(bit=st.integers(0, 8 * len(CERTIFICATE) - 1))
def test_one_flipped_bit_changes_no_verdict(bit: int) -> None:
    """What is signed by nobody (names, serial, the public issuer's signature) may change; nothing that is believed."""
    try:
        peer = check_certificate(flipped(CERTIFICATE, bit), policy(), now=NOW)
    except AttestationError:
        return
    changed = parse_certificate(flipped(CERTIFICATE, bit))
    honest = parse_certificate(CERTIFICATE)
    assert (changed.statement, changed.evidence) == (honest.statement, honest.evidence)
    assert peer.verdict.host_id == member().id


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=200), cut=st.integers(0, len(CERTIFICATE) - 1))
def test_garbage_is_malformed_and_nothing_worse(data: bytes, cut: int) -> None:
    for hostile in (data, CERTIFICATE[:cut], CERTIFICATE + data):
        with pytest.raises(MalformedEvidenceError):
            parse_certificate(hostile)


def other_certificate(key: object, oid: str, content: bytes, hash_: SHA256 | None = None, **times: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.not_valid_before(times.get("begin", NOW)).not_valid_after(NOW + timedelta(seconds=9))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
    signed = builder.public_key(key.public_key()).add_extension(extension, critical=False).sign(key, hash_)
    return signed.public_bytes(Encoding.DER)


def packed(value: dict[str, cbor.Value]) -> bytes:
    return cbor.encode(value)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        pytest.param(other_certificate(KEY, "1.2.3", b""), "one extension", id="another-extension"),
        pytest.param(
            other_certificate(ec.generate_private_key(ec.SECP256R1()), EXTENSION_OID, b"", SHA256()),
            "Ed25519",
            id="another-kind-of-key",
        ),
        pytest.param(other_certificate(KEY, EXTENSION_OID, b""), "truncated", id="empty"),
        pytest.param(other_certificate(KEY, EXTENSION_OID, packed({"v": 2})), "v = 1", id="another-version"),
        pytest.param(
            other_certificate(KEY, EXTENSION_OID, packed({"v": 1, "evidence": b"", "signature": bytes(64), "x": 1})),
            "v = 1",
            id="unknown-field",
        ),
        pytest.param(
            other_certificate(KEY, EXTENSION_OID, packed({"v": 1, "evidence": b"", "signature": bytes(63)})),
            "63 bytes",
            id="short-signature",
        ),
        pytest.param(
            other_certificate(KEY, EXTENSION_OID, packed({"v": 1, "evidence": b"no", "signature": bytes(64)})),
            "zlib",
            id="not-compressed",
        ),
        pytest.param(
            other_certificate(
                KEY, EXTENSION_OID, packed({"v": 1, "evidence": zlib.compress(b"") + b"x", "signature": bytes(64)})
            ),
            "followed",
            id="bytes-behind",
        ),
        pytest.param(
            other_certificate(
                KEY, EXTENSION_OID, packed({"v": 1, "evidence": zlib.compress(b"x")[:-1], "signature": bytes(64)})
            ),
            "cut short",
            id="cut-short",
        ),
        pytest.param(bytes(CERTIFICATE_MAX + 1), "at most", id="too-large"),
    ],
)
def test_malformed(certificate: bytes, why: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=why):
        parse_certificate(certificate)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(64 * EVIDENCE_SIZE_MAX), 9)
    certificate = other_certificate(KEY, EXTENSION_OID, packed({"v": 1, "evidence": bomb, "signature": bytes(64)}))
    with pytest.raises(MalformedEvidenceError, match="too large"):
        parse_certificate(certificate)


def test_evidence_that_no_tls_library_would_read_is_not_put_into_a_certificate() -> None:
    noise = Ed25519PrivateKey.generate().sign(b"") + bytes(range(256)) * 2
    incompressible = b"".join(hashlib.sha256(noise + bytes([n & 255, n >> 8])).digest() for n in range(3200))
    with pytest.raises(ValueError, match="TLS libraries"):
        build_certificate(statement_for(KEY), evidence=incompressible, signature=bytes(64))


@pytest.mark.parametrize(
    "fields",
    [
        {"key": bytes(31)},
        {"not_before": NOW.replace(tzinfo=None)},
        {"not_after": NOW},
        {"not_before": NOW.replace(microsecond=1)},
    ],
)
def test_a_statement_that_says_nothing_definite_is_refused(fields: dict[str, object]) -> None:
    good = {"key": bytes(32), "not_before": NOW, "not_after": NOW + timedelta(seconds=1)}
    with pytest.raises(ValueError, match=r"statement|certificate"):
        TlsKeyStatement(**(good | fields))


def test_the_issuer_is_the_same_everywhere_and_the_extension_has_its_documented_name() -> None:
    assert issuer() == issuer.__wrapped__()
    assert Certificate.parse(issuer()).is_authority()
    extension = x509.load_der_x509_certificate(CERTIFICATE).extensions[0]
    assert extension.oid.dotted_string == EXTENSION_OID
    assert not extension.critical


def test_vector() -> None:
    begin = datetime(2026, 6, 1, 12, tzinfo=UTC)
    statement = TlsKeyStatement(
        key=KEY.public_key().public_bytes_raw(), not_before=begin, not_after=begin + timedelta(seconds=300)
    )
    said = (
        statement.nonce,
        statement.sign(Ed25519PrivateKey.from_private_bytes(b"r" * 32)),
        hashlib.sha256(issuer()).digest(),
    )
    page = (Path(__file__).parents[2] / "docs" / "protocol" / "ratls.md").read_text()
    for value in said:
        assert f"`{value.hex()}`" in page
