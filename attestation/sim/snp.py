"""A simulated AMD: root keys of its own, certificates and revocation lists in AMD's form.

Every certificate says "Simulated" in its subject. Only a policy that names the simulated root accepts any of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation import cbor
from attestation.certificate import BIT_STRING, SEQUENCE, Certificate, read_elements, read_one
from attestation.sim.der import element, integer, key_bytes, load_rsa_key, sequence
from attestation.sim.snp_platform import NO_FAULTS, SimulatedSnpPlatform, SnpFaults
from attestation.snp_policy import SnpTcb
from attestation.snp_tcb import SnpProduct

__all__ = ["NO_FAULTS", "SIMULATED_TCB", "SimulatedAmd", "SimulatedSnpPlatform", "SnpFaults"]

# Security versions of simulated firmware; they mean nothing on real processors.
SIMULATED_TCB = SnpTcb(bootloader=4, tee=0, snp=24, microcode=219)
_AMD = "1.3.6.1.4.1.3704.1"
_IA5_STRING = 0x16
_PSS = PSS(MGF1(SHA384()), 48)
_STEPPINGS = {SnpProduct.MILAN: b"Milan-B0", SnpProduct.GENOA: b"Genoa-B0", SnpProduct.TURIN: b"Turin"}
_ARK_SERIAL, _ASK_SERIAL, _ASVK_SERIAL = 0x10000, 0x10001, 0x10101
_PROVIDER = b"Simulated provider"
_VERSION_AND_SERIAL_1 = bytes.fromhex("a003020102020101")
_VERSION_AND_SERIAL_0 = bytes.fromhex("a003020102020100")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAmd:
    """The vendor: one root key and two signing keys, certified anew for each product line as AMD names it.

    Attributes:
        issued: when it began; certificates run from then, unless a fault says otherwise.
        ark_key: root key.
        ask_key: signs certificates of chips' keys.
        asvk_key: signs certificates of keys lent to providers.
        authorities: for each product line the certificates ARK, ASK and ASVK, DER.
    """

    issued: datetime
    ark_key: rsa.RSAPrivateKey
    ask_key: rsa.RSAPrivateKey
    asvk_key: rsa.RSAPrivateKey
    authorities: Mapping[SnpProduct, tuple[bytes, bytes, bytes]]

    @classmethod
    def create(cls, now: datetime) -> Self:
        """Make a vendor; three RSA-4096 keys take about a second."""
        issued = now.astimezone(UTC).replace(microsecond=0) - timedelta(days=1)
        return cls._certified(issued, *(rsa.generate_private_key(65537, 4096) for _ in range(3)))

    @classmethod
    def _certified(
        cls, issued: datetime, ark_key: rsa.RSAPrivateKey, ask_key: rsa.RSAPrivateKey, asvk_key: rsa.RSAPrivateKey
    ) -> Self:
        """Certify the keys; PSS salts make every certificate new, so saved vendors keep theirs."""
        authorities = {}
        for line in SnpProduct:
            root = f"ARK-{line}"
            places = (
                (root, ark_key, _ARK_SERIAL),
                (f"SEV-{line}", ask_key, _ASK_SERIAL),
                (f"SEV-VLEK-{line}", asvk_key, _ASVK_SERIAL),
            )
            ark, ask, asvk = (
                _authority(name, key.public_key(), issuer=root, issuer_key=ark_key, serial=serial, issued=issued)
                for name, key, serial in places
            )
            authorities[line] = (ark, ask, asvk)
        return cls(issued=issued, ark_key=ark_key, ask_key=ask_key, asvk_key=asvk_key, authorities=authorities)

    @property
    def root(self) -> bytes:
        """The pin of this vendor: SHA-256 of the root key's SubjectPublicKeyInfo."""
        ark, _, _ = self.authorities[SnpProduct.MILAN]
        return sha256(Certificate.parse(ark).public_key_info).digest()

    def make_platform(
        self,
        *,
        product: SnpProduct = SnpProduct.MILAN,
        tcb: SnpTcb = SIMULATED_TCB,
        vlek: bool = False,
        serial: int = 0,
        valid_days: int = 7 * 365,
        crl: bytes | None = None,
        line: SnpProduct | None = None,
        other_authority: bool = False,
        extensions: Mapping[str, bytes] | None = None,
    ) -> SimulatedSnpPlatform:
        """Make a processor with a chip key this vendor endorses.

        Args:
            product: product line.
            tcb: firmware versions; on Milan and Genoa there is no fmc.
            vlek: endorse a provider's key instead of the chip's.
            serial: of the chip's certificate; 0 as AMD's are. Give another to revoke it.
            valid_days: life of the chip's certificate from `issued`.
            crl: revocation list to hand out; a fresh empty one by default.
            line: product line whose authorities certify the key; its own by default, another is a vendor's mistake.
            other_authority: the signing key for the other kind of keys certifies it: another mistake.
            extensions: values of certificate extensions to exchange or add, by object identifier.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        chip_id = secrets.token_bytes(8).ljust(64, b"\0") if product is SnpProduct.TURIN else secrets.token_bytes(64)
        named = {**_chip_extensions(product, tcb, None if vlek else chip_id), **(extensions or {})}
        line = line or product
        ark, ask, asvk = self.authorities[line]
        by_asvk = vlek is not other_authority
        issuer, signer = (f"SEV-VLEK-{line}", self.asvk_key) if by_asvk else (f"SEV-{line}", self.ask_key)
        name = "SEV-VLEK" if vlek else "SEV-VCEK"
        builder = _builder(
            name, key.public_key(), issuer=issuer, serial=serial or 1, issued=self.issued, days=valid_days
        )
        for oid, value in named.items():
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
        vcek = builder.sign(signer, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)
        return SimulatedSnpPlatform(
            product=product,
            chip_id=chip_id,
            tcb=tcb,
            vlek=vlek,
            key=key,
            vcek=vcek if serial else _with_serial_0(vcek, signer),
            ask=asvk if by_asvk else ask,
            ark=ark,
            crl=crl or self.make_crl(product=line),
        )

    def make_crl(
        self,
        *,
        product: SnpProduct = SnpProduct.MILAN,
        revoked: Collection[int] = (),
        issued: datetime | None = None,
        valid_days: int = 365,
        number: int = 1,
    ) -> bytes:
        """Return a revocation list, DER.

        Args:
            product: product line, whose ARK issues it.
            revoked: serial numbers of revoked certificates.
            issued: when it was made; at the vendor's beginning by default.
            valid_days: days until it must be renewed.
            number: CRL number.
        """
        start = issued or self.issued
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(f"ARK-{product}"))
            .last_update(start)
            .next_update(start + timedelta(days=valid_days))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.ark_key, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)

    def to_bytes(self) -> bytes:
        """Return the whole vendor, private keys included."""
        return cbor.encode(
            {
                "issued": int(self.issued.timestamp()),
                "keys": [key_bytes(key) for key in (self.ark_key, self.ask_key, self.asvk_key)],
                "authorities": {str(line): list(chain) for line, chain in self.authorities.items()},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {"issued": int(issued), "keys": [bytes(ark), bytes(ask), bytes(asvk)], "authorities": dict(saved)}:
                return cls(
                    issued=datetime.fromtimestamp(issued, UTC),
                    ark_key=load_rsa_key(ark),
                    ask_key=load_rsa_key(ask),
                    asvk_key=load_rsa_key(asvk),
                    authorities={line: _saved_chain(saved.get(str(line))) for line in SnpProduct},
                )
        raise ValueError("not a saved simulated AMD; make a new one")


def _saved_chain(saved: cbor.Value) -> tuple[bytes, bytes, bytes]:
    match saved:
        case [bytes(ark), bytes(ask), bytes(asvk)]:
            return ark, ask, asvk
    raise ValueError("not a saved simulated AMD; make a new one")


def _with_serial_0(certificate: bytes, signer: rsa.RSAPrivateKey) -> bytes:
    """Return the certificate with AMD's serial number 0, which the builder does not write, signed anew."""
    signed, algorithm, _ = read_elements(read_one(certificate, SEQUENCE))
    body = signed.content.replace(_VERSION_AND_SERIAL_1, _VERSION_AND_SERIAL_0, 1)
    signature = signer.sign(sequence(body), _PSS, SHA384())
    return sequence(sequence(body), algorithm.whole, element(BIT_STRING, b"\0" + signature))


