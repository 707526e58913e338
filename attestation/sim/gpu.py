"""A simulated GPU: its SPDM reports are byte-exact and signed for real, with faults on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor
from attestation.certificate import Certificate
from attestation.evidence import GpuEvidence
from attestation.nvidia_facts import PDI_SIZE, GpuFeature
from attestation.nvidia_measurements import NVDEC0_BLOCK
from attestation.sim.der import key_bytes, load_ec_key
from attestation.sim.firmware import GpuFirmware
from attestation.sim.spdm import inverted, sign_report

_FLAGS = {GpuFeature.SPT: b"\0\0", GpuFeature.MPT: b"\1\0", GpuFeature.PPCIE: b"\2\0"}
_ON, _OFF = b"\xaa", b"\x55"
_LINKS_OF_SWITCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFaults:
    """What is wrong with a report; by default nothing. The signature is good unless `foreign_key`.

    Attributes:
        nonce: answer this nonce in place of the challenger's.
        altered_blocks: indices (from 0) that measure as other firmware.
        driver, vbios: claim another version.
        identity: another firmware identity, 48 bytes; empty leaves it out, as drivers before 550 do.
        feature: pass-through mode.
        switches: per-device identifiers of the switches at its links.
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
    switches: tuple[bytes, ...] = ()
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
    def pdi(self) -> bytes:
        """Its per-device identifier, 8 bytes."""
        return pdi_of(self.chain)

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
        key = ec.generate_private_key(ec.SECP384R1()) if faults.foreign_key else self.key
        asked = nonce if faults.nonce is None else faults.nonce
        fields = self._opaque(faults) | dict(faults.opaque or {})
        return GpuEvidence(report=sign_report(key, asked, self._measurements(faults), fields), chain=self.chain)

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
        return inverted(blocks, faults.altered_blocks)

    def _opaque(self, faults: GpuFaults) -> dict[int, bytes]:
        """Return the vendor's fields, in the order drivers write them."""
        firmware = self.firmware
        vbios = bytes.fromhex((faults.vbios or firmware.vbios).replace(".", ""))
        identity = firmware.identity() if faults.identity is None else faults.identity
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
            **(self._hopper_mode(faults) if firmware.hopper else self._blackwell_mode(faults)),
        }
        if not identity:
            del fields[20]
        return fields

    def _hopper_mode(self, faults: GpuFaults) -> dict[int, bytes]:
        ppcie = faults.feature is GpuFeature.PPCIE
        protected = ppcie if faults.protected_pcie is None else faults.protected_pcie
        links = b"".join(pdi[::-1] * _LINKS_OF_SWITCH for pdi in faults.switches)
        return {
            21: _ON if protected else _OFF,
            **({22: links} if faults.switches else {}),
            34: b"\1\0",  # version of the opaque data
            36: _FLAGS[faults.feature],
        }

    def _blackwell_mode(self, faults: GpuFaults) -> dict[int, bytes]:
        return {
            33: b"\7\7",  # which parts of the GPU are enabled
            34: b"\1\0",
            35: self.firmware.chip.encode() + b"\0",
            36: _FLAGS[faults.feature],
        }


def pdi_of(chain: Sequence[bytes]) -> bytes:
    """Return the per-device identifier in a device's certificates, 8 bytes."""
    return Certificate.parse(chain[1]).serial.to_bytes(PDI_SIZE + 1, "big")[1:]
