"""A simulated Intel: root, platform CA, TCB signer, and the collateral it publishes.

Every certificate says "Simulated" in its subject. Only a policy that names the simulated root accepts any of it.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation import cbor
from attestation.collateral import encode_collateral
from attestation.sim import der
from attestation.sim.collateral import GOOD, LIFE, PCE_SVN, CollateralFaults, make_qe_identity, make_tcb_info
from attestation.sim.der import key_bytes, load_ec_key
from attestation.sim.quote import CPU_SVN, raw_signature
from attestation.sim.tdx import SimulatedTdxPlatform
from attestation.x509 import encode_pem

FMSPC = bytes.fromhex("50c06f000000")
_SKEW = timedelta(hours=1)  # everything starts a little before now
_SGX = "1.2.840.113741.1.13.1"
_ROOT, _PLATFORM_CA = "Simulated SGX Root CA", "Simulated SGX PCK Platform CA"
_TCB_SIGNER, _PCK = "Simulated SGX TCB Signing", "Simulated SGX PCK Certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedIntel:
    """The vendor with its private keys; make one for each test network, and never ship it to a host."""

    root_key: ec.EllipticCurvePrivateKey
    platform_key: ec.EllipticCurvePrivateKey
    tcb_key: ec.EllipticCurvePrivateKey
    root_certificate: bytes
    platform_ca: bytes
    tcb_signer: bytes

    @classmethod
    def create(cls, now: datetime) -> Self:
        """Return a vendor with new keys whose certificates start an hour before `now`."""
        root, platform, tcb = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        issuer = _Issuer(name=_ROOT, key=root, now=now)
        return cls(
            root_key=root,
            platform_key=platform,
            tcb_key=tcb,
            root_certificate=issuer.certify(_ROOT, root, authority=1, years=30),
            platform_ca=issuer.certify(_PLATFORM_CA, platform, authority=0, years=15),
            tcb_signer=issuer.certify(_TCB_SIGNER, tcb, authority=None, years=7),
        )

    @property
    def root(self) -> bytes:
        """The pin of this vendor: SHA-256 of the root key's SubjectPublicKeyInfo."""
        spki = self.root_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).digest()

    def make_platform(self, now: datetime, faults: CollateralFaults = GOOD) -> SimulatedTdxPlatform:
        """Return a new processor with a certified key and the vendor's collateral for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = _Issuer(name=_PLATFORM_CA, key=self.platform_key, now=now)
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), _sgx_extension(secrets.token_bytes(16)))
        certificate = issuer.certify(_PCK, key, authority=None, years=7, extension=extension)
        chain = (certificate, self.platform_ca, self.root_certificate)
        platform = SimulatedTdxPlatform(fmspc=FMSPC, pck_key=key, chain=chain, collateral="")
        return platform.with_collateral(self.collateral(platform, now, faults))

    def collateral(
        self, platform: SimulatedTdxPlatform, now: datetime, faults: CollateralFaults = GOOD, *, tee: str = "tdx"
    ) -> str:
        """Return what the vendor publishes for "tdx" or "sgx" on this platform's family, signed now."""
        issued = now - _SKEW - faults.age
        issuer_chain = encode_pem((self.tcb_signer, self.root_certificate))
        tcb_info = make_tcb_info(tee, faults.fmspc or platform.fmspc, faults, issued)
        qe_identity = make_qe_identity(tee, faults, issued)
        return encode_collateral(
            {
                "pck_crl_issuer_chain": encode_pem((self.platform_ca, self.root_certificate)),
                "pck_crl": self._platform_crl(platform, issued, faults).hex(),
                "root_ca_crl": self._root_crl(issued, faults).hex(),
                "tcb_info_issuer_chain": issuer_chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": raw_signature(self.tcb_key, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": issuer_chain,
                "qe_identity": qe_identity,
                "qe_identity_signature": raw_signature(self.tcb_key, qe_identity.encode()).hex(),
            }
        )

    def to_bytes(self) -> bytes:
        """Return everything, the private keys included."""
        keys = (self.root_key, self.platform_key, self.tcb_key)
        certificates = (self.root_certificate, self.platform_ca, self.tcb_signer)
        return cbor.encode({"keys": [key_bytes(key) for key in keys], "certificates": list(certificates)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {
                "keys": [bytes(root_key), bytes(platform_key), bytes(tcb_key)],
                "certificates": [bytes(root), bytes(platform_ca), bytes(tcb_signer)],
            }:
                return cls(
                    root_key=load_ec_key(root_key),
                    platform_key=load_ec_key(platform_key),
                    tcb_key=load_ec_key(tcb_key),
                    root_certificate=root,
                    platform_ca=platform_ca,
                    tcb_signer=tcb_signer,
                )
        raise ValueError("not a saved simulated Intel; make a new one")

    def _platform_crl(self, platform: SimulatedTdxPlatform, issued: datetime, faults: CollateralFaults) -> bytes:
        revoked = [platform.chain[0]] if faults.revoke_platform else []
        return _Issuer(name=_PLATFORM_CA, key=self.platform_key, now=issued + _SKEW).revoke(
            revoked, number=faults.crl_number
        )

    def _root_crl(self, issued: datetime, faults: CollateralFaults) -> bytes:
        revoked = [self.platform_ca] if faults.revoke_platform_ca else []
        revoked += [self.tcb_signer] if faults.revoke_tcb_signer else []
        return _Issuer(name=_ROOT, key=self.root_key, now=issued + _SKEW).revoke(revoked, number=faults.crl_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issuer:
    """One signing key of the vendor."""

    name: str
    key: ec.EllipticCurvePrivateKey
    now: datetime

    def certify(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: int | None,
        years: int,
        extension: x509.ExtensionType | None = None,
    ) -> bytes:
        """Return a certificate in DER; `authority` is the path length of a CA, None for a leaf."""
        start = self.now - _SKEW
        is_ca = authority is not None
        usage = x509.KeyUsage(
            digital_signature=not is_ca,
            content_commitment=not is_ca,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_ca,
            crl_sign=is_ca,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=365 * years))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=authority), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._authority_key(), critical=False)
            .add_extension(_distribution_point(), critical=False)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)

    def revoke(self, certificates: list[bytes], *, number: int) -> bytes:
        """Return a revocation list in DER, published an hour before `now`."""
        start = self.now - _SKEW
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(start)
            .next_update(start + LIFE)
            .add_extension(self._authority_key(), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for certificate in certificates:
            serial = x509.load_der_x509_certificate(certificate).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)

    def _authority_key(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated Intel, protects nobody"),
        ]
    )


