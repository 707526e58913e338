"""XML signatures of manifests: NVIDIA's own hold and their damaged ones do not; every way of wrapping is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.__main__ import main
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    UntrustedRootError,
)
from attestation.rim import parse_rim
from attestation.rim_signature import SignedRim, check_rim_signature
from attestation.roots import NVIDIA_RIM_ROOT
from attestation.sim.firmware import GPU_MODELS, SWITCH_FIRMWARE
from tests.attestation.vendors import NOW, flipped, vector

signxml = pytest.importorskip("signxml", reason="XML signatures are the extra 'rim'")
etree = pytest.importorskip("lxml.etree", reason="XML signatures are the extra 'rim'")

GENUINE = frozenset({NVIDIA_RIM_ROOT})
SWITCH = "NV_SWITCH_BIOS_5612_0002_890_9610550001"
DS = "{http://www.w3.org/2000/09/xmldsig#}"


@dataclass(frozen=True)
class Signer:
    """A root of our own, and the key it certified to sign manifests."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def root(self) -> bytes:
        key = self.chain[-1].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(key).digest()

    def sign(self, data: bytes, uri: str | None = None, **changes: object) -> bytes:
        usual = {
            "method": signxml.methods.enveloped,
            "signature_algorithm": "ecdsa-sha384",
            "digest_algorithm": "sha384",
            "c14n_algorithm": "http://www.w3.org/2006/12/xml-c14n11",
        }
        pem = [certificate.public_bytes(Encoding.PEM).decode() for certificate in self.chain]
        signed = signxml.XMLSigner(**{**usual, **changes}).sign(
            etree.fromstring(data), key=self.key, cert=pem, reference_uri=uri
        )
        return etree.tostring(signed)


def _make_signer(*, authority: bool = True, life: timedelta = timedelta(days=30)) -> Signer:
    root_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    chain = (
        _certificate("Simulated signer", key, "Simulated root", root_key, ca=False, life=life),
        _certificate("Simulated root", root_key, "Simulated root", root_key, ca=authority, life=timedelta(days=300)),
    )
    return Signer(key, chain)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    life: timedelta,
) -> x509.Certificate:
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    bits = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = {**dict.fromkeys((*bits, "encipher_only", "decipher_only"), False), "digital_signature": not ca}
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=ca, **usage), critical=True)
        .sign(issuer_key, SHA384())
    )


@cache
def signer() -> Signer:
    return _make_signer()


@cache
def signed() -> bytes:
    return signer().sign(SWITCH_FIRMWARE.manifest())


def _check(data: bytes, now: datetime = NOW, roots: frozenset[bytes] | None = None) -> SignedRim:
    return check_rim_signature(data, roots=roots or frozenset({signer().root}), now=now)


@pytest.mark.parametrize(
    ("name", "at", "until"),
    [
        ("NV_GPU_DRIVER_GH100_550.144.03.xml", NOW, "2026-12-30"),
        (f"{SWITCH}.xml", NOW, "2027-11-02"),
        ("1010_0200_882_96005E0001_test_no_gpu.swidtag", datetime(2025, 1, 1, tzinfo=UTC), "2025-06-22"),
    ],
)
def test_a_genuine_signature_holds_down_to_nvidias_root(name: str, at: datetime, until: str) -> None:
    data = vector(f"nvidia-gpu/{name}").read_bytes()
    found = _check(data, at, GENUINE)
    assert found.rim == parse_rim(data)
    assert f"{found.not_after:%F}" == until


