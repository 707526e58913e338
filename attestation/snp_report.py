"""The SEV-SNP ATTESTATION_REPORT: its bytes, and the one value that stands for the image it measures.

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, tables 10 (guest policy) and 23 (ATTESTATION_REPORT).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from attestation.errors import MalformedEvidenceError
from attestation.snp_chain import SnpSigningKey

REPORT_SIZE = 1184
REPORT_VERSIONS = (2, 3, 4, 5)  # 3 to 5 only add fields in space that was reserved; none is used but the CPU family
_SIGNED_SIZE = 0x2A0
_SIGNATURE_END = 0x330  # r and s, 72 bytes each, little-endian; nothing after them is signed, so it must be zero
_MEASUREMENT_TAG = b"chrysalis/1 measurement"
_SIGNING_KEYS = {0: SnpSigningKey.VCEK, 1: SnpSigningKey.VLEK}
_HEAD = struct.Struct("<IIQ16s16sII8sQI")  # version .. key flags, at 0


@dataclass(frozen=True, slots=True)
class SnpGuestPolicy:
    """The POLICY word the guest was launched with; the processor enforces it for the guest's whole life."""

    raw: int

    def _bit(self, number: int) -> bool:
        return bool(self.raw >> number & 1)

    @property
    def smt(self) -> bool:
        """Whether two threads of a core may run."""
        return self._bit(16)

    @property
    def migrate_ma(self) -> bool:
        """Whether a migration agent may carry the guest elsewhere."""
        return self._bit(18)

    @property
    def debug(self) -> bool:
        """Whether the host may read and write guest memory through the debug interface."""
        return self._bit(19)

    @property
    def well_formed(self) -> bool:
        """Whether bit 17, which must be one, is."""
        return self._bit(17)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """ATTESTATION_REPORT as the firmware wrote it, read but not verified. TCB values are 8 raw bytes each.

    Attributes:
        key_flags: author key present (bit 0), chip key masked (bit 1), signing key (bits 2 to 4).
        cpu_family: CPUID family, 0 in version 2 reports.
        signed: the bytes the signature covers.
        signature: r and s, big-endian numbers.
    """

    version: int
    policy: SnpGuestPolicy
    vmpl: int
    signature_algorithm: int
    platform_info: int
    key_flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    cpu_family: int
    chip_id: bytes
    signed: bytes
    signature: tuple[int, int]

    @property
    def signing_key(self) -> SnpSigningKey | None:
        """Which kind of key the firmware says it signed with; None for no key or a kind we do not know."""
        return _SIGNING_KEYS.get(self.key_flags >> 2 & 0b111)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the 1184 bytes; see `parse_report`."""
        if len(data) != REPORT_SIZE:
            raise MalformedEvidenceError(f"SNP report of {len(data)} bytes, want {REPORT_SIZE}")
        version, _, policy, _, _, vmpl, algorithm, current, platform_info, flags = _HEAD.unpack_from(data)
        if version not in REPORT_VERSIONS:
            raise MalformedEvidenceError(f"SNP report version {version}, want one of {REPORT_VERSIONS}")
        if any(data[_SIGNATURE_END:]):
            raise MalformedEvidenceError("SNP report carries bytes behind its signature")
        return cls(
            version=version,
            policy=SnpGuestPolicy(policy),
            vmpl=vmpl,
            signature_algorithm=algorithm,
            platform_info=platform_info,
            key_flags=flags,
            report_data=data[0x50:0x90],
            measurement=data[0x90:0xC0],
            host_data=data[0xC0:0xE0],
            id_key_digest=data[0xE0:0x110],
            author_key_digest=data[0x110:0x140],
            current_tcb=current,
            reported_tcb=data[0x180:0x188],
            committed_tcb=data[0x1E0:0x1E8],
            launch_tcb=data[0x1F0:0x1F8],
            cpu_family=data[0x188] if version > 2 else 0,
            chip_id=data[0x1A0:0x1E0],
            signed=data[:_SIGNED_SIZE],
            signature=(
                int.from_bytes(data[_SIGNED_SIZE : _SIGNED_SIZE + 72], "little"),
                int.from_bytes(data[_SIGNED_SIZE + 72 : _SIGNATURE_END], "little"),
            ),
        )


def parse_report(data: bytes) -> SnpReport:
    """Read an ATTESTATION_REPORT, versions 2 to 5; nothing in it is believed yet.

    Raises:
        MalformedEvidenceError: another size or version, or bytes behind the signature.
    """
    return SnpReport.parse(data)


def measurement_id(report: SnpReport) -> bytes:
    """Return the one value, 32 bytes, that stands for everything about the image a report measures.

    SHA-256 over the tag, "sev-snp", launch digest, host data, digests of the id and author keys, and the guest
    policy (8 bytes, little-endian).
    """
    fields = (report.measurement, report.host_data, report.id_key_digest, report.author_key_digest)
    return sha256(b"".join((_MEASUREMENT_TAG, b"sev-snp", *fields, report.policy.raw.to_bytes(8, "little")))).digest()
