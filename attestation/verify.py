"""Evidence and a policy in, a verdict out; or a refusal that lists every check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hmac import compare_digest

from attestation import merkle
from attestation.chain_cache import ChainCache
from attestation.cpu import CpuClaims, check_cpu, check_measurement
from attestation.devices import NO_DEVICES, DeviceClaims, check_devices, check_not_denied, names_devices
from attestation.errors import (
    AttestationError,
    BindingMismatchError,
    EngineNotAllowedError,
    FreshnessError,
    GpuBindingError,
    ModelNotAllowedError,
    TierError,
)
from attestation.evidence import Evidence, TdxEvidence
from attestation.floors import Floors
from attestation.held import remember
from attestation.log_appraisal import check_logs
from attestation.policy import AppraisalPolicy
from attestation.roots import trust_domain
from attestation.td_image import fields_of
from attestation.transcript import CcState, Transcript, report_data_of
from attestation.verdict import Check, CheckLog, GpuClaims, SwitchClaims, Tier, Verdict


def verify(
    evidence: Evidence,
    policy: AppraisalPolicy,
    *,
    nonce: bytes,
    now: datetime,
    chains: ChainCache | None = None,
    floors: Floors | None = None,
) -> Verdict:
    """Appraise the evidence of one host.

    1. Freshness: our nonce stands in the tree whose root the transcript names.
    2. CPU: genuine TEE with acceptable firmware and guest settings; its platform is not denied.
       Its collateral and lists are not older than what the caller has seen.
    3. Binding: the CPU signed exactly this transcript, so its keys, payee, models, GPUs and switches.
    4. Image: the measurement is one of the reference values.
    5. Logs: they explain the run-time registers, and what they say was loaded is allowed and what the transcript names.
    6. GPUs and switches: as many as the transcript names, in its order, each genuine, each answering its own nonce,
       none twice, none revoked, with measurements of an allowed manifest, all in confidential-computing mode,
       together one machine.
    7. Models: all of them are reference values; the engine is one that the policy names, if it names any.
    8. Tier: what all this is worth is enough for the policy.

    Args:
        evidence: what the host sent.
        policy: what we accept.
        nonce: the 32 bytes we sent.
        now: our time, aware.
        chains: AMD's and NVIDIA's certificate chains that held before, when the caller keeps them.
        floors: how new vendors' lists have been, when the caller keeps that: raised by the verdict's `marks`, and never
            by evidence that was refused.

    Returns:
        The verdict, valid until the first of: certificates and collateral expire, `policy.max_age_s`.

    Raises:
        AttestationError: a subclass named after what failed; `checks` holds everything that was looked at.
        ValueError: `now` is not aware, or `nonce` is not 32 bytes.
    """
    if now.tzinfo is None or len(nonce) != merkle.NONCE_SIZE:
        raise ValueError(f"want an aware time and a nonce of {merkle.NONCE_SIZE} bytes")
    return _logged(evidence, policy, nonce=nonce, now=now, chains=chains, floors=floors)


def check_recording(
    evidence: Evidence, policy: AppraisalPolicy, *, now: datetime, floors: Floors | None = None
) -> tuple[Check, ...]:
    """Appraise evidence that answers a nonce we do not know: everything `verify` does but its step 1.

    There is no verdict: such evidence may be a replay, so its keys may be used for nothing.

    Returns:
        The checks; all held, freshness is not applicable.

    Raises:
        AttestationError, ValueError: as `verify`.
    """
    if now.tzinfo is None:
        raise ValueError("want an aware time")
    return _logged(evidence, policy, nonce=None, now=now, chains=None, floors=floors).checks


def _logged(
    evidence: Evidence,
    policy: AppraisalPolicy,
    *,
    nonce: bytes | None,
    now: datetime,
    chains: ChainCache | None,
    floors: Floors | None,
) -> Verdict:
    """Appraise; a refusal leaves with every check that ran."""
    log = CheckLog()
    try:
        return _verify(evidence, policy, nonce=nonce, now=now.astimezone(UTC), chains=chains, floors=floors, log=log)
    except AttestationError as error:
        raise error.with_checks(_completed(error, log)) from error


def _verify(
    evidence: Evidence,
    policy: AppraisalPolicy,
    *,
    nonce: bytes | None,
    now: datetime,
    chains: ChainCache | None,
    floors: Floors | None,
    log: CheckLog,
) -> Verdict:
    transcript = evidence.transcript
    if nonce is None:
        log.skip("nonce", why="the nonce that was sent")
    else:
        _check_freshness(evidence, nonce, log)  # (1)
    if evidence.cpu is None:
        return _appraise_open_host(evidence, policy, now, log)
    cpu = check_cpu(evidence.cpu, policy, now=now, chains=chains, floors=floors, log=log)  # (2)
    check_not_denied("platform", cpu.platform_id, policy, log)
    digest = transcript.digest()
    _check_binding(cpu, digest, log)  # (3)
    devices = _check_loaded(evidence, cpu, policy, now=now, chains=chains, log=log)  # (4) to (8)
    tier = _tier(devices)
    domains = [cpu.trust_domain, *[trust_domain("nvidia", root) for root in devices.roots]]
    return Verdict(
        tier=tier,
        tee=cpu.tee,
        trust_domains=tuple(dict.fromkeys(domains)),
        tcb_status=cpu.tcb_status,
        signing_key=cpu.signing_key,
        advisories=cpu.advisories,
        platform_id=cpu.platform_id,
        measurement=cpu.measurement,
        gpus=_gpu_claims(devices, transcript.cc) if devices.gpus else (),
        switches=_switch_claims(devices) if devices.switches else (),
        hpke=transcript.hpke,
        receipt=transcript.receipt,
        payee=transcript.payee,
        models=transcript.models,
        engine=transcript.engine,
        transcript_digest=digest,
        verified_at=now,
        not_after=min(cpu.not_after, now + timedelta(seconds=policy.max_age_s), *devices.ends),
        marks=cpu.marks,
        checks=log.checks,
    )


def _check_loaded(
    evidence: Evidence,
    cpu: CpuClaims,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    chains: ChainCache | None,
    log: CheckLog,
) -> DeviceClaims:
    """Check all that does not depend on the nonce; what held for a host without devices, holds for one like it."""
    body = cpu.body
    if body is None or not isinstance(evidence.cpu, TdxEvidence) or names_devices(evidence):
        return _check_parts(evidence, cpu, policy, now=now, chains=chains, log=log)
    transcript = evidence.transcript
    key = evidence.cpu.log, evidence.cpu.ccel, body.rtmrs, fields_of(body), transcript.models, transcript.engine
    remember(key, policy, log, lambda part: _check_parts(evidence, cpu, policy, now=now, chains=chains, log=part))
    return NO_DEVICES


def _check_parts(
    evidence: Evidence,
    cpu: CpuClaims,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    chains: ChainCache | None,
    log: CheckLog,
) -> DeviceClaims:
    transcript = evidence.transcript
    check_measurement(cpu, policy, log)  # (4)
    check_logs(evidence.cpu, cpu.body.rtmrs if cpu.body else None, transcript, policy, log)  # (5)
    devices = check_devices(evidence, policy, now=now, chains=chains, log=log)  # (6)
    _check_models(transcript, policy, log)  # (7)
    _check_engine(transcript, policy, log)
    _check_tier(_tier(devices), policy, log)  # (8)
    return devices


def _gpu_claims(devices: DeviceClaims, states: tuple[CcState, ...]) -> tuple[GpuClaims, ...]:
    return tuple(
        GpuClaims(model=gpu.model, driver=gpu.driver, vbios=gpu.vbios, mode=gpu.feature, cc=state)
        for gpu, state in zip(devices.gpus, states, strict=True)
    )


def _switch_claims(devices: DeviceClaims) -> tuple[SwitchClaims, ...]:
    return tuple(SwitchClaims(model=switch.model, bios=switch.bios, pdi=switch.pdi) for switch in devices.switches)


def _tier(devices: DeviceClaims) -> Tier:
    return Tier.CONFIDENTIAL if devices.gpus else Tier.CONFIDENTIAL_CPU


def _check_freshness(evidence: Evidence, nonce: bytes, log: CheckLog) -> None:
    proof = evidence.inclusion
    try:
        root = merkle.root_of(nonce, proof)
    except FreshnessError as error:
        log.require("nonce", False, seen=str(error), required="our nonce in the signed tree", error=FreshnessError)
        raise
    log.require(
        "nonce",
        compare_digest(root, evidence.transcript.nonce_root),
        seen=f"leaf {proof.index} of {proof.size} under {evidence.transcript.nonce_root.hex()[:16]}",
        required=f"our nonce {nonce.hex()[:16]} in the signed tree",
        error=FreshnessError,
    )


def _appraise_open_host(evidence: Evidence, policy: AppraisalPolicy, now: datetime, log: CheckLog) -> Verdict:
    """Nothing proves where these keys live: the verdict says so, and only a policy that asks for it gets one."""
    transcript = evidence.transcript
    log.require(
        "tee",
        policy.unsafe_accept_open_hosts,
        seen="none",
        required="TDX or SEV-SNP, unless the policy says unsafe_accept_open_hosts",
        error=TierError,
    )
    named = (transcript.cc, transcript.gpus, transcript.switches)
    claimed = sum(map(len, (evidence.gpus, evidence.switches, evidence.rims, evidence.ocsp, *named)))
    log.require(
        "open host claims no hardware",
        claimed == 0,
        seen=f"{claimed} GPU claims",
        required="none: without a TEE they prove nothing",
        error=GpuBindingError,
    )
    for name in ("cpu report", "image", "binding"):
        log.skip(name, why="a TEE")
    check_logs(None, None, transcript, policy, log)
    _check_models(transcript, policy, log)
    _check_engine(transcript, policy, log)
    _check_tier(Tier.OPEN, policy, log)
    return Verdict(
        tier=Tier.OPEN,
        tee=None,
        trust_domains=(),
        tcb_status="none",
        platform_id=b"",
        measurement=b"",
        gpus=(),
        switches=(),
        hpke=transcript.hpke,
        receipt=transcript.receipt,
        payee=transcript.payee,
        models=transcript.models,
        engine=transcript.engine,
        transcript_digest=transcript.digest(),
        verified_at=now,
        not_after=now + timedelta(seconds=policy.max_age_s),
        checks=log.checks,
    )


def _check_binding(cpu: CpuClaims, digest: bytes, log: CheckLog) -> None:
    want = report_data_of(digest)
    log.require(
        "binding",
        compare_digest(cpu.report_data, want),
        seen=cpu.report_data.hex()[:32],
        required=f"{want.hex()[:32]}: the digest of this transcript",
        error=BindingMismatchError,
    )


def _check_models(transcript: Transcript, policy: AppraisalPolicy, log: CheckLog) -> None:
    foreign = set(transcript.models) - policy.reference.models
    log.require(
        "models",
        not foreign,
        seen=", ".join(sorted(root.hex()[:16] for root in transcript.models)) or "none",
        required=f"each among {len(policy.reference.models)} allowed manifest roots",
        error=ModelNotAllowedError,
    )


def _check_engine(transcript: Transcript, policy: AppraisalPolicy, log: CheckLog) -> None:
    if not policy.engines:
        log.skip("engine", why="a policy that names engines")
        return
    log.require(
        "engine",
        transcript.engine in policy.engines,
        seen=transcript.engine.hex()[:16],
        required=f"one of {len(policy.engines)} that the policy names",
        error=EngineNotAllowedError,
    )


def _check_tier(tier: Tier, policy: AppraisalPolicy, log: CheckLog) -> None:
    log.require(
        "tier",
        tier.satisfies(policy.required_tier),
        seen=str(tier),
        required=str(policy.required_tier),
        error=TierError,
    )


def _completed(error: AttestationError, log: CheckLog) -> tuple[Check, ...]:
    """Return all checks up to the refusal: ours, and those the vendor module had made when it refused."""
    ours = log.checks
    if error.checks[: len(ours)] == ours:
        ours = ()
    checks = (*ours, *error.checks)
    if checks and checks[-1].outcome == "failed":
        return checks
    return (*checks, Check(name="format", seen=str(error), required="readable evidence", outcome="failed"))