@pytest.mark.parametrize(
    ("name", "at", "refusal"),
    [
        ("NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", NOW, EvidenceSignatureError),
        ("NV_GPU_DRIVER_GH100_570.124.03_expired.xml", NOW, EndorsementExpiredError),
        ("NV_GPU_DRIVER_GH100_570.124.03_expired.xml", datetime(2025, 1, 1, 12, tzinfo=UTC), EvidenceSignatureError),
        (f"{SWITCH}_invalid_signature.xml", datetime(2026, 5, 1, tzinfo=UTC), EvidenceSignatureError),
        (f"{SWITCH}_measurement_mismatch.xml", datetime(2025, 5, 1, tzinfo=UTC), EvidenceSignatureError),
        ("incorrect_signature_driver_rim.xml", NOW, EvidenceSignatureError),
        ("incorrect_cert_chain_driver_rim.xml", NOW, UntrustedRootError),
    ],
)
def test_refused_genuine_manifest_that_was_damaged(name: str, at: datetime, refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        _check(vector(f"nvidia-gpu/{name}").read_bytes(), at, GENUINE)


def test_the_pinned_key_is_that_of_nvidias_manifest_root() -> None:
    (root,) = x509.load_pem_x509_certificates(vector("nvidia-gpu/verifier_RIM_root.pem").read_bytes())
    key = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert sha256(key).digest() == NVIDIA_RIM_ROOT


def test_an_own_signature_holds() -> None:
    found = _check(signed())
    assert (found.signer, found.rim.version) == ("Simulated signer", SWITCH_FIRMWARE.bios)
    assert found.rim.digest == sha256(signed()).digest()
    assert found.not_after == NOW + timedelta(days=30)


def test_refused_under_another_root() -> None:
    with pytest.raises(UntrustedRootError):
        _check(signed(), roots=GENUINE)


@pytest.mark.parametrize("now", [NOW - timedelta(days=2), NOW + timedelta(days=31)])
def test_refused_outside_the_certificates_time(now: datetime) -> None:
    with pytest.raises(EndorsementExpiredError):
        _check(signed(), now)


def test_refused_chain_whose_root_may_not_sign_certificates() -> None:
    odd = _make_signer(authority=False)
    with pytest.raises(EvidenceSignatureError, match="not named by an authority"):
        _check(odd.sign(SWITCH_FIRMWARE.manifest()), roots=frozenset({odd.root}))


def test_refused_signer_that_only_names_the_trusted_root() -> None:
    stranger = _make_signer()
    forged = Signer(stranger.key, (stranger.chain[0], signer().chain[1]))
    with pytest.raises(EvidenceSignatureError, match="not signed by the next"):
        _check(forged.sign(SWITCH_FIRMWARE.manifest()))


def test_refused_certificate_of_a_signer_who_did_not_sign() -> None:
    forged = Signer(_make_signer().key, signer().chain)
    with pytest.raises(EvidenceSignatureError, match="RIM signature"):
        _check(forged.sign(SWITCH_FIRMWARE.manifest()))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"signature_algorithm": "ecdsa-sha256"}, id="weaker-signature"),
        pytest.param({"digest_algorithm": "sha256"}, id="weaker-digest"),
    ],
)
def test_refused_other_algorithms(changes: dict[str, object]) -> None:
    with pytest.raises(EvidenceSignatureError):
        _check(signer().sign(SWITCH_FIRMWARE.manifest(), **changes))


