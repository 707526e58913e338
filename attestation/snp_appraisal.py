"""A signed SEV-SNP report against the rules of a policy: guest policy, machine settings, ID block, kind of key."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

from attestation.errors import GuestPolicyError, IdentityBlockError, PlatformSettingsError, SigningKeyError
from attestation.snp_policy import (
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpSigningKey,
    Want,
)
from attestation.snp_report import SnpReport
from attestation.verdict import CheckLog

_HONOURED = ("rapl_disabled", "ciphertext_hiding")  # settings a guest may insist on and the platform info shows


def check_signing_key(key: SnpSigningKey, provider: str, allowed: frozenset[SnpSigningKey], log: CheckLog) -> None:
    """Check that the policy accepts this kind of key.

    Raises:
        SigningKeyError: it does not.
    """
    log.require(
        "SNP kind of key",
        key in allowed,
        seen=f"{key} of {provider}" if provider else str(key),
        required=" or ".join(sorted(allowed)),
        error=SigningKeyError,
    )


def check_guest(report: SnpReport, rules: SnpGuestRules, log: CheckLog) -> None:
    """Check how the guest was launched and who asked for the report.

    1. Whatever the rules say: no debugging, no migration agent, privilege level 0, no bit its firmware does not know.
    2. Each setting of the rules, and the lowest ABI the guest insists on.

    Raises:
        GuestPolicyError: one does not hold.
    """
    policy = report.policy
    weak = [name for name in ("debug", "migrate_ma") if policy.has(name)]
    log.require(
        "SNP guest policy",
        not weak and policy.well_formed(report.version),
        seen=f"{policy.raw:#x} ({', '.join(weak) or 'no debug, no migration'})",
        required="bit 17 set, no debug, no migration agent, no unknown bit",
        error=GuestPolicyError,
    )
    log.require("SNP privilege level", report.vmpl == 0, seen=str(report.vmpl), required="0", error=GuestPolicyError)
    wants, words = _wants(rules)
    broken = [name for name, want in wants if policy.has(name) is not want]
    log.require("SNP guest settings", not broken, seen=_seen(broken), required=words, error=GuestPolicyError)
    log.require(
        "SNP guest ABI",
        policy.abi >= rules.abi_min,
        seen=_version(policy.abi),
        required=f"at least {_version(rules.abi_min)}",
        error=GuestPolicyError,
    )


def check_platform(report: SnpReport, rules: SnpPlatformRules, log: CheckLog) -> None:
    """Check the machine's settings; what this report version cannot tell does not hold.

    1. No setting its firmware does not know.
    2. What the guest insists on is so.
    3. Each setting of the rules, the firmware's version, the mitigations.

    Raises:
        PlatformSettingsError: one does not hold.
    """
    info = report.platform_info
    log.require(
        "SNP platform info",
        info.well_formed,
        seen=f"{info.raw:#x}",
        required=f"only settings that version {report.version} reports know",
        error=PlatformSettingsError,
    )
    ignored = [name for name in _HONOURED if report.policy.has(name) and not info.has(name)]
    if info.has("smt") and not report.policy.has("smt"):
        ignored.append("smt off")
    log.require(
        "SNP guest policy honoured",
        not ignored,
        seen=f"ignored: {', '.join(ignored)}" if ignored else "all",
        required="all settings the guest insists on",
        error=PlatformSettingsError,
    )
    wants, words = _wants(rules)
    broken = [name for name, want in wants if info.has(name) is not want]
    untold = [name for name in broken if info.has(name) is None]
    seen = _seen(broken)
    log.require(
        "SNP platform settings",
        not broken,
        seen=f"{seen}; version {report.version} reports cannot tell {', '.join(untold)}" if untold else seen,
        required=words,
        error=PlatformSettingsError,
    )
    _check_firmware(report, rules, log)


def _check_firmware(report: SnpReport, rules: SnpPlatformRules, log: CheckLog) -> None:
    versions = report.current_firmware, report.committed_firmware
    log.require(
        "SNP firmware version",
        min(versions) >= rules.firmware_min,
        seen="{} running, {} committed".format(*map(_version, versions)),
        required=f"at least {_version(rules.firmware_min)}",
        error=PlatformSettingsError,
    )
    vectors = report.launch_mitigations, report.current_mitigations
    missing = [rules.mitigations & ~(vector or 0) for vector in vectors]
    log.require(
        "SNP mitigations",
        not any(missing),
        seen=", ".join("untold" if vector is None else f"{vector:#x}" for vector in vectors),
        required=f"{rules.mitigations:#x} at launch and now",
        error=PlatformSettingsError,
    )


def check_identity(report: SnpReport, rules: SnpIdentityRules, log: CheckLog) -> None:
    """Check who signed the guest's ID block and what it says; rules that name nothing ask nothing.

    Raises:
        IdentityBlockError: one does not hold.
    """
    author = report.author_key_digest if report.author_key_named else b""
    asked = (
        ("id key", report.id_key_digest, rules.id_keys),
        ("author key", author, rules.author_keys),
        ("family id", report.family_id, rules.family_ids),
        ("image id", report.image_id, rules.image_ids),
    )
    for what, seen, allowed in asked:
        if allowed:
            log.require(
                f"SNP {what}",
                seen in allowed and any(seen),
                seen=seen.hex() or "none",
                required=f"one of {len(allowed)} the policy names",
                error=IdentityBlockError,
            )
    if rules.svn_min:
        log.require(
            "SNP guest SVN",
            report.guest_svn >= rules.svn_min,
            seen=str(report.guest_svn),
            required=f"at least {rules.svn_min}",
            error=IdentityBlockError,
        )


@cache  # rules are few values; reflection on each report would cost more than all checks together
def _wants(rules: SnpGuestRules | SnpPlatformRules) -> tuple[tuple[tuple[str, bool], ...], str]:
    """The settings a rule is about, each with whether it must be on; and the same in words."""
    values = ((field.name, getattr(rules, field.name)) for field in fields(rules))
    asked = [(name, want) for name, want in values if isinstance(want, Want) and want is not Want.ANY]
    words = ", ".join(f"{name} {want}" for name, want in asked) or "nothing"
    return tuple((name, want is Want.REQUIRED) for name, want in asked), words


def _seen(broken: list[str]) -> str:
    return f"not so: {', '.join(broken)}" if broken else "as required"


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
