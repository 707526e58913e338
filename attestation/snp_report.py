"""The SEV-SNP ATTESTATION_REPORT: its bytes, and the one value that stands for the image it measures.

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, table 23 (ATTESTATION_REPORT).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

from attestation.errors import MalformedEvidenceError
from attestation.snp_policy import SnpSigningKey
from attestation.snp_settings import SnpGuestPolicy, SnpPlatformInfo

REPORT_SIZE = 1184
REPORT_VERSIONS = (2, 3, 4, 5)
_SIGNED_SIZE = 0x2A0
_SIGNATURE_END = 0x330  # r and s, 72 bytes each, little-endian; nothing after them is signed, so it must be zero
_MEASUREMENT_TAG = b"chrysalis/1 measurement"
_SIGNING_KEYS = {0: SnpSigningKey.VCEK, 1: SnpSigningKey.VLEK}
_KEY_FLAGS_KNOWN = 0x1F
_HEAD = struct.Struct("<IIQ16s16sII8sQII")  # version .. key flags and the reserved word behind them, at 0
_MITIGATIONS = struct.Struct("<QQ")  # at 0x1F8, from version 5
# Reserved bytes by report version: a value there is a field this code cannot judge.
_RESERVED_ALWAYS = ((0x1EB, 0x1EC), (0x1EF, 0x1F0))
_RESERVED = {
    2: (*_RESERVED_ALWAYS, (0x188, 0x1A0), (0x1F8, _SIGNED_SIZE)),
    3: (*_RESERVED_ALWAYS, (0x18B, 0x1A0), (0x1F8, _SIGNED_SIZE)),
    4: (*_RESERVED_ALWAYS, (0x18B, 0x1A0), (0x1F8, _SIGNED_SIZE)),
    5: (*_RESERVED_ALWAYS, (0x18B, 0x1A0), (0x208, _SIGNED_SIZE)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """ATTESTATION_REPORT as the firmware wrote it, read but not verified. TCB values are 8 raw bytes each.

    Attributes:
        version: layout, 2 to 5.
        guest_svn, family_id, image_id: what the ID block says; zero without one.
        vmpl: privilege level that asked for the report.
        key_flags: author key present (bit 0), chip key masked (bit 1), signing key (bits 2 to 4).
        report_id: this guest, as long as it runs; report_id_ma: its migration agent, all ones without one.
        cpu: CPUID family, model and stepping; None in version 2 reports.
        current_firmware, committed_firmware: (major, minor, build).
        launch_mitigations, current_mitigations: verified mitigations as bits; None before version 5.
        signed: the bytes the signature covers.
        signature: r and s.
    """

    version: int
    guest_svn: int
    policy: SnpGuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    platform_info: SnpPlatformInfo
    key_flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    cpu: tuple[int, int, int] | None
    chip_id: bytes
    current_firmware: tuple[int, int, int]
    committed_firmware: tuple[int, int, int]
    launch_mitigations: int | None
    current_mitigations: int | None
    signed: bytes
    signature: tuple[int, int]

    @property
    def signing_key(self) -> SnpSigningKey | None:
        """Which kind of key the firmware says it signed with; None for no key or a kind we do not know."""
        return _SIGNING_KEYS.get(self.key_flags >> 2 & 0b111)

    @property
    def chip_key_masked(self) -> bool:
        """Whether the host told the firmware not to sign reports."""
        return bool(self.key_flags & 2)

    @property
    def author_key_named(self) -> bool:
        """Whether the ID block was certified by an author key."""
        return bool(self.key_flags & 1)


def parse_report(data: bytes) -> SnpReport:
    """Read an ATTESTATION_REPORT, versions 2 to 5; nothing in it is believed yet.

    Raises:
        MalformedEvidenceError: another size or version, a value in a reserved place, or bytes behind the signature.
    """
    if len(data) != REPORT_SIZE:
        raise MalformedEvidenceError(f"SNP report of {len(data)} bytes, want {REPORT_SIZE}")
    head = _HEAD.unpack_from(data)
    version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current, platform_info, flags, reserved = head
    if version not in REPORT_VERSIONS:
        raise MalformedEvidenceError(f"SNP report version {version}, want one of {REPORT_VERSIONS}")
    if data[_SIGNATURE_END:].strip(b"\0"):
        raise MalformedEvidenceError("SNP report carries bytes behind its signature")
    if reserved or flags & ~_KEY_FLAGS_KNOWN or any(data[start:end].strip(b"\0") for start, end in _RESERVED[version]):
        raise MalformedEvidenceError(f"SNP report has a value in a place that version {version} reserves")
    launch, now = _MITIGATIONS.unpack_from(data, 0x1F8) if version >= 5 else (None, None)
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=SnpGuestPolicy(policy),
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        signature_algorithm=algorithm,
        platform_info=SnpPlatformInfo(platform_info, version),
        key_flags=flags,
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        current_tcb=current,
        reported_tcb=data[0x180:0x188],
        committed_tcb=data[0x1E0:0x1E8],
        launch_tcb=data[0x1F0:0x1F8],
        cpu=(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        current_firmware=(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_firmware=(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_mitigations=launch,
        current_mitigations=now,
        signed=data[:_SIGNED_SIZE],
        signature=(
            int.from_bytes(data[_SIGNED_SIZE : _SIGNED_SIZE + 72], "little"),
            int.from_bytes(data[_SIGNED_SIZE + 72 : _SIGNATURE_END], "little"),
        ),
    )


def measurement_id(report: SnpReport) -> bytes:
    """Return the one value, 32 bytes, that stands for everything about the image a report measures."""
    return compose_measurement_id(
        measurement=report.measurement,
        host_data=report.host_data,
        id_key_digest=report.id_key_digest,
        author_key_digest=report.author_key_digest,
        policy=report.policy.raw,
    )


def compose_measurement_id(
    *, measurement: bytes, host_data: bytes, id_key_digest: bytes, author_key_digest: bytes, policy: int
) -> bytes:
    """Return the measurement id, 32 bytes, of an image whose values are known beforehand.

    SHA-256 over the tag, "sev-snp", launch digest (48 bytes), host data (32), digests of the id and author keys (48
    each; zero without an ID block), and the guest policy (8 bytes, little-endian).

    Raises:
        ValueError: a value of another size.
    """
    fields = (measurement, host_data, id_key_digest, author_key_digest)
    if tuple(map(len, fields)) != (48, 32, 48, 48) or not 0 <= policy < 1 << 64:
        raise ValueError("want 48 bytes of measurement, 32 of host data, 48 of each key digest, a policy of 64 bits")
    return sha256(b"".join((_MEASUREMENT_TAG, b"sev-snp", *fields, policy.to_bytes(8, "little")))).digest()
