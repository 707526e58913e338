"""What is checked of every report an NVIDIA device signs, GPU or switch."""

from __future__ import annotations

from hmac import compare_digest

from attestation.errors import EndorsementMismatchError, EvidenceSignatureError, GpuBindingError, GpuStateError
from attestation.nvidia_chain import DeviceEndorsement
from attestation.spdm import SpdmReport
from attestation.verdict import CheckLog


def check_signed(
    report: SpdmReport, endorsement: DeviceEndorsement, *, nonce: bytes, log: CheckLog, device: str = "GPU"
) -> None:
    """Check a report against the key NVIDIA endorsed, and that it answers this nonce.

    Raises:
        EvidenceSignatureError, GpuBindingError.
    """
    seen = "valid" if endorsement.public_key.holds_pair(report.signature, report.signed) else "invalid"
    log.require(
        f"{device} report signature", seen == "valid", seen=seen, required="valid", error=EvidenceSignatureError
    )
    log.require(
        f"{device} nonce",
        compare_digest(report.nonce, nonce),
        seen=report.nonce.hex(),
        required=nonce.hex(),
        error=GpuBindingError,
    )


def check_firmware(fwid: bytes | None, endorsement: DeviceEndorsement, *, log: CheckLog, device: str = "GPU") -> None:
    """Check that the firmware that signed is the one its key was certified for, and that it runs closed.

    The firmware identity (FWID) must stand in both report and leaf certificate, and be the same. All genuine leaves
    carry it; GPU drivers before 550 leave it out of the report, and are refused: nothing else ties such a report to the
    firmware the certificate was made for. Blackwell's leaves also say whether the device was open when it made the key.

    Raises:
        EndorsementMismatchError: another firmware, or none is named.
        GpuStateError: the device ran in debug mode, in recovery or not secured.
    """
    identity = endorsement.identity
    log.require(
        f"{device} firmware identity",
        fwid is not None and identity is not None and compare_digest(fwid, identity.fwid),
        seen=fwid.hex() if fwid else "none in the report (driver older than 550)",
        required=identity.fwid.hex() if identity else "in report and certificate",
        error=EndorsementMismatchError,
    )
    if identity is None or identity.open_states is None:
        log.skip(f"{device} key made in a closed state", why="a certificate that tells (Blackwell)")
        return
    log.require(
        f"{device} key made in a closed state",
        not identity.open_states,
        seen=" and ".join(identity.open_states) or "closed",
        required="not in debug mode, not in recovery, secured",
        error=GpuStateError,
    )
