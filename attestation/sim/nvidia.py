"""A simulated NVIDIA: a device root of its own, and GPUs and switches certified under it.

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
from attestation.nvidia_facts import PDI_SIZE
from attestation.sim.der import element, identifier, integer, key_bytes, load_ec_key, octets, sequence
from attestation.sim.firmware import GPU_MODELS, SWITCH_FIRMWARE, GpuFirmware, SwitchFirmware
from attestation.sim.gpu import NO_FAULTS, GpuFaults, SimulatedGpu
from attestation.sim.ocsp import SimulatedResponder
from attestation.sim.switch import SimulatedSwitch

__all__ = ["GPU_MODELS", "NO_FAULTS", "GpuFaults", "GpuFirmware", "SimulatedGpu", "SimulatedNvidia"]

_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
_CLOSED = b"\0\x80\0\0\1"  # bit string: not configured, of fixed width, as on genuine Blackwell
_DEBUG = b"\0\x90\0\0\1"  # and in debug mode
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
        debug: bool = False,
    ) -> SimulatedGpu:
        """Make a GPU this vendor endorses.

        Args:
            model: one of `GPU_MODELS`.
            firmware: run this in place of the model's.
            not_after: end of the firmware certificate.
            identity: firmware identity in the certificate if it is not to be the firmware's; empty leaves it out.
            debug: it was in debug mode when it made its firmware key; only Blackwell's certificates say so.
        """
        if model not in GPU_MODELS:
            raise ValueError(f"unknown GPU model {model!r}, want one of {', '.join(GPU_MODELS)}")
        runs = firmware or GPU_MODELS[model]
        fwid = runs.identity() if identity is None else identity
        flags = None if runs.hopper else _DEBUG if debug else _CLOSED
        key, chain = self._certify(runs.chip, "GSP", 0x41, fwid, not_after=not_after, flags=flags)
        return SimulatedGpu(firmware=runs, key=key, chain=chain)

    def make_switch(self, *, firmware: SwitchFirmware = SWITCH_FIRMWARE) -> SimulatedSwitch:
        """Make an NVSwitch this vendor endorses."""
        key, chain = self._certify("LS_10", "FSP", 0x50, firmware.identity(), not_after=_FOREVER, flags=None)
        return SimulatedSwitch(firmware=firmware, key=key, chain=chain)

    def _certify(
        self, chip: str, unit: str, prefix: int, fwid: bytes, *, not_after: datetime, flags: bytes | None
    ) -> tuple[ec.EllipticCurvePrivateKey, tuple[bytes, ...]]:
        """Return a new device's firmware key and its certificates.

        Args:
            chip: chip, as genuine certificates name it.
            unit: which processor on it signs.
            prefix: first byte of the device's serial number; a random identifier follows.
            fwid: firmware identity; empty leaves it out.
            not_after: end of the firmware certificate.
            flags: of the device's state, as Blackwell's certificates have them.
        """
        device, leaf = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        serial = int.from_bytes(bytes([prefix]) + secrets.token_bytes(PDI_SIZE), "big")
        device_name = _name(f"{chip} A01 {unit} BROM", f"{serial:X}")
        leaf_name = _name(f"{chip} A01 {unit} FMC LF", secrets.token_hex(20).upper())
        extension = _device_id(device.public_key(), fwid) if flags is None else _tcb_info(fwid, flags)
        certificates = (
            _sign(
                _builder(leaf_name, leaf, self.issued).issuer_name(device_name).not_valid_after(not_after),
                device,
                authority=False,
                extension=extension if fwid else None,
            ),
            _sign(
                _builder(device_name, device, self.issued, serial)
                .issuer_name(_name(_PROVISIONER))
                .not_valid_after(_FOREVER),
                self.provisioner_key,
                authority=True,
            ),
        )
        return leaf, (*certificates, *self.authorities)

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


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issued: datetime, serial: int | None = None
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
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


def _device_id(device: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    """Return Hopper's DICE extension: version, the device's key, and the firmware's SHA-384."""
    key = device.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return x509.UnrecognizedExtension(_DEVICE_ID, sequence(integer(1), key, _fwid(fwid)))


def _tcb_info(fwid: bytes, flags: bytes) -> x509.UnrecognizedExtension:
    """Return Blackwell's DICE extension: vendor, model, version, numbers, digests of two firmware parts, flags."""
    texts = (element(0x80, b"Simulated"), element(0x81, b"GB100 A01 GSP"), element(0x82, b"01"))
    numbers = (element(tag, b"\0") for tag in (0x83, 0x84, 0x85))
    digests = element(0xA6, _fwid(fwid) + _fwid(bytes(48)))
    return x509.UnrecognizedExtension(_TCB_INFO, sequence(*texts, *numbers, digests, element(0x87, flags)))


def _fwid(digest: bytes) -> bytes:
    return sequence(identifier("2.16.840.1.101.3.4.2.2"), octets(digest))  # SHA-384
