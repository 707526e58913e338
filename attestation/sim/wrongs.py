"""Everything simulated hosts, devices and vendors can get wrong with good signatures, and why it must be refused.

Where the reason is None, which refusal comes first is the verifier's choice.
"""

from __future__ import annotations

from datetime import timedelta

from attestation import errors
from attestation.errors import AttestationError
from attestation.policy import SnpTcb
from attestation.sim.collateral import LIFE, CollateralFaults
from attestation.sim.faults import FIRMWARE_LOG_FAULTS, RUNTIME_LOG_FAULTS, Fault
from attestation.sim.gpu import GpuFaults
from attestation.sim.ocsp import LIFE as OCSP_LIFE
from attestation.sim.ocsp import OcspFaults
from attestation.sim.snp_platform import SnpFaults
from attestation.sim.tdx import MODULE_SVN, TdxFaults
from attestation.tdx_rules import ATTRIBUTE_SEPT_VE_DISABLE

_OLD = SnpTcb(bootloader=3, tee=0, snp=8, microcode=115)
_BIT = ATTRIBUTE_SEPT_VE_DISABLE
TDX_FAULTS: dict[str, tuple[TdxFaults, type[AttestationError] | None]] = {
    "debug": (TdxFaults(td_attributes=_BIT | 1), errors.GuestPolicyError),
    "migratable": (TdxFaults(td_attributes=_BIT | 1 << 29), errors.GuestPolicyError),
    "memory-may-be-remapped": (TdxFaults(td_attributes=0), errors.GuestPolicyError),
    "unknown-attribute": (TdxFaults(td_attributes=_BIT | 1 << 40), errors.GuestPolicyError),
    "old-module": (TdxFaults(tee_tcb_svn=bytes([1, 1, 2]) + bytes(13)), errors.TcbStatusError),
    "unknown-module": (TdxFaults(tee_tcb_svn=bytes([5, 9, 2]) + bytes(13)), errors.TcbStatusError),
    "old-microcode": (TdxFaults(tee_tcb_svn=MODULE_SVN[:2] + bytes(14)), errors.TcbStatusError),
    "service-domain": (TdxFaults(service_td=b"s" * 48), errors.GuestPolicyError),
    "foreign-key": (TdxFaults(foreign_key=True), errors.EvidenceSignatureError),
}
COLLATERAL_FAULTS: dict[str, tuple[CollateralFaults, type[AttestationError] | None]] = {
    "expired": (CollateralFaults(age=LIFE + timedelta(hours=2)), errors.EndorsementExpiredError),
    "from-the-future": (CollateralFaults(age=-timedelta(hours=2)), errors.EndorsementExpiredError),
    "out-of-date": (CollateralFaults(tcb_status="OutOfDate"), errors.TcbStatusError),
    "configuration-needed": (CollateralFaults(tcb_status="ConfigurationNeeded"), errors.TcbStatusError),
    "sw-hardening-needed": (CollateralFaults(tcb_status="SWHardeningNeeded"), errors.TcbStatusError),
    "revoked-level": (CollateralFaults(tcb_status="Revoked"), errors.RevokedError),
    "unknown-status": (CollateralFaults(tcb_status="Splendid"), None),
    "newer-module-wanted": (CollateralFaults(module_svn=9), errors.TcbStatusError),
    "newer-quoting-enclave-wanted": (CollateralFaults(qe_svn=9), errors.TcbStatusError),
    "of-another-provisioning-enclave": (CollateralFaults(pce_id=b"\1\0"), errors.TcbStatusError),
    "of-another-family": (CollateralFaults(fmspc=bytes(6)), errors.TcbStatusError),
    "revokes-the-platform": (CollateralFaults(revoke_platform=True), errors.RevokedError),
    "revokes-the-platform-ca": (CollateralFaults(revoke_platform_ca=True), errors.RevokedError),
    "revokes-the-tcb-signer": (CollateralFaults(revoke_tcb_signer=True), errors.RevokedError),
}
SNP_FAULTS: dict[str, tuple[SnpFaults, type[AttestationError] | None]] = {
    "debug": (SnpFaults(debug=True), errors.GuestPolicyError),
    "migration-agent": (SnpFaults(migration_agent=True), errors.GuestPolicyError),
    "lower-privilege-level": (SnpFaults(vmpl=1), errors.GuestPolicyError),
    "unknown-version": (SnpFaults(version=1), errors.MalformedEvidenceError),
    "another-algorithm": (SnpFaults(signature_algorithm=2), errors.EvidenceSignatureError),
    "vlek-under-a-vcek": (SnpFaults(signing_key=1), errors.EndorsementMismatchError),
    "no-signing-key": (SnpFaults(signing_key=7), errors.EndorsementMismatchError),
    "masked-chip": (SnpFaults(mask_chip_id=True), errors.EndorsementMismatchError),
    "masked-chip-key": (SnpFaults(mask_chip_key=True), errors.EndorsementMismatchError),
    "aliases-not-checked": (SnpFaults(platform_info=0), errors.PlatformSettingsError),
    "too-old-to-say": (SnpFaults(version=2), errors.PlatformSettingsError),
    "another-model": (SnpFaults(cpu_model=0x7F), errors.EndorsementMismatchError),
    "another-chip": (SnpFaults(chip_id=b"c" * 64), errors.EndorsementMismatchError),
    "another-family": (SnpFaults(cpu_family=0x1A), errors.EndorsementMismatchError),
    "old-current-tcb": (SnpFaults(current=_OLD), errors.TcbStatusError),
    "old-committed-tcb": (SnpFaults(committed=_OLD), errors.TcbStatusError),
    "another-reported-tcb": (SnpFaults(reported=_OLD), errors.EndorsementMismatchError),
    "old-launch-tcb": (SnpFaults(launch=_OLD), errors.TcbStatusError),
    "foreign-key": (SnpFaults(foreign_key=True), errors.EvidenceSignatureError),
}
OCSP_FAULTS: dict[str, tuple[OcspFaults, type[AttestationError] | None]] = {
    "revoked": (OcspFaults(status="revoked"), errors.RevokedError),
    "unknown": (OcspFaults(status="unknown"), errors.RevocationUnknownError),
    "expired": (OcspFaults(age=OCSP_LIFE + timedelta(hours=2)), errors.EndorsementExpiredError),
    "from-the-future": (OcspFaults(age=-timedelta(hours=2)), errors.EndorsementExpiredError),
    "about-another-certificate": (OcspFaults(other_serial=True), errors.RevocationUnknownError),
    "foreign-key": (OcspFaults(foreign_key=True), errors.EvidenceSignatureError),
    "responder-without-the-right": (OcspFaults(no_usage=True), errors.EvidenceSignatureError),
    "without-an-end": (OcspFaults(no_end=True), None),
}
GPU_FAULTS: dict[str, tuple[GpuFaults, type[AttestationError] | None]] = {
    "another-nonce": (GpuFaults(nonce=bytes(32)), errors.GpuBindingError),
    "altered-driver-block": (GpuFaults(altered_blocks=(21,)), errors.RimMismatchError),
    "altered-vbios-block": (GpuFaults(altered_blocks=(0,)), errors.RimMismatchError),
    "another-driver": (GpuFaults(driver="590.99.02"), errors.RimMismatchError),
    "another-vbios": (GpuFaults(vbios="96.00.FF.00.02"), errors.RimMismatchError),
    "another-firmware-identity": (GpuFaults(identity=b"i" * 48), errors.EndorsementMismatchError),
    "no-firmware-identity": (GpuFaults(identity=b""), errors.EndorsementMismatchError),
    "contradicted-mode": (GpuFaults(protected_pcie=True), errors.GpuStateError),
    "unknown-field-value": (GpuFaults(opaque={11: b"\0"}), errors.GpuStateError),
    "foreign-key": (GpuFaults(foreign_key=True), errors.EvidenceSignatureError),
}


