"""AMD SEV-SNP: read an attestation report and check it down to AMD's root key.

AMD gives a report no TCB status, so none is claimed: the best this module says is "AtOrAboveFloor".

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, tables 10 (guest policy) and 23 (ATTESTATION_REPORT).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import (
    AttestationError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GuestPolicyError,
    MalformedEvidenceError,
    TcbStatusError,
)
from attestation.evidence import SnpEvidence
from attestation.policy import SnpTcb, SnpTcbFloor
from attestation.snp_chain import SnpEndorsement, SnpSigningKey, check_chain, check_crl
from attestation.snp_tcb import SnpProduct, covers, describe_tcb, parse_tcb
from attestation.verdict import Check, CheckLog

__all__ = [
    "REPORT_SIZE",
    "TCB_STATUS",
    "SnpClaims",
    "SnpGuestPolicy",
    "SnpProduct",
    "SnpReport",
    "SnpTcb",
    "SnpTcbFloor",
    "check_report",
    "check_signed",
    "measurement_id",
    "parse_report",
]

REPORT_SIZE = 1184
REPORT_VERSIONS = (2, 3, 4, 5)  # 3 to 5 only add fields in space that was reserved; none is used but the CPU family
TCB_STATUS = "AtOrAboveFloor"
_SIGNED_SIZE = 0x2A0
_SIGNATURE_END = 0x330  # r and s, 72 bytes each, little-endian; nothing after them is signed, so it must be zero
_ECDSA_P384_SHA384 = 1
_MEASUREMENT_TAG = b"chrysalis/1 measurement"
_SIGNING_KEYS = {0: SnpSigningKey.VCEK, 1: SnpSigningKey.VLEK}
_FAMILIES = {SnpProduct.MILAN: 0x19, SnpProduct.GENOA: 0x19, SnpProduct.TURIN: 0x1A}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """What an accepted report says.

    Attributes:
        report_data: 64 bytes the guest chose.
        measurement_id: one value for the whole image, 32 bytes; see `measurement_id`.
        measurement: launch digest, 48 bytes.
        host_data: 32 bytes the host set at launch and the firmware kept.
        chip_id: the processor, 64 bytes.
        policy: the guest policy.
        platform_info: settings of the machine, as the firmware's bit field.
        tcb: the version the signing key stands for.
        tcb_status: always "AtOrAboveFloor".
        product: "Milan", "Genoa" or "Turin".
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_after: when the first certificate or revocation list runs out.
        checks: everything that was checked, all held.
    """

    report_data: bytes
    measurement_id: bytes
    measurement: bytes
    host_data: bytes
    chip_id: bytes
    policy: SnpGuestPolicy
    platform_info: int
    tcb: SnpTcb
    tcb_status: str
    product: SnpProduct
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


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


def check_report(evidence: SnpEvidence, *, roots: frozenset[bytes], floor: SnpTcbFloor, now: datetime) -> SnpClaims:
    """Check a report down to a pinned AMD root key.

    1. Certificates: `snp_chain.check_chain`, and AMD's revocation list: `snp_chain.check_crl`.
    2. The report: `check_signed`.

    Args:
        evidence: report, certificates and revocation list.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        floor: the lowest TCB accepted for each product.
        now: the verifier's time.

    Returns:
        What the report claims. Whether image and report_data are the right ones is the caller's question.

    Raises:
        AttestationError: a subclass that names the refusal, carrying the checks that ran.
    """
    log = CheckLog()
    chain = {"leaf_der": evidence.vcek, "ask_der": evidence.ask, "ark_der": evidence.ark}
    try:
        endorsement = check_chain(**chain, roots=roots, now=now, log=log)
        renewed = check_crl(**chain, crl_der=evidence.crl, now=now, log=log)
        report = parse_report(evidence.report)
        check_signed(report, endorsement, floor=floor, log=log)
    except AttestationError as error:
        raise error.with_checks(log.checks) from None
    return SnpClaims(
        report_data=report.report_data,
        measurement_id=measurement_id(report),
        measurement=report.measurement,
        host_data=report.host_data,
        chip_id=report.chip_id,
        policy=report.policy,
        platform_info=report.platform_info,
        tcb=endorsement.tcb,
        tcb_status=TCB_STATUS,
        product=endorsement.product,
        root=endorsement.root,
        not_after=min(renewed, endorsement.not_after),
        checks=log.checks,
    )


def check_signed(report: SnpReport, endorsement: SnpEndorsement, *, floor: SnpTcbFloor, log: CheckLog) -> None:
    """Check a report against the key AMD endorsed for it.

    1. ECDSA P-384 signature, and the same kind of key, chip and product in report and certificate.
    2. Guest settings: no debug, no migration agent, privilege level 0.
    3. Firmware: the certificate is for the reported TCB, and all four TCBs are at or above the floor.

    Raises:
        EvidenceSignatureError, EndorsementMismatchError, GuestPolicyError, TcbStatusError.
    """
    _check_signature(report, endorsement, log)
    _check_platform(report, endorsement, log)
    _check_guest(report, log)
    _check_tcb(report, endorsement, floor, log)


def _check_signature(report: SnpReport, endorsement: SnpEndorsement, log: CheckLog) -> None:
    algorithm = report.signature_algorithm
    log.require(
        "SNP signature algorithm",
        algorithm == _ECDSA_P384_SHA384,
        seen=str(algorithm),
        required="1 (ECDSA P-384 with SHA-384)",
        error=EvidenceSignatureError,
    )
    try:
        endorsement.public_key.verify(encode_dss_signature(*report.signature), report.signed, ECDSA(SHA384()))
        seen = "valid"
    except InvalidSignature:
        seen = "invalid"
    log.require("SNP report signature", seen == "valid", seen=seen, required="valid", error=EvidenceSignatureError)


def _check_platform(report: SnpReport, endorsement: SnpEndorsement, log: CheckLog) -> None:
    key = report.signing_key
    log.require(
        "SNP signing key",
        key is endorsement.signing_key,
        seen=str(key or "none"),
        required=f"{endorsement.signing_key}, as the certificate",
        error=EndorsementMismatchError,
    )
    chip = endorsement.chip_id or report.chip_id  # a VLEK names no chip: then the report's own word, which it signs
    log.require(
        "SNP chip",
        compare_digest(report.chip_id, chip) and any(chip),
        seen=report.chip_id[:8].hex(),
        required=f"{chip[:8].hex()}, not masked",
        error=EndorsementMismatchError,
    )
    family = _FAMILIES[endorsement.product]
    log.require(
        "SNP processor family",
        report.version < 3 or report.cpu_family == family,
        seen=f"{report.cpu_family:#x} in a version {report.version} report",
        required=f"{family:#x} for {endorsement.product}",
        error=EndorsementMismatchError,
    )


def _check_guest(report: SnpReport, log: CheckLog) -> None:
    policy = report.policy
    weak = [name for name in ("debug", "migrate_ma") if getattr(policy, name)]
    log.require(
        "SNP guest policy",
        not weak and policy.well_formed,
        seen=f"{policy.raw:#x} ({', '.join(weak) or 'no debug, no migration'})",
        required="bit 17 set, no debug, no migration agent",
        error=GuestPolicyError,
    )
    log.require("SNP privilege level", report.vmpl == 0, seen=str(report.vmpl), required="0", error=GuestPolicyError)


def _check_tcb(report: SnpReport, endorsement: SnpEndorsement, floor: SnpTcbFloor, log: CheckLog) -> None:
    product = endorsement.product
    reported = parse_tcb(report.reported_tcb, product)
    log.require(
        "SNP reported TCB",
        reported == endorsement.tcb,
        seen=describe_tcb(reported),
        required=f"{describe_tcb(endorsement.tcb)}, as the certificate",
        error=EndorsementMismatchError,
    )
    least = floor.of(product)
    accepted = "a product the policy has a TCB floor for"
    log.require("SNP product", least is not None, seen=str(product), required=accepted, error=TcbStatusError)
    assert least is not None  # the line above raised
    for name in ("current", "committed", "reported", "launch"):
        tcb = parse_tcb(getattr(report, f"{name}_tcb"), product)
        log.require(
            f"SNP {name} TCB floor",
            covers(tcb, least),
            seen=describe_tcb(tcb),
            required=f"at least {describe_tcb(least)}",
            error=TcbStatusError,
        )