def _distribution_point() -> x509.CRLDistributionPoints:
    url = x509.UniformResourceIdentifier("https://crl.simulated.invalid/")
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint(full_name=[url], relative_name=None, reasons=None, crl_issuer=None)]
    )


def _sgx_extension(ppid: bytes) -> bytes:
    """Return the SGX extension of a PCK certificate.

    Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5.
    """

    def entry(suffix: str, value: bytes) -> bytes:
        return der.sequence(der.identifier(_SGX + suffix), value)

    tcb = [entry(f".2.{number}", der.integer(svn)) for number, svn in enumerate(CPU_SVN, 1)]
    tcb += [entry(".2.17", der.integer(PCE_SVN)), entry(".2.18", der.octets(CPU_SVN))]
    flags = (entry(".7.1", der.boolean(True)), entry(".7.2", der.boolean(True)), entry(".7.3", der.boolean(True)))
    return der.sequence(
        entry(".1", der.octets(ppid)),
        entry(".2", der.sequence(*tcb)),
        entry(".3", der.octets(bytes(2))),
        entry(".4", der.octets(FMSPC)),
        entry(".5", der.enumerated(1)),
        entry(".6", der.octets(hashlib.sha256(ppid).digest()[:16])),
        entry(".7", der.sequence(*flags)),
    )
