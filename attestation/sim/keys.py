"""How simulated vendors and platforms keep their private keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key


def key_bytes(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS #8; it protects nothing but a simulation."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_ec_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what `key_bytes` wrote; ValueError for another kind of key."""
    key = load_der_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"want an EC private key, got {type(key).__name__}")  # noqa: TRY004  (the bytes are wrong)
    return key


def load_rsa_key(data: bytes) -> rsa.RSAPrivateKey:
    """Read what `key_bytes` wrote; ValueError for another kind of key."""
    key = load_der_private_key(data, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"want an RSA private key, got {type(key).__name__}")  # noqa: TRY004  (the bytes are wrong)
    return key
