"""Signatures of P-384: what one library refuses, the other refuses too."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.p384 import P384PublicKey, load_p384

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
SIGNED = b"a report" * 80
KEY = generate_private_key(SECP384R1())
SIGNATURE = KEY.sign(SIGNED, ECDSA(SHA384()))
R, S = decode_dss_signature(SIGNATURE)


def spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


INFO = spki(KEY.public_key())


def openssl_holds(key: EllipticCurvePublicKey, signature: bytes) -> bool:
    try:
        key.verify(signature, SIGNED, ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def test_a_signature_holds_over_what_was_signed_and_nothing_else() -> None:
    key = load_p384(INFO)
    assert key.holds(SIGNATURE, SIGNED)
    assert key.holds_pair((R, S), SIGNED)
    assert not key.holds(SIGNATURE, SIGNED + b"!")
    assert not P384PublicKey(generate_private_key(SECP384R1()).public_key()).holds(SIGNATURE, SIGNED)


@pytest.mark.parametrize(
    "pair",
    [(0, S), (R, 0), (N, S), (R, N), (R + N, S), (R, S + N), (S, R), (1 << 2000, S), (N - R, S), (1, 1)],
    ids=["no r", "no s", "r = n", "s = n", "r + n", "s + n", "exchanged", "2001 bits", "n - r", "ones"],
)
def test_numbers_outside_the_group_and_other_pairs_are_refused(pair: tuple[int, int]) -> None:
    assert not load_p384(INFO).holds_pair(pair, SIGNED)
    assert not openssl_holds(KEY.public_key(), encode_dss_signature(*pair))


def test_the_mirrored_signature_holds_as_ecdsa_says() -> None:
    assert load_p384(INFO).holds_pair((R, N - S), SIGNED)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        SIGNATURE + b"\0",
        SIGNATURE[:-1],
        b"\x30\x81" + SIGNATURE[1:],
        b"\x30" + bytes([SIGNATURE[1] + 1]) + b"\x02" + bytes([SIGNATURE[3] + 1]) + b"\0" + SIGNATURE[4:],
    ],
    ids=["empty", "longer", "shorter", "long length", "padded number"],
)
def test_a_signature_has_one_spelling(signature: bytes) -> None:
    assert not load_p384(INFO).holds(signature, SIGNED)
    assert not openssl_holds(KEY.public_key(), signature)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(SIGNATURE) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_holds(at: int, bit: int) -> None:
    flipped = bytearray(SIGNATURE)
    flipped[at] ^= 1 << bit
    assert not load_p384(INFO).holds(bytes(flipped), SIGNED)


def test_what_is_no_point_of_the_curve_is_no_key() -> None:
    not_keys = [
        b"",
        INFO[:-1],
        INFO[:-1] + bytes([INFO[-1] ^ 1]),  # off the curve
        spki(generate_private_key(SECP256R1()).public_key()),
        spki(Ed25519PrivateKey.generate().public_key()),
    ]
    for info in not_keys:
        with pytest.raises(MalformedEvidenceError):
            load_p384(info)


def test_keys_are_values() -> None:
    assert load_p384(INFO) == P384PublicKey(KEY.public_key())
    assert len({load_p384(INFO), P384PublicKey(KEY.public_key())}) == 1
