"""A simulated NVSwitch (LS10): its SPDM reports are byte-exact and signed for real, with faults on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor
from attestation.evidence import SwitchEvidence
from attestation.nvswitch import GPUS_NAMED, PORTS
from attestation.sim.der import key_bytes, load_ec_key
from attestation.sim.firmware import SwitchFirmware
from attestation.sim.gpu import pdi_of
from attestation.sim.spdm import inverted, sign_report

_PORTS_OF_GPU = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFaults:
    """What is wrong with a report; by default nothing. The signature is good unless `foreign_key`.

    Attributes:
        nonce: answer this nonce in place of the challenger's.
        altered_blocks: indices (from 0) that measure as other firmware.
        bios: claim another version.
        pdi: claim another identifier.
        locked: whether the routes are fixed.
        opaque: fields put in place of the regular ones.
        foreign_key: signed by a key nobody certified.
    """

    nonce: bytes | None = None
    altered_blocks: tuple[int, ...] = ()
    bios: str | None = None
    pdi: bytes | None = None
    locked: bool = True
    opaque: Mapping[int, bytes] | None = None
    foreign_key: bool = False


GOOD_SWITCH = SwitchFaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSwitch:
    """One switch: its firmware's key and certificates. Holds no key of the vendor.

    Attributes:
        firmware: what it runs.
        chain: certificates in DER, leaf first, root last.
    """

    firmware: SwitchFirmware
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]

    @property
    def pdi(self) -> bytes:
        """Its per-device identifier, 8 bytes."""
        return pdi_of(self.chain)

    @property
    def rims(self) -> tuple[bytes, ...]:
        """Manifest of the BIOS it runs."""
        return (self.firmware.manifest(),)

    def attest(self, nonce: bytes, gpus: Sequence[bytes], faults: SwitchFaults = GOOD_SWITCH) -> SwitchEvidence:
        """Return the signed answer to a challenge.

        Args:
            nonce: 32 bytes.
            gpus: per-device identifiers of the GPUs on its ports, one to eight.
            faults: what to get wrong.
        """
        if not 1 <= len(gpus) <= GPUS_NAMED:
            raise ValueError(f"{len(gpus)} GPUs, want 1 to {GPUS_NAMED}")
        fields = {
            6: (faults.bios or self.firmware.bios).encode(),
            22: self.pdi if faults.pdi is None else faults.pdi,
            12: b"\1\0\0\0" * 27,  # how often each block was extended
            26: _gpu_field(gpus),
            23: b"\xec\0",  # ports that are switched off
            24: b"\0\0",  # place in the machine
            25: b"\1\0" if faults.locked else b"\0\0",
        }
        blocks = inverted(self.firmware.measurements(), faults.altered_blocks)
        key = ec.generate_private_key(ec.SECP384R1()) if faults.foreign_key else self.key
        asked = nonce if faults.nonce is None else faults.nonce
        return SwitchEvidence(
            report=sign_report(key, asked, blocks, fields | dict(faults.opaque or {})), chain=self.chain
        )

    def to_bytes(self) -> bytes:
        """Return everything, the switch's private key included."""
        return cbor.encode({"firmware": asdict(self.firmware), "key": key_bytes(self.key), "chain": list(self.chain)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {"firmware": {"bios": str(bios)}, "key": bytes(key), "chain": [*chain]}:
                return cls(
                    firmware=SwitchFirmware(bios=bios),
                    key=load_ec_key(key),
                    chain=tuple(der for der in chain if isinstance(der, bytes)),
                )
        raise ValueError("not a saved simulated switch; make a new one")


def _gpu_field(gpus: Sequence[bytes]) -> bytes:
    """Return eight identifiers, the last one repeated, and which of them each port leads to."""
    named = [*gpus, *[gpus[-1]] * (GPUS_NAMED - len(gpus))]
    ports = bytes(index for index in range(len(gpus)) for _ in range(_PORTS_OF_GPU))
    return b"".join(named) + ports.ljust(PORTS, b"\xff")
