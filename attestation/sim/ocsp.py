"""A simulated OCSP responder: one key that every authority of the simulated NVIDIA certified for answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation import cbor
from attestation.certificate import Certificate
from attestation.sim.der import key_bytes, load_ec_key

LIFE = timedelta(days=7)  # of an answer
_SKEW = timedelta(hours=1)
_STATUSES = {
    "good": ocsp.OCSPCertStatus.GOOD,
    "revoked": ocsp.OCSPCertStatus.REVOKED,
    "unknown": ocsp.OCSPCertStatus.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspFaults:
    """What is wrong with an answer; by default nothing.

    Attributes:
        status: "good", "revoked" or "unknown".
        age: how long ago it was made; beyond `LIFE` it has run out, negative is in the future.
        other_serial: it is about another certificate.
        foreign_key: signed by a key that certified itself in the issuer's name.
        no_usage: the responder's certificate does not say that it may sign answers.
        no_end: it does not say until when it holds.
    """

    status: str = "good"
    age: timedelta = timedelta(0)
    other_serial: bool = False
    foreign_key: bool = False
    no_usage: bool = False
    no_end: bool = False


NO_FAULTS = OcspFaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedResponder:
    """The responder with its key.

    Attributes:
        key: signs answers.
        certificates: the one that each authority gave it, DER.
        unfit: the same without the right to sign answers.
    """

    key: ec.EllipticCurvePrivateKey
    certificates: tuple[bytes, ...]
    unfit: tuple[bytes, ...]

    @classmethod
    def create(cls, issuers: Mapping[bytes, ec.EllipticCurvePrivateKey], *, now: datetime) -> Self:
        """Make a responder; `issuers` maps authority certificates (DER) to their keys."""
        key = ec.generate_private_key(ec.SECP384R1())
        fit, unfit = (
            tuple(_certify(key, issuer, signer, now, usage=usage) for issuer, signer in issuers.items())
            for usage in (True, False)
        )
        return cls(key=key, certificates=fit, unfit=unfit)

    def to_fields(self) -> dict[str, cbor.Value]:
        """Return everything, the private key included."""
        return {"key": key_bytes(self.key), "certificates": list(self.certificates), "unfit": list(self.unfit)}

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Read what `to_fields` wrote; ValueError when it is something else."""
        match fields:
            case {"key": bytes(key), "certificates": [*certificates], "unfit": [*unfit]}:
                return cls(key=load_ec_key(key), certificates=tuple(certificates), unfit=tuple(unfit))
        raise ValueError("not a saved simulated responder; make a new one")

    def answer(
        self, certificate: bytes, issuer: bytes, *, now: datetime, nonce: bytes = b"", faults: OcspFaults = NO_FAULTS
    ) -> bytes:
        """Return the signed answer about a certificate of an issuer, DER."""
        own = self.unfit if faults.no_usage else self.certificates
        name = Certificate.parse(issuer).subject
        mine = [one for one in own if x509.load_der_x509_certificate(one).issuer.public_bytes() == name]
        key = self.key
        if faults.foreign_key:
            key = ec.generate_private_key(ec.SECP384R1())
            mine = [_certify(key, issuer, key, now, usage=True)]
        responder = x509.load_der_x509_certificate(mine[0])
        subject, signer = (x509.load_der_x509_certificate(der) for der in (certificate, issuer))
        if faults.other_serial:
            subject = responder
        start = now - _SKEW - faults.age
        revoked = faults.status == "revoked"
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=subject,
                issuer=signer,
                algorithm=SHA384(),
                cert_status=_STATUSES[faults.status],
                this_update=start,
                next_update=None if faults.no_end else start + LIFE,
                revocation_time=start if revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, responder)
            .certificates([responder])
        )
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.sign(key, SHA384()).public_bytes(Encoding.DER)

    def answers(self, *chains: Sequence[bytes], now: datetime, faults: OcspFaults = NO_FAULTS) -> tuple[bytes, ...]:
        """Return one answer for each certificate that the vendor signed in GPUs' chains; the faults hit the first."""
        pairs = dict.fromkeys(pair for chain in chains for pair in pairwise(chain[1:]))
        return tuple(
            self.answer(certificate, issuer, now=now, faults=NO_FAULTS if number else faults)
            for number, (certificate, issuer) in enumerate(pairs)
        )


def _certify(
    key: ec.EllipticCurvePrivateKey,
    issuer: bytes,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    *,
    usage: bool,
) -> bytes:
    name = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated GPU vendor"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Simulated OCSP Responder"),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(name))
        .issuer_name(x509.load_der_x509_certificate(issuer).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=True)
    return builder.sign(signer, SHA384()).public_bytes(Encoding.DER)
