"""The verifier's words are part of what it promises: each check says what was seen and required. Edges of its rules."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from attestation import (
    AppraisalPolicy,
    AttestationError,
    CcState,
    Evidence,
    GpuEvidence,
    NoTee,
    ReferenceValues,
    Tier,
    inclusion_proof,
)
from attestation.errors import (
    EngineNotAllowedError,
    GpuBindingError,
    MalformedEvidenceError,
    MeasurementNotAllowedError,
    ModelNotAllowedError,
)
from attestation.sim.guest import image_config
from attestation.sim.scenes import Stage
from attestation.simulate import DEFAULT_IMAGE
from attestation.tdx_quote import cut_quote
from attestation.verify import check_recording
from tests.attestation import words
from tests.attestation.hosts import (
    MODEL,
    NONCES,
    SNP_CPU,
    TDX_CPU,
    appraise,
    base_transcript,
    evidence_of,
    host,
    policy_for,
    vendors,
)
from tests.attestation.vendors import NOW

PAGE = Path(__file__).with_name("words.txt")


def test_every_check_refusal_and_verdict_says_what_the_page_says() -> None:
    said = list(words.lines(Stage(vendors(), seed=1)))
    assert said == PAGE.read_text().splitlines(), words.__doc__


def test_the_page_is_the_same_for_other_keys() -> None:
    assert list(words.lines(Stage(vendors(), seed=2))) == PAGE.read_text().splitlines()


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"engines": frozenset({b"o" * 32})}, "engine: 6565656565656565; required: one of 1 that the policy names"),
        (
            {"image_configs": frozenset({b"o" * 32, b"p" * 32})},
            f"event log image configuration: {image_config(DEFAULT_IMAGE).hex()[:16]}; "
            "required: one or more, each among 2 allowed",
        ),
    ],
)
def test_what_the_policy_does_not_name_is_refused_with_what_was_seen(changes: dict, seen: str) -> None:
    with pytest.raises(AttestationError) as caught:
        appraise(evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU), **changes))
    assert str(caught.value) == seen


@pytest.mark.parametrize("count", [0, 2])
def test_the_models_of_a_host_are_listed(count: int) -> None:
    models = (MODEL, b"n" * 32)[:count]
    verdict = appraise(evidence_of(host(TDX_CPU), models=models), policy_for(host(TDX_CPU)))
    check = next(check for check in verdict.checks if check.name == "models")
    assert check.seen == (", ".join(root.hex()[:16] for root in models) or "none")


@pytest.mark.parametrize(
    ("claims", "count"),
    [
        ({"rims": (b"r",)}, 1),
        ({"ocsp": (b"o",)}, 1),
        ({"rims": (b"r",), "ocsp": (b"o",)}, 2),
        ({"cc": (CcState.ON,)}, 1),
        ({"cc": (CcState.ON,), "gpus": (bytes(48),)}, 2),
        ({"cc": (CcState.ON,), "rims": (b"r",)}, 2),
        ({"cc": (CcState.ON,), "ocsp": (b"o",)}, 2),
        ({"reports": (GpuEvidence(report=b"", chain=()),), "rims": (b"r",)}, 2),
    ],
)
def test_refused_open_host_that_claims_any_hardware(claims: dict, count: int) -> None:
    base = base_transcript(**{name: claims[name] for name in ("cc", "gpus") if name in claims})
    evidence = Evidence(
        transcript=base,
        inclusion=inclusion_proof(NONCES, 2),
        cpu=None,
        gpus=claims.get("reports", ()),
        rims=claims.get("rims", ()),
        ocsp=claims.get("ocsp", ()),
    )
    nothing = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset({MODEL}))
    policy = AppraisalPolicy(reference=nothing, required_tier=Tier.OPEN, unsafe_accept_open_hosts=True)
    with pytest.raises(GpuBindingError, match=f"open host claims no hardware: {count} GPU claims; "):
        appraise(evidence, policy)


def test_refused_open_host_with_an_engine_or_a_model_the_policy_does_not_name() -> None:
    evidence = NoTee().attest(base_transcript()).evidence(inclusion_proof(NONCES, 2))
    models = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset({MODEL}))
    rules = {"required_tier": Tier.OPEN, "unsafe_accept_open_hosts": True}
    with pytest.raises(EngineNotAllowedError):
        appraise(evidence, AppraisalPolicy(reference=models, engines=frozenset({b"o" * 32}), **rules))
    with pytest.raises(ModelNotAllowedError):
        appraise(evidence, AppraisalPolicy(reference=replace(models, models=frozenset()), **rules))
    named = AppraisalPolicy(reference=models, engines=frozenset({evidence.transcript.engine}), **rules)
    assert appraise(evidence, named).tier is Tier.OPEN


def test_a_platform_is_named_by_vendor_and_chip() -> None:
    verdict = appraise(evidence_of(host(SNP_CPU)), policy_for(host(SNP_CPU)))
    chip = host(SNP_CPU).platform.chip_id
    assert verdict.platform_id == hashlib.sha256(b"chrysalis/1 platform" + b"sev-snp" + chip).digest()


def test_a_quote_is_cut_to_its_length_and_nothing_but_zeros_is_cut_off() -> None:
    quote = evidence_of(host(TDX_CPU)).cpu.quote
    assert cut_quote(quote) == quote
    assert cut_quote(quote + bytes(70)) == quote
    for wrong in (quote[:-1], quote + b"\0\1"):
        with pytest.raises(MalformedEvidenceError, match=f"quote of {len(wrong)} bytes says it has {len(quote)}, the"):
            cut_quote(wrong)


def test_a_recording_is_judged_by_the_policy_and_the_time_given() -> None:
    evidence = evidence_of(host(TDX_CPU))
    checks = check_recording(evidence, policy_for(host(TDX_CPU)), now=NOW)
    assert (checks[0].name, checks[0].outcome) == ("nonce", "not applicable")
    nothing = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
    with pytest.raises(MeasurementNotAllowedError) as caught:
        check_recording(evidence, policy_for(host(TDX_CPU), reference=nothing), now=NOW)
    assert caught.value.checks[0].name == "nonce"
    with pytest.raises(ValueError, match=r"^want an aware time$"):
        check_recording(evidence, policy_for(host(TDX_CPU)), now=datetime(2026, 6, 1, 12))
