"""DER, written: the few types vendor extensions are made of, and private keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key


def element(tag: int, content: bytes) -> bytes:
    """Return one DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of encoded parts."""
    return element(0x30, b"".join(parts))


def integer(value: int) -> bytes:
    """Return a non-negative INTEGER."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    """Return an OCTET STRING."""
    return element(0x04, value)


def enumerated(value: int) -> bytes:
    """Return an ENUMERATED below 128."""
    return element(0x0A, bytes([value]))


def boolean(value: bool) -> bytes:
    """Return a BOOLEAN."""
    return element(0x01, b"\xff" if value else b"\x00")


def identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return element(0x06, bytes([first * 40 + second]) + b"".join(_base128(arc) for arc in rest))


def key_bytes(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return a private key as PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_ec_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read an EC key `key_bytes` wrote.

    Raises:
        ValueError: it is none.
    """
    key = load_der_private_key(data, password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    raise ValueError("not an EC key")


def load_rsa_key(data: bytes) -> rsa.RSAPrivateKey:
    """Read an RSA key `key_bytes` wrote.

    Raises:
        ValueError: it is none.
    """
    key = load_der_private_key(data, password=None)
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    raise ValueError("not an RSA key")


def _base128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
