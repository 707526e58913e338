"""One appraisal as a value: held, refused or could not tell, with every check and what to do next.

`verify` raises, so that a refusal cannot be overlooked. Commands, reports and the conformance kit need the refusal as
something to print; this module is the one place that turns it into that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from attestation import errors
from attestation.errors import AttestationError
from attestation.evidence import parse_evidence
from attestation.policy import AppraisalPolicy
from attestation.verdict import Check, Verdict
from attestation.verify import check_recording, verify

HOST, CPU = "host", "cpu0"
NO_NONCE = "NonceNotGiven"
_DEVICE = re.compile(r"(gpu|switch) (\d+)\b")
# A vendor module's check: it does not know which device it is. "switch count" and "switches" are about the host.
_DEVICE_REPORT = re.compile(r"(GPU|switch(?! count))\b")
_ABOUT_THE_LAST = "OCSP "  # a check about whichever device came before
_CPU_WORDS = re.compile(
    r"(tdx|sgx|intel|snp|amd|platform|image|cpu|tee|event log|launch|endorsements)\b", re.IGNORECASE
)


class Result(StrEnum):
    """How an appraisal ended."""

    HELD = "held"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What one verifier found about one evidence document.

    Attributes:
        result: held, refused, or unknown: nothing was refused, and not everything could be asked.
        reason: "" when held; the refusal's class name; `NO_NONCE` when freshness was not asked.
        message: the reason in words, empty when held.
        advice: what to do next, one sentence.
        checks: every check that ran, the failed one last.
        verdict: what may be relied on; None unless held.
    """

    result: Result
    reason: str
    message: str
    advice: str
    checks: tuple[Check, ...]
    verdict: Verdict | None


_ADVICE: dict[type[AttestationError], str] = {
    errors.MalformedEvidenceError: "Take the bytes from the host again; if they still do not read, leave the host.",
    errors.UntrustedRootError: "Leave the host: no vendor whose root your policy pins vouches for it.",
    errors.EvidenceSignatureError: "Leave the host: the bytes are forged or were altered on the way.",
    errors.EndorsementMismatchError: "Have the owner fetch certificates for exactly this chip and firmware.",
    errors.EndorsementExpiredError: "Have the host fetch its vendors' certificates and lists again; check your clock.",
    errors.RevocationUnknownError: "Have the host ask the vendor for fresh answers about its certificates.",
    errors.SigningKeyError: "Accept this kind of signing key by name in your policy, or choose another host.",
    errors.IdentityBlockError: "Compare the guest's ID block with the keys that your policy names.",
    errors.PlatformSettingsError: "Have the owner change the machine's settings or firmware, or accept them by name.",
    errors.EndorsementRollbackError: "Have the host fetch its vendors' lists again; older ones than seen are refused.",
    errors.RevokedError: "Leave the host: its key or platform is revoked or denied.",
    errors.TcbStatusError: "Have the owner update firmware, or accept older firmware by name in your policy.",
    errors.GuestPolicyError: "Leave the host: its owner can open the guest.",
    errors.MeasurementNotAllowedError: "Compare the measurement with the image's release; governance must allow it.",
    errors.FreshnessError: "Ask the host again with a new nonce; a second refusal is a replay.",
    errors.BindingMismatchError: "Leave the host: the hardware did not sign these keys.",
    errors.EventLogMismatchError: "Leave the host: its log hides or invents what the guest loaded.",
    errors.EventNotAllowedError: "Compare the log (command logs) with what governance allows to be loaded.",
    errors.EngineNotAllowedError: "Choose a host with an engine that your policy names, or name this one.",
    errors.GpuBindingError: "Leave the host: the set of GPUs is not the one its CPU signed.",
    errors.GpuStateError: "Have the owner turn confidential computing on and developer tools off, and reset the GPU.",
    errors.TopologyError: "Leave the host: the devices attested are not one complete machine that your policy names.",
    errors.RimMismatchError: "Have governance allow the GPU's manifests, or the owner run allowed firmware.",
    errors.ModelNotAllowedError: "Have governance allow the model, or the host unload it.",
    errors.TierError: "Choose another host, or ask for a lower tier by name in your policy.",
    errors.AttestationError: "Send nothing to this host.",
}
_HELD = "Use the keys of this verdict until it ends, then ask again with a new nonce."
_NOT_FRESH = "Give the nonce you sent (--nonce) to learn whether this is an answer to you or a recording."


def appraise(document: bytes, policy: AppraisalPolicy, *, nonce: bytes | None, now: datetime) -> Appraisal:
    """Appraise an evidence document; never raises for what the document holds.

    Args:
        document: the bytes a host sent.
        policy: what we accept.
        nonce: the 32 bytes we sent; None for a recording, which can be refused and cannot be held.
        now: the time to judge at, aware.
    """
    try:
        evidence = parse_evidence(document)
        if nonce is None:
            return _recording(check_recording(evidence, policy, now=now))
        verdict = verify(evidence, policy, nonce=nonce, now=now)
    except AttestationError as error:
        return _refusal(error)
    return Appraisal(result=Result.HELD, reason="", message="", advice=_HELD, checks=verdict.checks, verdict=verdict)


def _recording(checks: tuple[Check, ...]) -> Appraisal:
    return Appraisal(
        result=Result.UNKNOWN,
        reason=NO_NONCE,
        message="everything that was asked held; no nonce was given, so this may be a recording",
        advice=_NOT_FRESH,
        checks=checks,
        verdict=None,
    )


def _refusal(error: AttestationError) -> Appraisal:
    unread = Check(name="format", seen=str(error), required="readable evidence", outcome="failed")
    return Appraisal(
        result=Result.REFUSED,
        reason=type(error).__name__,
        message=str(error),
        advice=next(_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE),
        checks=error.checks or (unread,),
        verdict=None,
    )


def group_checks(checks: Sequence[Check]) -> dict[str, list[Check]]:
    """Sort checks by what they are about: "host", "cpu0", "gpu0", "gpu1", ..., in order of appearance.

    A vendor module does not know the number of the device whose report it reads: its checks count as the next
    device's as soon as the one it begins with comes again.
    """
    groups: dict[str, list[Check]] = {}
    first: dict[str, str] = {}
    number: dict[str, int] = {}
    device = HOST
    for check in checks:
        named, report = _DEVICE.match(check.name), _DEVICE_REPORT.match(check.name)
        if named:
            group = device = named[1] + named[2]
        elif report:
            kind = report[1].lower()
            number[kind] = number.get(kind, -1) + (first.setdefault(kind, check.name) == check.name)
            group = device = f"{kind}{number[kind]}"
        elif check.name.startswith(_ABOUT_THE_LAST):
            group = device
        else:
            group = CPU if _CPU_WORDS.match(check.name) else HOST
        groups.setdefault(group, []).append(check)
    return groups
