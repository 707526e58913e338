"""A simulated GPU: its SPDM reports are byte-exact and signed for real, with faults on request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation import cbor
from attestation.evidence import GpuEvidence
from attestation.nvidia import NVDEC0_BLOCK, GpuFeature
from attestation.sim.der import key_bytes, load_ec_key
from attestation.sim.firmware import GpuFirmware
from attestation.spdm import REQUEST_HEAD, RESPONSE_HEAD

_FLAGS = {GpuFeature.SPT: b"\0\0", GpuFeature.MPT: b"\1\0", GpuFeature.PPCIE: b"\2\0"}
_ON, _OFF = b"\xaa", b"\x55"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFaults:
    """What is wrong with a report; by default nothing. The signature is good unless `foreign_key`.

    Attributes:
        nonce: answer this nonce in place of the challenger's.
        altered_blocks: indices (from 0) that measure as other firmware.
        driver, vbios: claim another version.
        identity: another firmware identity, 48 bytes; empty leaves it out, as drivers before 550 do.
        feature: pass-through mode.
        protected_pcie: contradict the mode.
        video_decoder: whether the video decoder is on; then its block counts.
        opaque: fields put in place of the regular ones.
        foreign_key: signed by a key nobody certified.
    """

    nonce: bytes | None = None
    altered_blocks: tuple[int, ...] = ()
    driver: str | None = None
    vbios: str | None = None
    identity: bytes | None = None
    feature: GpuFeature = GpuFeature.SPT
    protected_pcie: bool | None = None
    video_decoder: bool = False
    opaque: Mapping[int, bytes] | None = None
    foreign_key: bool = False


NO_FAULTS = GpuFaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedGpu:
    """One GPU: its firmware's key and certificates. Holds no key of the vendor.

    Attributes:
        firmware: what it runs.
        chain: certificates in DER, leaf first, root last.
    """

    firmware: GpuFirmware
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]

    @property
    def rims(self) -> tuple[bytes, bytes]:
        """Manifests of the driver and the VBIOS it runs."""
        return self.firmware.manifests()

    def attest(self, nonce: bytes, faults: GpuFaults = NO_FAULTS) -> GpuEvidence:
        """Return the signed answer to a challenge.

        Args:
            nonce: 32 bytes.
            faults: what to get wrong.
        """
        asked = nonce if faults.nonce is None else faults.nonce
        if len(asked) != 32:
            raise ValueError(f"nonce of {len(asked)} bytes, want 32")
        blocks = self._measurements(faults)
        record = b"".join(bytes([number, 1, 51, 0, 1, 48, 0]) + value for number, value in enumerate(blocks, 1))
        fields = self._opaque(faults) | dict(faults.opaque or {})
        opaque = b"".join(_u16(number) + _u16(len(value)) + value for number, value in fields.items())
        signed = b"".join(
            (
                REQUEST_HEAD + asked + b"\0",
                RESPONSE_HEAD + bytes([len(blocks)]) + len(record).to_bytes(3, "little") + record,
                secrets.token_bytes(32) + _u16(len(opaque)) + opaque,
            )
        )
        key = ec.generate_private_key(ec.SECP384R1()) if faults.foreign_key else self.key
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA384())))
        return GpuEvidence(report=signed + r.to_bytes(48, "big") + s.to_bytes(48, "big"), chain=self.chain)

    def to_bytes(self) -> bytes:
        """Return everything, the GPU's private key included."""
        return cbor.encode({"firmware": asdict(self.firmware), "key": key_bytes(self.key), "chain": list(self.chain)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {"firmware": dict(firmware), "key": bytes(key), "chain": [*chain]}:
                return cls(
                    firmware=GpuFirmware(**{name: str(value) for name, value in firmware.items()}),
                    key=load_ec_key(key),
                    chain=tuple(der for der in chain if isinstance(der, bytes)),
                )
        raise ValueError("not a saved simulated GPU; make a new one")

    def _measurements(self, faults: GpuFaults) -> list[bytes]:
        blocks = list(self.firmware.measurements())
        if not faults.video_decoder:
            blocks[NVDEC0_BLOCK] = bytes(48)
        for index in faults.altered_blocks:
            blocks[index] = bytes(byte ^ 0xFF for byte in blocks[index])
        return blocks

    def _opaque(self, faults: GpuFaults) -> dict[int, bytes]:
        """Return the vendor's fields, in the order Hopper drivers write them."""
        firmware = self.firmware
        vbios = bytes.fromhex((faults.vbios or firmware.vbios).replace(".", ""))
        identity = firmware.identity() if faults.identity is None else faults.identity
        protected = faults.feature is GpuFeature.PPCIE if faults.protected_pcie is None else faults.protected_pcie
        fields = {
            6: vbios[3::-1] + vbios[4:] + bytes(3),
            14: b"\xb1\x03\0\0",  # board id
            15: firmware.chip_sku.encode().ljust(9, b"\0"),
            16: b"0".ljust(5, b"\0"),  # chip SKU modifier
            17: firmware.project.encode() + b"\0",
            18: firmware.project_sku.encode() + b"\0",
            19: bytes(2),  # project SKU modifier
            3: (faults.driver or firmware.driver).encode() + b"\0",
            4: b"\x80\x01".ljust(8, b"\0"),  # GPU info
            12: b"\1\0\0\0" * 64,  # how often each block was extended
            13: bytes.fromhex("00c00100"),  # size of the protected memory region
            11: _ON if faults.video_decoder else _OFF,
            20: identity,
            21: _ON if protected else _OFF,
            34: b"\1\0",  # version of the opaque data
            36: _FLAGS[faults.feature],
        }
        if not identity:
            del fields[20]
        return fields


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "little")
