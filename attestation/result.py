"""An appraisal as an Attestation Result: the JSON that other systems' relying parties read.

The form is EAR (draft-ietf-rats-ear-04): a status and a trustworthiness vector (draft-ietf-rats-ar4si) for each part of
the host, `submods`. What EAR has no word for stands under `chrysalis-*`; layout in docs/protocol/result.md.
Everything follows from the appraisal and the policy: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime

from attestation.appraisal import HOST, Appraisal, Result, group_checks
from attestation.policy import TCB_STATUSES, AppraisalPolicy
from attestation.verdict import Check, checks_to_list

PROFILE = "tag:github.com,2023:veraison/ear"
VERIFIER = {"developer": "chrysalis", "build": "chrysalis/1 attestation"}

# AR4SI trustworthiness claims, section 2.3.5: 2..31 affirming, 32..95 warning, 96.. contraindicated.
_AFFIRMING, _WARNING, _CONTRAINDICATED, _CRYPTO_FAILED = 2, 32, 96, 99
_APPROVED_BOOT = 3  # executables: what was loaded at start is known; nothing is said about what it loads later

# The first rule whose word stands in a check's name says which claim the check speaks for.
_CLAIMS = (
    ("executables", r"image|measure|manifest|\brim|event log|rtmr|launch|firmware identity|engine"),
    ("runtime-opaque", r"guest|privilege|service domain|confidential computing|debug"),
    ("file-system", r"models"),
    ("configuration", r"mode|topology|platform info|tier|open host|tee\b"),
    ("hardware", r"tcb|family|product|quote\b|evaluation|provisioning|floor"),
    ("sourced-data", r"transcript|count|identities|nonce|binding|format|gpus\b|switches\b"),
    ("instance-identity", r"root|signature|signing|chain|issuer|certificate|revo|validity|chip|denied|one platform"),
)


def attestation_result(
    appraisal: Appraisal, policy: AppraisalPolicy, *, policy_id: str, nonce: bytes | None, now: datetime
) -> dict[str, object]:
    """Return the claims set.

    Args:
        appraisal: what was found.
        policy: the policy it was found with; simulated roots are never affirming.
        policy_id: name of the policy, such as "sha-256:" and the hex digest of its file.
        nonce: the nonce that was sent, if any.
        now: the time it was judged at; becomes `iat`.
    """
    claims: dict[str, object] = {
        "eat_profile": PROFILE,
        "iat": int(now.astimezone(UTC).timestamp()),
        "ear.verifier-id": VERIFIER,
        "submods": {
            name: _submodule(name, checks, appraisal, policy, policy_id)
            for name, checks in group_checks(appraisal.checks).items()
        },
        "chrysalis-outcome": str(appraisal.result),
        "chrysalis-reason": appraisal.reason,
        "chrysalis-message": appraisal.message,
        "chrysalis-advice": appraisal.advice,
        "chrysalis-simulated": policy.unsafe_simulated_roots is not None,
        "chrysalis-checks": checks_to_list(appraisal.checks),
    }
    if nonce is not None:
        claims["eat_nonce"] = urlsafe_b64encode(nonce).rstrip(b"=").decode()
    if appraisal.verdict is not None:
        verdict = appraisal.verdict.to_dict()
        del verdict["checks"]
        claims["exp"] = int(appraisal.verdict.not_after.timestamp())
        claims["chrysalis-verdict"] = verdict
    return claims


def encode_result(claims: dict[str, object]) -> bytes:
    """Return the one JSON text of a claims set: sorted keys, no spaces, UTF-8."""
    return json.dumps(claims, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _submodule(
    name: str, checks: Sequence[Check], appraisal: Appraisal, policy: AppraisalPolicy, policy_id: str
) -> dict[str, object]:
    vector = _vector(name, checks, simulated=policy.unsafe_simulated_roots is not None)
    return {
        "ear.status": _status(name, vector, appraisal.result),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": policy_id,
    }


def _vector(name: str, checks: Sequence[Check], *, simulated: bool) -> dict[str, int]:
    """Return the claims this part's checks speak for, the worst value of each; a claim nobody checked is left out."""
    vector: dict[str, int] = {}
    for check in checks:
        if check.outcome == "not applicable":
            continue
        claim = _claim_of(check)
        vector[claim] = max(vector.get(claim, 0), _value(check, claim))
    if simulated and name != HOST:
        vector["hardware"] = max(vector.get("hardware", 0), _WARNING)
    return dict(sorted(vector.items()))


def _claim_of(check: Check) -> str:
    """Return the claim a check speaks for; one that no rule names speaks for the configuration."""
    return next((claim for claim, words in _CLAIMS if re.search(words, check.name, re.IGNORECASE)), "configuration")


def _value(check: Check, claim: str) -> int:
    if check.outcome == "failed":
        return _CRYPTO_FAILED if re.search("signature|format", check.name, re.IGNORECASE) else _CONTRAINDICATED
    if check.seen.partition(" ")[0].rstrip(",;:") in TCB_STATUSES[1:]:
        return _WARNING
    return _APPROVED_BOOT if claim == "executables" else _AFFIRMING


def _status(name: str, vector: dict[str, int], result: Result) -> str:
    """Return the word for the worst claim; nothing is affirmed about a host whose freshness was not asked."""
    worst = max(vector.values(), default=0)
    if worst >= _CONTRAINDICATED:
        return "contraindicated"
    if not vector or (name == HOST and result is not Result.HELD):
        return "none"
    if result is Result.REFUSED:  # the part whose check failed is contraindicated; the others were not all asked
        return "none"
    return "warning" if worst >= _WARNING else "affirming"