def _chip_extensions(product: SnpProduct, tcb: SnpTcb, chip_id: bytes | None) -> dict[str, bytes]:
    versions = {"3.1": tcb.bootloader, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.microcode}
    if product is SnpProduct.TURIN:
        versions["3.9"] = tcb.fmc
    extensions = {f"{_AMD}.1": integer(0), f"{_AMD}.2": element(_IA5_STRING, _STEPPINGS[product])}
    for number, version in versions.items():
        extensions[f"{_AMD}.{number}"] = integer(version)
    if chip_id is None:
        return {**extensions, f"{_AMD}.5": element(_IA5_STRING, _PROVIDER)}
    return {**extensions, f"{_AMD}.4": chip_id[:8] if product is SnpProduct.TURIN else chip_id}


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Simulated Engineering"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated Micro Devices"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(
    subject: str,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    *,
    issuer: str,
    serial: int,
    issued: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(issued)
        .not_valid_after(issued + timedelta(days=days))
    )


def _authority(
    subject: str,
    key: rsa.RSAPublicKey,
    *,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    serial: int,
    issued: datetime,
) -> bytes:
    is_root = subject == issuer
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    builder = (
        _builder(subject, key, issuer=issuer, serial=serial, issued=issued, days=25 * 365)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if is_root else 0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                key_cert_sign=True,
                crl_sign=is_root,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    return builder.sign(issuer_key, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)
