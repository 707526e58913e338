"""The certificate reader: agrees with a full X.509 library on good certificates, and takes no byte on trust."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import CERTIFICATE_SIZE_MAX, Certificate, read_elements, read_integer, read_one
from attestation.errors import MalformedEvidenceError
from attestation.sim.der import element, integer, sequence
from tests.attestation.vendors import NOW

KEY = ec.generate_private_key(ec.SECP384R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simulated")])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")


def _builder(start: datetime = NOW) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )


def _certificate(builder: x509.CertificateBuilder | None = None) -> x509.Certificate:
    return (builder or _builder().add_extension(UNKNOWN, critical=False)).sign(KEY, SHA384())


GOOD = _certificate().public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(NOW, id="two-digit-year"),
        pytest.param(datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), id="last-century"),
        pytest.param(datetime(2050, 1, 1, tzinfo=UTC), id="four-digit-year"),
    ],
)
def test_it_reads_what_the_library_reads(start: datetime) -> None:
    theirs = _certificate(_builder(start).add_extension(UNKNOWN, critical=False))
    mine = Certificate.parse(theirs.public_bytes(Encoding.DER))
    assert (mine.signed, mine.signature) == (theirs.tbs_certificate_bytes, theirs.signature)
    assert (mine.not_before, mine.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert (mine.serial, mine.subject, mine.issuer) == (1, NAME.public_bytes(), NAME.public_bytes())
    assert mine.public_key_info == KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert mine.public_key() == KEY.public_key()
    assert dict(mine.extensions) == {b"\x2a\x03\x04": b"x"}


def _usage(*, signs: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**dict.fromkeys(names, False), key_cert_sign=signs, crl_sign=not signs)


@pytest.mark.parametrize(
    ("constraints", "usage", "may_sign"),
    [
        pytest.param(x509.BasicConstraints(True, None), _usage(signs=True), True, id="authority"),
        pytest.param(x509.BasicConstraints(False, None), _usage(signs=True), False, id="no-authority-by-constraints"),
        pytest.param(x509.BasicConstraints(True, 0), _usage(signs=False), False, id="no-authority-by-usage"),
        pytest.param(x509.BasicConstraints(True, 0), None, False, id="no-usage"),
        pytest.param(None, _usage(signs=True), False, id="no-constraints"),
    ],
)
def test_an_authority_needs_both_marks(
    constraints: x509.BasicConstraints | None, usage: x509.KeyUsage | None, may_sign: bool
) -> None:
    builder = _builder()
    for extension in filter(None, (constraints, usage)):
        builder = builder.add_extension(extension, critical=True)
    assert Certificate.parse(_certificate(builder).public_bytes(Encoding.DER)).is_authority() is may_sign


def test_refused_critical_extension_nobody_understands() -> None:
    strange = _certificate(_builder().add_extension(UNKNOWN, critical=True)).public_bytes(Encoding.DER)
    with pytest.raises(MalformedEvidenceError, match="critical"):
        Certificate.parse(strange)


def _rebuilt(*, signed: bytes | None = None, algorithm: bytes | None = None, signature: bytes | None = None) -> bytes:
    parts = list(read_elements(read_one(GOOD, 0x30)))
    return sequence(signed or parts[0].whole, algorithm or parts[1].whole, signature or parts[2].whole)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD + b"\0", id="a-byte-behind"),
        pytest.param(GOOD[:-1], id="cut-short"),
        pytest.param(b"\x30\x83\0" + GOOD[2:], id="length-that-is-not-minimal"),
        pytest.param(_rebuilt(algorithm=sequence(element(6, b"\x2a"))), id="two-signature-algorithms"),
        pytest.param(_rebuilt(signature=element(3, b"\1\0")), id="signature-with-unused-bits"),
        pytest.param(_rebuilt(signed=sequence(integer(1))), id="version-1"),
        pytest.param(_certificate(_builder()).public_bytes(Encoding.DER), id="no-extensions"),
        pytest.param(GOOD.replace(b"Z\x17", b"X\x17", 1), id="time-that-is-no-time"),
        pytest.param(element(0x30, bytes(CERTIFICATE_SIZE_MAX)), id="too-large"),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        Certificate.parse(data)


def test_malformed_key() -> None:
    off_curve = bytearray(GOOD)
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    off_curve[off_curve.index(point) + 1] ^= 1
    with pytest.raises(MalformedEvidenceError, match="public key"):
        Certificate.parse(bytes(off_curve)).public_key()


@given(value=st.integers(0, 1 << 70))
def test_an_integer_survives_its_encoding(value: int) -> None:
    assert read_integer(read_one(integer(value), 0x02)) == value


@pytest.mark.parametrize("content", [b"", b"\x80", b"\0\x01", b"\xff"])
def test_an_integer_has_one_encoding(content: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        read_integer(content)
