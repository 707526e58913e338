"""HPKE with X-Wing (ML-KEM-768 and X25519): how a secret reaches one host and no one else.

RFC 9180 base mode, single shot; KEM 0x647a (draft-connolly-cfrg-xwing-kem), HKDF-SHA256, ChaCha20-Poly1305.
"""

from hashlib import shake_256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from attestation.errors import EnvelopeAuthenticationError

HOST_ID = 8
SEED = 32
MLKEM_PUBLIC = 1184  # FIPS 203, ML-KEM-768 encapsulation key
PUBLIC = MLKEM_PUBLIC + 32  # ML-KEM-768 key, then X25519 key
OVERHEAD = 1120 + 16  # encapsulated key and tag: what sealing adds to a secret


class HostKey:
    """The private half of a host's X-Wing key (ML-KEM-768 with X25519); lives in memory only."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._private = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "HostKey":
        """A fresh key from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> "HostKey":
        """The key of a 32-byte seed (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey): for fixed vectors."""
        if len(seed) != SEED:
            raise ValueError(f"a seed has {SEED} bytes, not {len(seed)}")
        material = shake_256(seed).digest(96)
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(material[:64]), X25519PrivateKey.from_private_bytes(material[64:])
        )

    def decrypt(self, sealed: bytes, info: bytes) -> bytes:
        """Single-shot HPKE open, base mode; raises `EnvelopeAuthenticationError`."""
        try:
            return suite().decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError):  # ValueError: an encapsulated key that is not one
            raise EnvelopeAuthenticationError("the wrap was altered, or made for another key or header") from None


class Recipient:
    """The public half: a host as its verdict names it, with its key parsed once."""

    def __init__(self, host_id: bytes, hpke: bytes) -> None:
        if len(host_id) != HOST_ID or len(hpke) != PUBLIC:
            raise ValueError(f"a host id has {HOST_ID} bytes and an X-Wing key {PUBLIC}")
        self.host_id = host_id
        self._public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(hpke[:MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(hpke[MLKEM_PUBLIC:]),
        )

    def encrypt(self, secret: bytes, info: bytes) -> bytes:
        """Single-shot HPKE seal, base mode."""
        return suite().encrypt(secret, self._public, info)


def suite() -> Suite:
    """The one HPKE suite in use."""
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