REASONS: dict[Fault, type[AttestationError]] = {
    Fault.DEBUG_GUEST: errors.GuestPolicyError,
    Fault.FOREIGN_MEASUREMENT: errors.MeasurementNotAllowedError,
    Fault.WRONG_NONCE: errors.FreshnessError,
    Fault.REPLAYED_QUOTE: errors.BindingMismatchError,
    Fault.SWAPPED_KEYS: errors.BindingMismatchError,
    Fault.MISSING_GPU: errors.GpuBindingError,
    Fault.FOREIGN_GPU: errors.UntrustedRootError,
    Fault.SWAPPED_GPU_REPORT: errors.GpuBindingError,
    Fault.REORDERED_GPUS: errors.GpuBindingError,
    Fault.DOUBLED_GPU: errors.GpuBindingError,
    Fault.CC_OFF: errors.GpuStateError,
    Fault.CC_DEVTOOLS: errors.GpuStateError,
    Fault.STALE_COLLATERAL: errors.EndorsementExpiredError,
    Fault.OUT_OF_DATE_TCB: errors.TcbStatusError,
    Fault.REVOKED_KEY: errors.RevokedError,
    Fault.ALTERED_GPU_FIRMWARE: errors.RimMismatchError,
    Fault.MIXED_MODES: errors.GpuStateError,
    Fault.GPU_OF_A_SET: errors.TopologyError,
    Fault.MISSING_SWITCH: errors.GpuBindingError,
    Fault.UNNAMED_SWITCH: errors.TopologyError,
    Fault.EXTRA_SWITCH: errors.TopologyError,
    Fault.FOREIGN_SWITCH: errors.UntrustedRootError,
    Fault.OTHER_SWITCH: errors.TopologyError,
    Fault.DOUBLED_SWITCH: errors.GpuBindingError,
    Fault.SWAPPED_SWITCH_REPORT: errors.GpuBindingError,
    Fault.REORDERED_SWITCHES: errors.GpuBindingError,
    Fault.OPEN_SWITCH: errors.GpuStateError,
    Fault.ALTERED_SWITCH_FIRMWARE: errors.RimMismatchError,
    Fault.GPU_NAMES_OTHER_SWITCH: errors.TopologyError,
    Fault.SWITCH_NAMES_OTHER_GPU: errors.TopologyError,
    Fault.UNUSED_SWITCHES: errors.TopologyError,
    Fault.UNNAMED_GPU: errors.TopologyError,
    Fault.GPU_AS_SWITCH: errors.EndorsementMismatchError,
    Fault.MEMORY_ALIASES: errors.PlatformSettingsError,
    Fault.MASKED_CHIP: errors.EndorsementMismatchError,
    Fault.LOWER_PRIVILEGE: errors.GuestPolicyError,
    **dict.fromkeys(sorted(FIRMWARE_LOG_FAULTS | RUNTIME_LOG_FAULTS), errors.EventLogMismatchError),
    Fault.UNALLOWED_BUNDLE: errors.EventNotAllowedError,
}

# Pairs that are no lie together: one takes back the very thing the other did, or leaves it no place.
CANCELLING = {
    frozenset({Fault.UNEXTENDED_ENTRY, Fault.SHORTENED_LOG}),
    frozenset({Fault.GPU_OF_A_SET, Fault.UNUSED_SWITCHES}),
    frozenset({Fault.EXTRA_SWITCH, Fault.UNNAMED_SWITCH}),
    frozenset({Fault.UNUSED_SWITCHES, Fault.GPU_NAMES_OTHER_SWITCH}),
}