def _edit(change: str) -> bytes:
    """The signed manifest, changed by somebody without a key."""
    root = etree.fromstring(signed())
    signature = root.find(f"{DS}Signature")
    resource = next(element for element in root.iter() if element.tag.endswith("Resource"))
    forged = etree.fromstring(SWITCH_FIRMWARE.manifest().replace(b"96.10.FF.00.01", b"96.10.FF.00.02"))
    match change:
        case "value":
            name = next(name for name in resource.attrib if name.endswith("Hash0"))
            resource.set(name, "00" * 48)
        case "two-signatures":
            root.append(etree.fromstring(etree.tostring(signature)))
        case "signature-deeper":
            resource.getparent().append(signature)
        case "object-in-signature":
            etree.SubElement(signature, f"{DS}Object").append(forged)
        case "original-within-a-forged-one":
            forged.append(root)
            return etree.tostring(forged)
        case "original-within-the-signature-of-a-forged-one":
            forged.append(signature)
            etree.SubElement(signature, f"{DS}Object").append(etree.fromstring(SWITCH_FIRMWARE.manifest()))
            return etree.tostring(forged)
        case "signature-on-a-forged-one":
            forged.append(signature)
            return etree.tostring(forged)
        case "no-certificates":
            for certificate in list(signature.iter(f"{DS}X509Certificate")):
                certificate.getparent().remove(certificate)
        case "certificate-that-is-no-base64":
            next(signature.iter(f"{DS}X509Certificate")).text = "*" * 64
        case "no-signature":
            root.remove(signature)
    return etree.tostring(root)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("value", EvidenceSignatureError),
        ("two-signatures", MalformedEvidenceError),
        ("signature-deeper", MalformedEvidenceError),
        ("object-in-signature", MalformedEvidenceError),
        ("original-within-a-forged-one", MalformedEvidenceError),
        ("original-within-the-signature-of-a-forged-one", MalformedEvidenceError),
        ("signature-on-a-forged-one", EvidenceSignatureError),
        ("no-certificates", MalformedEvidenceError),
        ("certificate-that-is-no-base64", MalformedEvidenceError),
        ("no-signature", MalformedEvidenceError),
    ],
)
def test_refused_wrapping(change: str, refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        _check(_edit(change))


def test_refused_signature_over_a_part_only() -> None:
    part = SWITCH_FIRMWARE.manifest().replace(b"<ns0:Meta ", b'<ns0:Meta Id="part" ')
    with pytest.raises((MalformedEvidenceError, EvidenceSignatureError)):
        _check(signer().sign(part, "#part"))


def test_refused_file_that_two_readers_understand_differently() -> None:
    odd = b'<?xml version="1.0" encoding="ISO-8859-1"?>' + SWITCH_FIRMWARE.manifest().replace(
        b"96.10.FF.00.01", "96.10.FF.00.0\u00e9".encode()
    )
    root = etree.fromstring(signer().sign(odd))
    data = etree.tostring(root, encoding="ISO-8859-1")
    assert b"\xc3\xa9" in data
    with pytest.raises(EvidenceSignatureError, match="not what the file says"):
        _check(data)


@pytest.mark.parametrize("bit", range(0, len(SWITCH_FIRMWARE.manifest()) * 8, 9973))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    with pytest.raises(AttestationError):
        _check(flipped(signed(), bit))


def test_refused_document_type_before_the_library_reads_it() -> None:
    with pytest.raises(MalformedEvidenceError, match="document type"):
        _check(b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + signed())


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "signxml", None)
    with pytest.raises(ModuleNotFoundError, match=r"chrysalis-cluster\[rim\]"):
        _check(signed())


def test_the_command_prints_the_digest_to_pin(capsys: pytest.CaptureFixture[str]) -> None:
    path = vector(f"nvidia-gpu/{SWITCH}.xml")
    assert main(["check-rim", str(path), "--at", "2026-06-01T00:00:00"]) == 0
    assert f"sha256 to pin: {sha256(path.read_bytes()).hexdigest()}" in capsys.readouterr().out


def test_the_command_refuses_what_nvidia_did_not_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rim.xml"
    file.write_bytes(signed())
    assert main(["check-rim", str(file)]) == 1
    assert capsys.readouterr().out.startswith("refused: UntrustedRootError")
    file.write_bytes(GPU_MODELS["H100"].driver_manifest())
    assert main(["check-rim", str(file)]) == 1
    assert "0 signatures" in capsys.readouterr().out


def test_the_command_says_when_it_could_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["check-rim", str(tmp_path / "missing")]) == 2
    monkeypatch.setitem(sys.modules, "signxml", None)
    file = tmp_path / "rim.xml"
    file.write_bytes(signed())
    assert main(["check-rim", str(file)]) == 2
    assert "could not tell" in capsys.readouterr().err
