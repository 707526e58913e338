"""A simulated TDX platform: its quotes are byte-exact and signed for real, under a simulated Intel's root.

The image measurement of every simulated guest starts with `MR_TD_MARK`, so that no real reference value can
ever be met by one.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass, replace
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import cbor
from attestation.ccel import replay_ccel
from attestation.eventlog import LogEvent
from attestation.evidence import TdxEvidence
from attestation.sim.ccel import firmware_events
from attestation.sim.der import key_bytes, load_ec_key
from attestation.tdx import ATTRIBUTE_SEPT_VE_DISABLE
from attestation.tdx_quote import BODY_SIZES, TEE_TYPE_TDX
from attestation.x509 import encode_pem

MR_TD_MARK = b"SIMULATED TDX\0\0\0"  # first 16 bytes of mr_td
MODULE_SVN = bytes([5, 1, 2]) + bytes(13)  # tee_tcb_svn: module 1.5 with security version 5
CPU_SVN = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8)
QE_SIGNER = hashlib.sha256(b"Simulated quoting enclave signer").digest()
QE_PRODUCT = 2
QE_SVN = 6
_QE_IMAGE = hashlib.sha256(b"Simulated quoting enclave").digest()
_QE_ATTRIBUTES = bytes.fromhex("1100000000000000e700000000000000")
_INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_MR_SEAM = hashlib.sha384(b"Simulated TDX module").digest()
_XFAM = bytes.fromhex("e702060000000000")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxFaults:
    """What is wrong with a quote; by default nothing. Its signature is good unless `foreign_key`.

    Attributes:
        td_attributes: guest attributes; bit 0 debug, bit 28 SEPT_VE_DISABLE, bit 29 migratable.
        tee_tcb_svn: security versions of the TDX module, 16 bytes.
        service_td: measurement of a service domain bound to the guest (quote version 5).
        foreign_key: signed by a key the quoting enclave did not certify.
    """

    td_attributes: int = ATTRIBUTE_SEPT_VE_DISABLE
    tee_tcb_svn: bytes = MODULE_SVN
    service_td: bytes = bytes(48)
    foreign_key: bool = False


NO_FAULTS = TdxFaults()
DEBUG_GUEST = TdxFaults(td_attributes=ATTRIBUTE_SEPT_VE_DISABLE | 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdImage:
    """What a guest loads: the fields a verifier's measurement id covers and RTMR3, 48 bytes each."""

    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)

    def with_rtmr3(self, value: bytes) -> Self:
        """Return the image after the guest logged what it loads."""
        return replace(self, rtmrs=(*self.rtmrs[:3], value))


def image_of(digest: bytes) -> TdImage:
    """Return the measurements an image with this digest has on every simulated platform, before it logs anything."""
    return TdImage(
        mr_td=MR_TD_MARK + hashlib.sha256(b"mr_td" + digest).digest(),
        rtmrs=replay_ccel(firmware_events(digest)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTdxPlatform:
    """One processor package with its keys and Intel-like endorsements. Holds no key of the vendor.

    Attributes:
        fmspc: processor family, 6 bytes.
        pck_key: the key the platform CA certified.
        chain: PCK certificate, platform CA, root, in DER.
        collateral: what the vendor publishes for this family, see `attestation.collateral`.
    """

    fmspc: bytes
    pck_key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, bytes, bytes]
    collateral: str

    def quote(
        self, report_data: bytes, *, image: TdImage, version: int = 4, body_type: int = 2, faults: TdxFaults = NO_FAULTS
    ) -> bytes:
        """Return a signed quote of version 4, or of version 5 with body type 2 (TD 1.0) or 3 (TD 1.5)."""
        signed = _header(version) + _body(report_data, image, faults)
        if version == 5:
            extra = faults.tee_tcb_svn + faults.service_td if body_type == 3 else b""
            typed = struct.pack("<HI", body_type, BODY_SIZES[body_type])
            signed = signed[:48] + typed + signed[48:] + extra
        key = ec.generate_private_key(ec.SECP256R1())
        authentication = secrets.token_bytes(32)
        bound = hashlib.sha256(_raw_public(key) + authentication).digest() + bytes(32)
        enclave = _enclave_report(bound)
        pem = encode_pem(self.chain).encode() + b"\0"
        certified = (
            enclave
            + raw_signature(self.pck_key, enclave)
            + struct.pack("<H", len(authentication))
            + authentication
            + struct.pack("<HI", 5, len(pem))
            + pem
        )
        signer = ec.generate_private_key(ec.SECP256R1()) if faults.foreign_key else key
        tail = raw_signature(signer, signed) + _raw_public(key) + struct.pack("<HI", 6, len(certified)) + certified
        return signed + struct.pack("<I", len(tail)) + tail

    def evidence(self, quote: bytes, *, ccel: bytes = b"", log: tuple[LogEvent, ...] = ()) -> TdxEvidence:
        """Return the quote with this platform's collateral and the guest's logs."""
        return TdxEvidence(quote=quote, collateral=self.collateral, ccel=ccel, log=log)

    def with_collateral(self, collateral: str) -> SimulatedTdxPlatform:
        """Return the platform after it fetched other collateral."""
        return replace(self, collateral=collateral)

    def to_bytes(self) -> bytes:
        """Return everything, the platform's private key included."""
        return cbor.encode(
            {
                "fmspc": self.fmspc,
                "key": key_bytes(self.pck_key),
                "chain": list(self.chain),
                "collateral": self.collateral,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {
                "fmspc": bytes(fmspc),
                "key": bytes(key),
                "chain": [bytes(pck), bytes(ca), bytes(root)],
                "collateral": str(collateral),
            }:
                return cls(fmspc=fmspc, pck_key=load_ec_key(key), chain=(pck, ca, root), collateral=collateral)
        raise ValueError("not a saved simulated TDX platform; make a new one")


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA P-256 signature as Intel writes it: r and s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _header(version: int) -> bytes:
    return struct.pack("<HHIHH", version, 2, TEE_TYPE_TDX, 0, 0) + _INTEL_QE_VENDOR + bytes(20)


def _body(report_data: bytes, image: TdImage, faults: TdxFaults) -> bytes:
    """Return the TD report of a quote, 584 bytes."""
    return b"".join(
        (
            faults.tee_tcb_svn,
            _MR_SEAM,
            bytes(48 + 8),  # mr_signer_seam, seam_attributes
            faults.td_attributes.to_bytes(8, "little"),
            _XFAM,
            image.mr_td,
            image.mr_config_id,
            image.mr_owner,
            image.mr_owner_config,
            *image.rtmrs,
            report_data,
        )
    )


def _enclave_report(report_data: bytes) -> bytes:
    """Return the quoting enclave's report, 384 bytes."""
    return b"".join(
        (
            CPU_SVN,
            bytes(4 + 28),  # misc_select, reserved
            _QE_ATTRIBUTES,
            _QE_IMAGE,
            bytes(32),
            QE_SIGNER,
            bytes(96),
            struct.pack("<HH", QE_PRODUCT, QE_SVN),
            bytes(60),
            report_data,
        )
    )


def _raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
