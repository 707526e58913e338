"""A simulated NVIDIA: a device root of its own, and GPUs certified under it.

Every certificate says "Simulated" in its subject. Only a policy that names the simulated root accepts any of it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation import cbor
from attestation.certificate import Certificate
from attestation.sim.der import identifier, integer, key_bytes, load_ec_key, octets, sequence
from attestation.sim.firmware import GPU_MODELS, GpuFirmware
from attestation.sim.gpu import NO_FAULTS, GpuFaults, SimulatedGpu
from attestation.sim.ocsp import SimulatedResponder

__all__ = ["GPU_MODELS", "NO_FAULTS", "GpuFaults", "GpuFirmware", "SimulatedGpu", "SimulatedNvidia"]

_FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
_ROOT = "Simulated Device Identity CA"
_FAMILY = "Simulated GPU Identity"
_PROVISIONER = "Simulated GPU Provisioner ICA 1"
_FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # as the genuine certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNvidia:
    """The vendor: root, family and provisioner; the last one certifies GPUs.

    Attributes:
        issued: start of every certificate's validity.
        provisioner_key: signs GPUs' certificates. The keys above it are not kept.
        authorities: certificates of provisioner, family and root, DER.
        responder: says whether certificates were revoked.
    """

    issued: datetime
    provisioner_key: ec.EllipticCurvePrivateKey
    authorities: tuple[bytes, bytes, bytes]
    responder: SimulatedResponder

    @classmethod
    def create(cls, now: datetime) -> Self:
        """Make a vendor."""
        issued = now.astimezone(UTC).replace(microsecond=0) - timedelta(days=1)
        root, family, provisioner = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
        authorities = (
            _certificate(_PROVISIONER, provisioner, _FAMILY, family, issued),
            _certificate(_FAMILY, family, _ROOT, root, issued),
            _certificate(_ROOT, root, _ROOT, root, issued),
        )
        signers = dict(zip(authorities, (provisioner, family, root), strict=True))
        responder = SimulatedResponder.create(signers, now=issued)
        return cls(issued=issued, provisioner_key=provisioner, authorities=authorities, responder=responder)

    @property
    def root(self) -> bytes:
        """The pin of this vendor: SHA-256 of the root key's SubjectPublicKeyInfo."""
        return sha256(Certificate.parse(self.authorities[-1]).public_key_info).digest()

    def make_gpu(
        self,
        model: str = "H100",
        *,
        firmware: GpuFirmware | None = None,
        not_after: datetime = _FOREVER,
        identity: bytes | None = None,
    ) -> SimulatedGpu:
        """Make a GPU this vendor endorses.

        Args:
            model: one of `GPU_MODELS`.
            firmware: run this in place of the model's.
            not_after: end of the firmware certificate.
            identity: firmware identity in the certificate if it is not to be the firmware's; empty leaves it out.
        """
        if model not in GPU_MODELS:
            raise ValueError(f"unknown GPU model {model!r}, want one of {', '.join(GPU_MODELS)}")
        runs = firmware or GPU_MODELS[model]
        device, leaf = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        serial = secrets.token_hex(9).upper()
        device_name = _name(f"{runs.chip} A01 GSP BROM", serial)
        fwid = runs.identity() if identity is None else identity
        certificates = (
            _sign(
                _builder(_name(f"{runs.chip} A01 GSP FMC LF", secrets.token_hex(20).upper()), leaf, self.issued)
                .issuer_name(device_name)
                .not_valid_after(not_after),
                device,
                authority=False,
                extension=_fwid_extension(device.public_key(), fwid) if fwid else None,
            ),
            _sign(
                _builder(device_name, device, self.issued).issuer_name(_name(_PROVISIONER)).not_valid_after(_FOREVER),
                self.provisioner_key,
                authority=True,
            ),
        )
        return SimulatedGpu(firmware=runs, key=leaf, chain=(*certificates, *self.authorities))

    def to_bytes(self) -> bytes:
        """Return the whole vendor, the provisioner's private key included."""
        return cbor.encode(
            {
                "issued": int(self.issued.timestamp()),
                "provisioner_key": key_bytes(self.provisioner_key),
                "authorities": list(self.authorities),
                "responder": self.responder.to_fields(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {
                "issued": int(issued),
                "provisioner_key": bytes(key),
                "authorities": [bytes(provisioner), bytes(family), bytes(root)],
                "responder": responder,
            }:
                return cls(
                    issued=datetime.fromtimestamp(issued, UTC),
                    provisioner_key=load_ec_key(key),
                    authorities=(provisioner, family, root),
                    responder=SimulatedResponder.from_fields(responder),
                )
        raise ValueError("not a saved simulated NVIDIA; make a new one")


def _name(common: str, serial: str | None = None) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated GPU vendor"),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ]
    if serial:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(attributes)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, issued: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issued)
    )


def _sign(
    builder: x509.CertificateBuilder,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
    extension: x509.ExtensionType | None = None,
) -> bytes:
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    if extension:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, SHA384()).public_bytes(Encoding.DER)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    issued: datetime,
) -> bytes:
    builder = _builder(_name(subject), key, issued).issuer_name(_name(issuer)).not_valid_after(_FOREVER)
    return _sign(builder, issuer_key, authority=True)


def _fwid_extension(device: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    """Return the DICE extension: version, the device's key, and the firmware's SHA-384."""
    key = device.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = sequence(identifier("2.16.840.1.101.3.4.2.2"), octets(fwid))  # SHA-384
    return x509.UnrecognizedExtension(_FWID_EXTENSION, sequence(integer(1), key, digest))
