"""ECDSA over P-384 with SHA-384, by which AMD's chips and NVIDIA's devices sign: half of what verification costs.

Keys are read by `cryptography`; signatures are checked by AWS-LC (in `awscrt`), whose P-384 is proved correct by
machine and takes 0.2 ms where OpenSSL's takes 0.5 ms. Both refuse the same signatures: one DER spelling, r and s from
1 to n - 1.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from awscrt.crypto import EC
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestation.errors import MalformedEvidenceError


class P384PublicKey:
    """One key; equal to others of the same point."""

    __slots__ = ("_key", "_spki")

    def __init__(self, key: EllipticCurvePublicKey) -> None:
        """MalformedEvidenceError when the key is of another curve."""
        if not isinstance(key.curve, SECP384R1):
            raise MalformedEvidenceError(f"a key of {key.curve.name}, want P-384")
        self._spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._key = EC.new_key_from_der_data(self._spki)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, P384PublicKey) and other._spki == self._spki

    def __hash__(self) -> int:
        return hash(self._spki)

    def holds(self, signature: bytes, signed: bytes) -> bool:
        """Whether `signature`, in DER, is this key's over `signed`."""
        held: bool = self._key.verify(hashlib.sha384(signed).digest(), signature)
        return held

    def holds_pair(self, pair: tuple[int, int], signed: bytes) -> bool:
        """As `holds`, for a signature given as r and s."""
        return self.holds(encode_dss_signature(*pair), signed)


@lru_cache(maxsize=256)  # authorities are shared by a fleet; the answer depends on the bytes alone
def load_p384(public_key_info: bytes) -> P384PublicKey:
    """Return the key of a SubjectPublicKeyInfo (DER).

    Raises:
        MalformedEvidenceError: not a point of P-384.
    """
    try:
        key = load_der_public_key(public_key_info)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedEvidenceError("not a usable public key") from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise MalformedEvidenceError("not a P-384 key")
    return P384PublicKey(key)
