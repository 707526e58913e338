"""A simulated TDX platform: its quotes are byte-exact and signed for real, under a simulated Intel's root.

The image measurement of every simulated guest starts with `MR_TD_MARK`, so that no real reference value can
ever be met by one.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor
from attestation.ccel import replay_ccel
from attestation.eventlog import LogEvent
from attestation.evidence import TdxEvidence
from attestation.sim.ccel import firmware_events
from attestation.sim.der import key_bytes, load_ec_key
from attestation.sim.quote import quote_header, sign_quote
from attestation.tdx_quote import BODY_SIZES, TEE_TYPE_TDX
from attestation.tdx_rules import ATTRIBUTE_SEPT_VE_DISABLE

MR_TD_MARK = b"SIMULATED TDX\0\0\0"  # first 16 bytes of mr_td
MODULE_SVN = bytes([5, 1, 2]) + bytes(13)  # tee_tcb_svn: module 1.5 with security version 5
_MR_SEAM = hashlib.sha384(b"Simulated TDX module").digest()
_XFAM = 0x602E7  # x87, SSE, AVX, AVX-512, PKRU, AMX


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxFaults:
    """What is wrong with a quote; by default nothing. Its signature is good unless `foreign_key`.

    Attributes:
        td_attributes: guest attributes; bit 0 debug, bit 28 SEPT_VE_DISABLE, bit 29 migratable.
        xfam: extended features of the guest.
        seam_attributes: attributes of the TDX module; Intel's has none.
        tee_tcb_svn: security versions of the TDX module, 16 bytes.
        service_td: measurement of a service domain bound to the guest (quote version 5).
        foreign_key: signed by a key the quoting enclave did not certify.
    """

    td_attributes: int = ATTRIBUTE_SEPT_VE_DISABLE
    xfam: int = _XFAM
    seam_attributes: int = 0
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
        signed = quote_header(version, TEE_TYPE_TDX) + _body(report_data, image, faults)
        if version == 5:
            extra = faults.tee_tcb_svn + faults.service_td if body_type == 3 else b""
            typed = struct.pack("<HI", body_type, BODY_SIZES[body_type])
            signed = signed[:48] + typed + signed[48:] + extra
        return sign_quote(signed, tee="tdx", pck_key=self.pck_key, chain=self.chain, foreign_key=faults.foreign_key)

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


def _body(report_data: bytes, image: TdImage, faults: TdxFaults) -> bytes:
    """Return the TD report of a quote, 584 bytes."""
    return b"".join(
        (
            faults.tee_tcb_svn,
            _MR_SEAM,
            bytes(48),  # mr_signer_seam
            faults.seam_attributes.to_bytes(8, "little"),
            faults.td_attributes.to_bytes(8, "little"),
            faults.xfam.to_bytes(8, "little"),
            image.mr_td,
            image.mr_config_id,
            image.mr_owner,
            image.mr_owner_config,
            *image.rtmrs,
            report_data,
        )
    )
