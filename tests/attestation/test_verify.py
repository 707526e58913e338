"""The whole appraisal: honest hosts get the verdict they earn, every lie has its refusal."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import (
    AppraisalPolicy,
    AttestationError,
    Evidence,
    InclusionProof,
    MalformedEvidenceError,
    NoTee,
    SnpEvidence,
    TdxEvidence,
    TeeKind,
    Tier,
    TrustedRoots,
    encode_evidence,
    host_id,
    inclusion_proof,
    nonce_root,
    parse_evidence,
    verify,
)
from attestation import errors as refusals
from attestation.nvidia import ChainCache
from attestation.sim.collateral import SIMULATED_ADVISORY, CollateralFaults
from attestation.simulate import Fault
from tests.attestation.hosts import (
    MODEL,
    NONCE,
    NONCES,
    SNP_CPU,
    TDX_CPU,
    appraise,
    attest,
    base_transcript,
    evidence_of,
    host,
    policy_for,
    vendors,
)
from tests.attestation.test_log_appraisal import LOG_CHECKS, LOG_FAULTS
from tests.attestation.test_topology import MACHINE_REFUSALS
from tests.attestation.vendors import NOW

KINDS = pytest.mark.parametrize("kind", list(TeeKind))
HOPPER = "GPU key made in a closed state"  # its certificates do not tell
NOTHING_TO_LOOK_AT = {
    TeeKind.TDX: {"gpus", HOPPER, "endorsements not rolled back", "event log image configuration", "engine"},
    TeeKind.SEV_SNP: {"gpus", HOPPER, "endorsements not rolled back", "engine", *LOG_CHECKS},
}


def _refused(evidence: Evidence, policy: AppraisalPolicy, error: type[AttestationError]) -> AttestationError:
    with pytest.raises(error) as caught:
        appraise(evidence, policy)
    assert type(caught.value) is error
    assert caught.value.checks[-1].outcome == "failed"
    assert all(check.outcome != "failed" for check in caught.value.checks[:-1])
    return caught.value


@KINDS
@pytest.mark.parametrize(("gpus", "tier"), [(0, Tier.CONFIDENTIAL_CPU), (1, Tier.CONFIDENTIAL), (3, Tier.CONFIDENTIAL)])
def test_an_honest_host_gets_the_tier_its_hardware_is_worth(kind: TeeKind, gpus: int, tier: Tier) -> None:
    verdict = appraise(evidence_of(host(kind, gpus)), policy_for(host(kind, gpus)))
    assert (verdict.tier, verdict.tee, len(verdict.gpus)) == (tier, kind, gpus)
    assert verdict.simulated
    assert len(verdict.trust_domains) == (2 if gpus else 1)
    assert verdict.hpke == base_transcript().hpke
    assert verdict.host_id == host_id(verdict.hpke, verdict.receipt)
    assert verdict.measurement == host(kind, gpus).measurement_id()
    looked_at = [check for check in verdict.checks if not check.name.endswith("revocation")]
    assert all(check.outcome == "held" for check in looked_at if check.name not in NOTHING_TO_LOOK_AT[kind])


def test_the_wire_form_of_honest_evidence_holds() -> None:
    evidence = parse_evidence(encode_evidence(evidence_of(host(TDX_CPU, 1))))
    assert appraise(evidence, policy_for(host(TDX_CPU, 1))).tier is Tier.CONFIDENTIAL


def test_a_verdict_can_be_written_as_json_and_crosses_processes() -> None:
    verdict = appraise(evidence_of(host(TDX_CPU, 1)), policy_for(host(TDX_CPU, 1)))
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    document = json.loads(json.dumps(verdict.to_dict()))
    assert document["host_id"] == verdict.host_id.hex()
    assert document["gpus"][0]["cc"] == "on"


@KINDS
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DEBUG_GUEST, refusals.GuestPolicyError),
        (Fault.FOREIGN_MEASUREMENT, refusals.MeasurementNotAllowedError),
        (Fault.WRONG_NONCE, refusals.FreshnessError),
        (Fault.REPLAYED_QUOTE, refusals.BindingMismatchError),
        (Fault.SWAPPED_KEYS, refusals.BindingMismatchError),
        (Fault.MISSING_GPU, refusals.GpuBindingError),
        (Fault.FOREIGN_GPU, refusals.UntrustedRootError),
        (Fault.SWAPPED_GPU_REPORT, refusals.GpuBindingError),
        (Fault.REORDERED_GPUS, refusals.GpuBindingError),
        (Fault.DOUBLED_GPU, refusals.GpuBindingError),
        (Fault.CC_OFF, refusals.GpuStateError),
        (Fault.CC_DEVTOOLS, refusals.GpuStateError),
        (Fault.ALTERED_GPU_FIRMWARE, refusals.RimMismatchError),
        (Fault.MIXED_MODES, refusals.GpuStateError),
        (Fault.GPU_OF_A_SET, refusals.TopologyError),
        (Fault.STALE_COLLATERAL, refusals.EndorsementExpiredError),
        (Fault.OUT_OF_DATE_TCB, refusals.TcbStatusError),
        (Fault.REVOKED_KEY, refusals.RevokedError),
    ],
)
def test_refused(kind: TeeKind, fault: Fault, error: type[AttestationError]) -> None:
    liar = host(kind, 2, fault)
    _refused(evidence_of(liar), policy_for(liar), error)


SNP_REFUSALS = {
    Fault.MEMORY_ALIASES: refusals.PlatformSettingsError,
    Fault.MASKED_CHIP: refusals.EndorsementMismatchError,
    Fault.LOWER_PRIVILEGE: refusals.GuestPolicyError,
}


@pytest.mark.parametrize(("fault", "error"), SNP_REFUSALS.items())
def test_refused_snp_host(fault: Fault, error: type[AttestationError]) -> None:
    liar = host(SNP_CPU, 1, fault)
    _refused(evidence_of(liar), policy_for(liar), error)


def test_every_fault_of_the_simulator_is_tried_above() -> None:
    tried = next(mark for mark in test_refused.pytestmark if mark.args[0] == ("fault", "error")).args[1]
    assert {fault for fault, _ in tried} | LOG_FAULTS.keys() | SNP_REFUSALS.keys() | MACHINE_REFUSALS.keys() == set(
        Fault
    )


def test_a_nonce_of_somebody_else_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU))
    with pytest.raises(refusals.FreshnessError):
        verify(evidence, policy_for(host(TDX_CPU)), nonce=b"?" * 32, now=NOW)


def test_old_evidence_answers_no_new_nonce() -> None:
    old = attest(host(TDX_CPU), nonce_root=nonce_root([b"old" + bytes(29)]))
    relabelled = old.evidence(inclusion_proof(NONCES, 2))
    _refused(relabelled, policy_for(host(TDX_CPU)), refusals.FreshnessError)


@pytest.mark.parametrize("size", [3, 4, 6, 7, 8, 16])
def test_a_tree_of_another_size_is_refused(size: int) -> None:
    evidence = evidence_of(host(TDX_CPU))
    proof = InclusionProof(index=2, size=size, path=evidence.inclusion.path)
    _refused(replace(evidence, inclusion=proof), policy_for(host(TDX_CPU)), refusals.FreshnessError)


def test_one_quote_answers_every_challenger_of_its_batch() -> None:
    attestation = attest(host(TDX_CPU))
    for index, nonce in enumerate(NONCES):
        evidence = attestation.evidence(inclusion_proof(NONCES, index))
        assert verify(evidence, policy_for(host(TDX_CPU)), nonce=nonce, now=NOW).tier is Tier.CONFIDENTIAL_CPU


def test_an_extra_gpu_nobody_signed_for_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1))
    doubled = replace(evidence, gpus=evidence.gpus * 2)
    _refused(doubled, policy_for(host(TDX_CPU, 1)), refusals.GpuBindingError)


def test_gpus_left_out_to_pass_as_a_smaller_host_are_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1))
    stripped = replace(evidence, gpus=(), rims=(), transcript=replace(evidence.transcript, cc=(), gpus=()))
    _refused(stripped, policy_for(host(TDX_CPU)), refusals.BindingMismatchError)


def test_a_cc_state_edited_after_signing_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1, Fault.CC_OFF))
    edited = replace(evidence.transcript, cc=evidence_of(host(TDX_CPU, 1)).transcript.cc)
    _refused(replace(evidence, transcript=edited), policy_for(host(TDX_CPU, 1)), refusals.BindingMismatchError)


def test_gpus_of_another_host_are_refused() -> None:
    mine, other = evidence_of(host(TDX_CPU, 1)), evidence_of(vendors().make_host(TDX_CPU, gpus=1, quote_latency_s=0))
    _refused(replace(mine, gpus=other.gpus), policy_for(host(TDX_CPU, 1)), refusals.GpuBindingError)


def test_a_payee_swapped_after_signing_is_refused() -> None:
    evidence = evidence_of(host(SNP_CPU))
    stolen = replace(evidence.transcript, payee=b"\0" + b"x" * 32)
    _refused(replace(evidence, transcript=stolen), policy_for(host(SNP_CPU)), refusals.BindingMismatchError)


def test_a_manifest_nobody_allowed_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1))
    _refused(replace(evidence, rims=(*evidence.rims, b"<x/>")), policy_for(host(TDX_CPU, 1)), refusals.RimMismatchError)


def test_a_manifest_sent_twice_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1))
    doubled = replace(evidence, rims=(*evidence.rims, evidence.rims[0]))
    _refused(doubled, policy_for(host(TDX_CPU, 1)), refusals.RimMismatchError)


def test_gpu_measurements_without_a_manifest_are_refused() -> None:
    evidence = evidence_of(host(TDX_CPU, 1))
    _refused(replace(evidence, rims=()), policy_for(host(TDX_CPU, 1)), refusals.RimMismatchError)


def test_a_model_nobody_allowed_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU), models=(MODEL, b"z" * 32))
    _refused(evidence, policy_for(host(TDX_CPU)), refusals.ModelNotAllowedError)


@KINDS
def test_a_denied_platform_is_refused(kind: TeeKind) -> None:
    platform = appraise(evidence_of(host(kind)), policy_for(host(kind))).platform_id
    assert len(platform) == 32
    denying = policy_for(host(kind), denied_platforms=frozenset({platform}))
    _refused(evidence_of(host(kind)), denying, refusals.RevokedError)


@KINDS
def test_a_simulated_host_is_refused_under_the_production_roots(kind: TeeKind) -> None:
    production = AppraisalPolicy(
        reference=policy_for(host(kind)).reference,
        required_tier=Tier.CONFIDENTIAL_CPU,
        snp_floor=policy_for(host(kind)).snp_floor,
    )
    _refused(evidence_of(host(kind)), production, refusals.UntrustedRootError)


@KINDS
def test_another_simulated_vendor_is_refused(kind: TeeKind) -> None:
    mine = vendors().roots()
    foreign = replace(mine, intel=mine.nvidia, amd=mine.nvidia)
    policy = policy_for(host(kind), unsafe_simulated_roots=foreign)
    _refused(evidence_of(host(kind)), policy, refusals.UntrustedRootError)


def test_a_cpu_only_host_is_refused_where_a_gpu_is_required() -> None:
    policy = policy_for(host(TDX_CPU), required_tier=Tier.CONFIDENTIAL)
    _refused(evidence_of(host(TDX_CPU)), policy, refusals.TierError)


def test_an_open_host_is_refused_unless_asked_for_by_name() -> None:
    evidence = NoTee().attest(base_transcript()).evidence(inclusion_proof(NONCES, 2))
    _refused(evidence, policy_for(host(TDX_CPU)), refusals.TierError)
    willing = policy_for(host(TDX_CPU), unsafe_accept_open_hosts=True)
    _refused(evidence, willing, refusals.TierError)
    verdict = appraise(evidence, replace(willing, required_tier=Tier.OPEN))
    assert (verdict.tier, verdict.tee, verdict.trust_domains) == (Tier.OPEN, None, ())
    assert verdict.not_after == NOW + timedelta(seconds=600)


def test_an_open_host_that_claims_gpus_is_refused() -> None:
    evidence = replace(evidence_of(host(TDX_CPU, 1)), cpu=None)
    policy = policy_for(host(TDX_CPU, 1), unsafe_accept_open_hosts=True, required_tier=Tier.OPEN)
    _refused(evidence, policy, refusals.GpuBindingError)


def test_stripping_the_cpu_report_does_not_lower_the_bar() -> None:
    evidence = replace(evidence_of(host(TDX_CPU)), cpu=None)
    _refused(evidence, policy_for(host(TDX_CPU)), refusals.TierError)


def test_a_verdict_ends_with_the_policys_age_or_the_first_endorsement() -> None:
    evidence, policy = evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU))
    assert appraise(evidence, policy).not_after == NOW + timedelta(seconds=policy.max_age_s)
    patient = replace(policy, max_age_s=365 * 86400)
    ends = appraise(evidence, patient).not_after
    assert ends < NOW + timedelta(days=31)
    assert appraise(evidence, patient, later=ends - NOW - timedelta(seconds=1)).not_after == ends
    with pytest.raises(refusals.EndorsementExpiredError):
        appraise(evidence, patient, later=ends - NOW)


def test_a_tcb_recovery_refuses_a_host_that_held_before() -> None:
    before = host(TDX_CPU)
    appraise(evidence_of(before), policy_for(before))
    later = NOW + timedelta(days=1)
    after = vendors().refresh(before, now=later, faults=CollateralFaults(tcb_status="OutOfDate"))
    with pytest.raises(refusals.TcbStatusError):
        appraise(evidence_of(after), policy_for(before), later=timedelta(days=1))


def test_old_collateral_is_refused_after_a_recovery_by_its_evaluation_number() -> None:
    policy = policy_for(host(TDX_CPU), tcb_evaluation_min=18)
    _refused(evidence_of(host(TDX_CPU)), policy, refusals.TcbStatusError)


def test_an_out_of_date_platform_is_accepted_only_by_name_age_and_weaknesses() -> None:
    old = host(TDX_CPU, 0, Fault.OUT_OF_DATE_TCB)
    named = policy_for(old, tcb_statuses=frozenset({"UpToDate", "OutOfDate"}))
    _refused(evidence_of(old), named, refusals.TcbStatusError)
    aged = replace(named, tcb_age_max_s=5 * 365 * 86400)
    _refused(evidence_of(old), aged, refusals.TcbStatusError)
    verdict = appraise(evidence_of(old), replace(aged, tcb_advisories_allowed=frozenset({SIMULATED_ADVISORY})))
    assert verdict.tcb_status == "OutOfDate"


def test_chains_that_held_before_may_be_remembered() -> None:
    evidence, policy, chains = evidence_of(host(TDX_CPU, 2)), policy_for(host(TDX_CPU, 2)), ChainCache()
    first = verify(evidence, policy, nonce=NONCE, now=NOW, chains=chains)
    assert verify(evidence, policy, nonce=NONCE, now=NOW, chains=chains) == first


@pytest.mark.parametrize("now", [datetime(2026, 6, 1), None])
def test_a_naive_time_is_a_mistake_of_the_caller(now: datetime | None) -> None:
    with pytest.raises(ValueError, match="aware"):
        verify(evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU)), nonce=NONCE, now=now or datetime.min)


def test_the_verifiers_time_zone_does_not_matter() -> None:
    evidence, policy = evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU))
    elsewhere = verify(evidence, policy, nonce=NONCE, now=NOW.astimezone(timezone(timedelta(hours=9))))
    assert elsewhere == verify(evidence, policy, nonce=NONCE, now=NOW)
    assert elsewhere.verified_at.tzinfo is UTC


def _flip(data: bytes, bit: int) -> bytes:
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


@pytest.mark.parametrize(("kind", "gpus"), [(TDX_CPU, 0), (TDX_CPU, 1), (SNP_CPU, 1)])
def test_one_flipped_bit_anywhere_is_refused(kind: TeeKind, gpus: int) -> None:
    document, policy = encode_evidence(evidence_of(host(kind, gpus))), policy_for(host(kind, gpus))
    appraise(parse_evidence(document), policy)

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(document) * 8 - 1))
    def one_flip(bit: int) -> None:
        with pytest.raises(AttestationError):
            appraise(parse_evidence(_flip(document, bit)), policy)

    one_flip()


@pytest.mark.slow
def test_no_bit_of_a_tdx_document_is_free() -> None:
    document, policy = encode_evidence(evidence_of(host(TDX_CPU))), policy_for(host(TDX_CPU))
    free = []
    for bit in range(0, len(document) * 8, 31):  # coprime to 8: all bit positions in turn
        try:
            appraise(parse_evidence(_flip(document, bit)), policy)
        except AttestationError:
            continue
        free.append(bit)
    assert not free


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=200))
def test_garbage_in_place_of_a_quote_is_malformed(quote: bytes, collateral: str) -> None:
    genuine = evidence_of(host(TDX_CPU))
    assert isinstance(genuine.cpu, TdxEvidence)
    for cpu in (replace(genuine.cpu, quote=quote), replace(genuine.cpu, collateral=collateral)):
        with pytest.raises(MalformedEvidenceError):
            appraise(replace(genuine, cpu=cpu), policy_for(host(TDX_CPU)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_garbage_spliced_into_evidence_is_always_a_named_refusal(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([TDX_CPU, SNP_CPU]))
    genuine = evidence_of(host(kind))
    assert isinstance(genuine.cpu, TdxEvidence | SnpEvidence)
    name = data.draw(
        st.sampled_from([field for field in genuine.cpu.__slots__ if isinstance(getattr(genuine.cpu, field), bytes)])
    )
    value = getattr(genuine.cpu, name)
    start = data.draw(st.integers(0, len(value) - 1))
    end = data.draw(st.integers(start, min(len(value), start + 40)))
    spliced = value[:start] + data.draw(st.binary(max_size=40)) + value[end:]
    evidence = replace(genuine, cpu=replace(genuine.cpu, **{name: spliced}))
    if spliced != value:
        with pytest.raises(AttestationError):
            appraise(evidence, policy_for(host(kind)))


def test_trust_in_no_vendor_at_all_is_no_policy() -> None:
    with pytest.raises(refusals.PolicyError):
        AppraisalPolicy(reference=policy_for(host(TDX_CPU)).reference, roots=TrustedRoots.none())
