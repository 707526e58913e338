"""Certificates for Ray's TLS between the machines of one cluster: a CA of its own, one short-lived certificate each.

Whoever has a certificate of this CA, and the token, is inside. So the CA's key stays where it was made, and each
machine gets its own key only. The head gets a second, shorter-lived CA to sign for hosts that join with evidence
(cluster.join_desk); every machine trusts the first one only.
"""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.errors import ConfigError

CA_DAYS = 365
NODE_DAYS = 30
JOINING_DAYS = 30
CLOCK_SKEW = timedelta(minutes=5)  # a machine whose clock is behind must not refuse a new certificate
RENEW = "move the folder away and make a new one, then give every machine its new certificate"
LOOPBACK = "127.0.0.1"  # Ray reaches its own node by either address
CA_CERTIFICATE, CA_KEY, NODE_CERTIFICATE, NODE_KEY = "ca.crt", "ca.key", "node.crt", "node.key"
JOINING_FOLDER, JOINING_CERTIFICATE, JOINING_KEY = "joining", "joining.crt", "joining.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The cluster's own CA: it signs for machines, and nobody signs for it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster: str, *, now: datetime) -> "Authority":
        """A new CA for the cluster of this name, valid for CA_DAYS from `now`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{cluster} CA")
        builder = _builder(name, name, key.public_key(), now=now, life=timedelta(days=CA_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        builder = builder.add_extension(_usage(ca=True), critical=True)
        return cls(certificate=builder.sign(key, hashes.SHA256()), key=key)

    def create_joining(self, *, now: datetime) -> "Authority":
        """A CA below this one for the head, for JOINING_DAYS, to sign for hosts that join; ConfigError as `issue`."""
        self._check_outlives(now + timedelta(days=JOINING_DAYS))
        if self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0:
            raise ConfigError(f"{self.certificate.subject.rfc4514_string()} is of a version without joining: {RENEW}")
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("joining")
        builder = _builder(name, self.certificate.subject, key.public_key(), now=now, life=timedelta(days=JOINING_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(ca=True), critical=True)
        return Authority(certificate=builder.sign(self.key, hashes.SHA256()), key=key)

    def issue(self, address: str, *, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A new key and its certificate for the machine at this IP address, server and client in one, for NODE_DAYS.

        Raises:
            ConfigError: not an IP address, or the CA does not live as long.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        return self.sign(key.public_key(), address, now=now, life=timedelta(days=NODE_DAYS)), key

    def sign(self, key: ec.EllipticCurvePublicKey, address: str, *, now: datetime, life: timedelta) -> x509.Certificate:
        """A certificate of this key for the machine at this IP address, server and client in one. Raises as `issue`."""
        ip = parse_ip(address)
        self._check_outlives(now + life)
        names = [x509.IPAddress(one) for one in dict.fromkeys((ip, ipaddress.ip_address(LOOPBACK)))]
        builder = _builder(_name(address), self.certificate.subject, key, now=now, life=life)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _check_outlives(self, end: datetime) -> None:
        if self.certificate.not_valid_after_utc < end:
            raise ConfigError(
                f"the CA ends on {self.certificate.not_valid_after_utc:%Y-%m-%d %H:%M}, before a certificate until "
                f"{end:%Y-%m-%d %H:%M} would: {RENEW}"
            )

    @classmethod
    def load(cls, folder: Path, certificate: str = CA_CERTIFICATE, key: str = CA_KEY) -> "Authority":
        """The CA that `write_certificates` left in this folder; ConfigError when it cannot be read."""
        try:
            read = x509.load_pem_x509_certificate((folder / certificate).read_bytes())
            private = load_pem_private_key((folder / key).read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the CA in {folder}: {error}; move the folder away to make one") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != read.public_key():
            raise ConfigError(f"{folder / key} is not the key of {certificate}: restore it, or make a new CA")
        return cls(certificate=read, key=private)


def write_certificates(folder: Path, cluster: str, addresses: Sequence[str], *, now: datetime) -> Mapping[str, Path]:
    """Make the CA if the folder has none, and a new key and certificate for each address.

    Returns:
        The folder of each machine: ca.crt, node.crt, node.key. The CA's own is `folder`. Keys have mode 0600.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / CA_CERTIFICATE).exists() or (folder / CA_KEY).exists():
        authority = Authority.load(folder)
    else:
        authority = Authority.create(cluster, now=now)
        write_private(folder / CA_KEY, _pem_key(authority.key))
        (folder / CA_CERTIFICATE).write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    issued = {address: authority.issue(address, now=now) for address in addresses}
    for address, (certificate, key) in issued.items():
        own = folder / address
        own.mkdir(mode=0o700, exist_ok=True)
        write_private(own / NODE_KEY, _pem_key(key))
        (own / NODE_CERTIFICATE).write_bytes(certificate.public_bytes(Encoding.PEM))
        (own / CA_CERTIFICATE).write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return {address: folder / address for address in addresses}


def write_joining(folder: Path, *, now: datetime) -> Path:
    """Make a new joining CA below the CA in `folder`; returns its own folder, which is for the head."""
    authority = Authority.load(folder)
    joining = authority.create_joining(now=now)
    own = folder / JOINING_FOLDER
    own.mkdir(mode=0o700, exist_ok=True)
    write_private(own / JOINING_KEY, _pem_key(joining.key))
    (own / JOINING_CERTIFICATE).write_bytes(joining.certificate.public_bytes(Encoding.PEM))
    (own / CA_CERTIFICATE).write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return own


def read_pin(folder: Path) -> str:
    """SHA-256 of the CA's certificate in hexadecimal: what hosts are told out of band. ConfigError without one."""
    try:
        return x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes()).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {folder / CA_CERTIFICATE}: run `chrysalis cluster certs`") from error


def check_certificate(folder: Path, address: str, *, now: datetime) -> datetime:
    """When the certificate of the machine at `address` ends.

    Raises:
        ConfigError: it is missing, over, for another address, or of another CA.
    """
    remedy = "run `chrysalis cluster certs`"
    try:
        authority = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        certificate = x509.load_pem_x509_certificate((folder / address / NODE_CERTIFICATE).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except OSError as error:
        raise ConfigError(f"{address} has no certificate ({error.filename} cannot be read): {remedy}") from error
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ConfigError(
            f"the certificate of {address} is not one of this CA ({type(error).__name__}): {remedy}"
        ) from error
    if parse_ip(address) not in names.get_values_for_type(x509.IPAddress):
        raise ConfigError(f"the certificate in {folder / address} is for another address: {remedy}")
    end = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
    if now < certificate.not_valid_before_utc:
        raise ConfigError(f"the certificate of {address} begins on {certificate.not_valid_before_utc}: set the clock")
    if now >= end:
        raise ConfigError(f"the certificate of {address} ended on {end:%Y-%m-%d %H:%M}: {remedy}")
    return end


def parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address; ConfigError for a name, which no certificate here could stand for."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not an IP address: write the address that the other machines use") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + life)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, data: bytes) -> None:
    """Write a file with mode 0600."""
    path.unlink(missing_ok=True)  # an older file may have another mode
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
