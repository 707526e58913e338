"""A simulated quoting enclave: it certifies a fresh key with the platform's, and signs reports with it.

Byte-exact, for quotes of TDX (versions 4 and 5) and SGX (version 3).
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.quote_parts import ATTESTATION_KEY_P256, CERTIFICATION_PCK_CHAIN
from attestation.x509 import encode_pem

CPU_SVN = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8)
QE_SIGNER = hashlib.sha256(b"Simulated quoting enclave signer").digest()
QE_SVN = 6
QE_PRODUCTS = {"tdx": 2, "sgx": 1}
_QE_IMAGE = hashlib.sha256(b"Simulated quoting enclave").digest()
_QE_ATTRIBUTES = 0x11  # initialised, provisioning key
_QE_XFRM = 0xE7
_INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveIdentity:
    """What an enclave report says beside report data; by default of an enclave in order."""

    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int = 0
    isv_svn: int = 0
    attributes: int = 0x5  # initialised, 64-bit
    xfrm: int = 0xE7
    config_id: bytes = bytes(64)
    config_svn: int = 0

    def report(self, report_data: bytes) -> bytes:
        """Return the enclave report, 384 bytes."""
        return b"".join(
            (
                CPU_SVN,
                bytes(4 + 12 + 16),  # misc_select, reserved, isv_ext_prod_id
                struct.pack("<QQ", self.attributes, self.xfrm),
                self.mr_enclave,
                bytes(32),
                self.mr_signer,
                bytes(32),
                self.config_id,
                struct.pack("<HHH", self.isv_prod_id, self.isv_svn, self.config_svn),
                bytes(42 + 16),  # reserved, isv_family_id
                report_data,
            )
        )


def quote_header(version: int, tee_type: int) -> bytes:
    """Return a quote's header, 48 bytes."""
    return struct.pack("<HHIHH", version, ATTESTATION_KEY_P256, tee_type, 0, 0) + _INTEL_QE_VENDOR + bytes(20)


def sign_quote(
    signed: bytes, *, tee: str, pck_key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...], foreign_key: bool = False
) -> bytes:
    """Return a whole quote.

    Args:
        signed: header and report.
        tee: "tdx" or "sgx".
        pck_key: the key the platform CA certified.
        chain: PCK certificate, platform CA, root, in DER.
        foreign_key: sign with a key the quoting enclave did not certify.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    authentication = secrets.token_bytes(32)
    bound = hashlib.sha256(_raw_public(key) + authentication).digest() + bytes(32)
    enclave = EnclaveIdentity(
        mr_enclave=_QE_IMAGE,
        mr_signer=QE_SIGNER,
        isv_prod_id=QE_PRODUCTS[tee],
        isv_svn=QE_SVN,
        attributes=_QE_ATTRIBUTES,
        xfrm=_QE_XFRM,
    ).report(bound)
    pem = encode_pem(chain).encode() + b"\0"
    certified = (
        enclave
        + raw_signature(pck_key, enclave)
        + struct.pack("<H", len(authentication))
        + authentication
        + struct.pack("<HI", CERTIFICATION_PCK_CHAIN, len(pem))
        + pem
    )
    if tee == "tdx":
        certified = struct.pack("<HI", 6, len(certified)) + certified
    signer = ec.generate_private_key(ec.SECP256R1()) if foreign_key else key
    tail = raw_signature(signer, signed) + _raw_public(key) + certified
    return signed + struct.pack("<I", len(tail)) + tail


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA P-256 signature as Intel writes it: r and s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
