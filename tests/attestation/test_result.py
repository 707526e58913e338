"""The Attestation Result: a word and a vector for each part of a host, from the checks and nothing else."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import AttestationError, Check, TeeKind, encode_evidence
from attestation import errors as refusals
from attestation.appraisal import Appraisal, Result, appraise, group_checks
from attestation.policy import TCB_STATUSES, AppraisalPolicy
from attestation.result import attestation_result, encode_result
from attestation.result_token import CLOCK_SKEW_S, HEADER, sign_result, verify_result
from attestation.roots import PRODUCTION
from attestation.sim.scenes import Stage
from attestation.simulate import Fault, SimulatedHost
from attestation.table import format_table
from tests.attestation.hosts import NONCE, SNP_CPU, TDX_CPU, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def _appraised(attester: SimulatedHost, *, nonce: bytes | None = NONCE) -> tuple[Appraisal, AppraisalPolicy]:
    policy = policy_for(attester)
    return appraise(encode_evidence(evidence_of(attester)), policy, nonce=nonce, now=NOW), policy


def _claims(attester: SimulatedHost, *, nonce: bytes | None = NONCE) -> dict:
    appraisal, policy = _appraised(attester, nonce=nonce)
    return attestation_result(appraisal, policy, policy_id="p", nonce=nonce, now=NOW)


def _statuses(claims: dict) -> dict[str, str]:
    return {name: part["ear.status"] for name, part in claims["submods"].items()}


def _genuine(checks: tuple[Check, ...], result: Result = Result.HELD) -> dict:
    """The result of these checks under a policy that names genuine roots."""
    appraisal = Appraisal(result=result, reason="", message="", advice="", checks=checks, verdict=None)
    policy = replace(policy_for(host(TDX_CPU)), roots=PRODUCTION, unsafe_simulated_roots=None)
    return attestation_result(appraisal, policy, policy_id="p", nonce=None, now=NOW)


@pytest.mark.parametrize("kind", list(TeeKind))
def test_every_part_of_a_host_has_its_own_vector(kind: TeeKind) -> None:
    claims = _claims(host(kind, 2))
    assert list(claims["submods"]) == ["host", "cpu0", "gpu0", "gpu1"]
    for name in ("cpu0", "gpu0", "gpu1"):
        vector = claims["submods"][name]["ear.trustworthiness-vector"]
        assert {"executables", "hardware", "instance-identity", "runtime-opaque"} <= set(vector)
    assert claims["submods"]["gpu0"] == claims["submods"]["gpu1"]
    assert (claims["iat"], claims["exp"]) == (int(NOW.timestamp()), int(NOW.timestamp()) + 600)


def test_simulated_hardware_is_never_affirmed() -> None:
    assert _statuses(_claims(host(TDX_CPU, 1))) == {"host": "affirming", "cpu0": "warning", "gpu0": "warning"}


def test_genuine_hardware_that_holds_is_affirmed() -> None:
    appraisal, _ = _appraised(host(TDX_CPU, 1))
    assert set(_statuses(_genuine(appraisal.checks)).values()) == {"affirming"}


@pytest.mark.parametrize("status", TCB_STATUSES)
def test_a_tcb_status_accepted_by_name_is_a_warning(status: str) -> None:
    held = Check(name="tdx quote", seen=status, required="", outcome="held")
    part = _genuine((held,))["submods"]["cpu0"]
    assert part["ear.status"] == ("affirming" if status == "UpToDate" else "warning")
    assert part["ear.trustworthiness-vector"] == {"hardware": 2 if status == "UpToDate" else 32}


def test_exactly_the_part_that_lied_is_contraindicated_and_nothing_is_affirmed() -> None:
    scenes = list(Stage(vendors()).faults())
    assert len(scenes) > len(Fault)
    for scene in scenes:
        policy = AppraisalPolicy.from_yaml(json.dumps(scene.policy))
        appraisal = appraise(scene.document, policy, nonce=scene.nonce, now=scene.at)
        claims = attestation_result(appraisal, policy, policy_id="p", nonce=scene.nonce, now=scene.at)
        parts = group_checks(appraisal.checks)
        (liar,) = [name for name, checks in parts.items() if any(check.outcome == "failed" for check in checks)]
        statuses = _statuses(claims)
        assert statuses.pop(liar) == "contraindicated", scene.name
        assert set(statuses.values()) <= {"none"}, scene.name
        assert {"exp", "chrysalis-verdict"}.isdisjoint(claims)
        assert claims["chrysalis-reason"] == appraisal.reason


def test_a_recording_affirms_nothing_about_freshness() -> None:
    claims = _claims(host(SNP_CPU, 1), nonce=None)
    assert _statuses(claims)["host"] == "none"
    assert claims["chrysalis-outcome"] == "unknown"
    assert "eat_nonce" not in claims


def test_bytes_that_are_no_evidence_are_contraindicated() -> None:
    policy = policy_for(host(TDX_CPU))
    appraisal = appraise(b"garbage", policy, nonce=NONCE, now=NOW)
    claims = attestation_result(appraisal, policy, policy_id="p", nonce=NONCE, now=NOW)
    assert claims["submods"]["host"]["ear.trustworthiness-vector"] == {"sourced-data": 99}
    assert _statuses(claims) == {"host": "contraindicated"}


def test_the_same_appraisal_gives_the_same_bytes() -> None:
    document, policy = encode_evidence(evidence_of(host(TDX_CPU, 1))), policy_for(host(TDX_CPU, 1))
    texts = {
        encode_result(
            attestation_result(
                appraise(document, policy, nonce=NONCE, now=NOW), policy, policy_id="p", nonce=NONCE, now=NOW
            )
        )
        for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("error", [AttestationError, *AttestationError.__subclasses__()])
def test_every_refusal_says_what_to_do_next(error: type[AttestationError], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bytes) -> None:
        raise error("why")

    monkeypatch.setattr("attestation.appraisal.parse_evidence", refuse)
    appraisal = appraise(b"", policy_for(host(TDX_CPU)), nonce=NONCE, now=NOW)
    assert (appraisal.result, appraisal.reason, appraisal.verdict) == (Result.REFUSED, error.__name__, None)
    assert appraisal.advice.endswith(".")


def test_a_signed_result_is_read_back_and_signed_the_same_way_again() -> None:
    claims = _claims(host(TDX_CPU, 1))
    token = sign_result(claims, KEY)
    assert verify_result(token, KEY.public_key(), now=NOW, age_max_s=60) == json.loads(json.dumps(claims))
    assert sign_result(claims, KEY) == token


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_result_token_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    token = sign_result({"eat_profile": "tag:github.com,2023:veraison/ear", "iat": int(NOW.timestamp())}, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x17F).filter(lambda letter: letter != token[at]))
    with pytest.raises((refusals.MalformedEvidenceError, refusals.EvidenceSignatureError)):
        verify_result(token[:at] + other + token[at + 1 :], KEY.public_key(), now=NOW, age_max_s=60)


def test_a_result_token_of_another_verifier_is_refused() -> None:
    token = sign_result(_claims(host(TDX_CPU)), Ed25519PrivateKey.generate())
    with pytest.raises(refusals.EvidenceSignatureError):
        verify_result(token, KEY.public_key(), now=NOW, age_max_s=60)


@pytest.mark.parametrize(
    ("later_s", "age_max_s", "held"),
    [(0, 0, True), (60, 60, True), (61, 60, False), (-CLOCK_SKEW_S, 60, True), (-CLOCK_SKEW_S - 1, 60, False)],
)
def test_a_result_token_is_read_only_while_it_is_fresh(later_s: int, age_max_s: int, held: bool) -> None:
    token = sign_result(_claims(host(TDX_CPU)), KEY)
    now = NOW + timedelta(seconds=later_s)
    if held:
        verify_result(token, KEY.public_key(), now=now, age_max_s=age_max_s)
    else:
        with pytest.raises(refusals.EndorsementExpiredError):
            verify_result(token, KEY.public_key(), now=now, age_max_s=age_max_s)


def test_a_result_token_past_the_end_of_its_verdict_is_refused() -> None:
    token = sign_result(_claims(host(TDX_CPU)), KEY)
    with pytest.raises(refusals.EndorsementExpiredError, match="ended"):
        verify_result(token, KEY.public_key(), now=NOW + timedelta(seconds=601), age_max_s=3600)


def _token(header: bytes, payload: bytes) -> str:
    signed = ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, payload))
    return f"{signed}.{urlsafe_b64encode(KEY.sign(signed.encode())).rstrip(b'=').decode()}"


GOOD = b'{"eat_profile":"tag:github.com,2023:veraison/ear","iat":%d}' % NOW.timestamp()


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="nothing"),
        pytest.param("a.b", id="two-parts"),
        pytest.param("." * 2, id="three-empty-parts"),
        pytest.param(_token(HEADER, GOOD) + ".x", id="four-parts"),
        pytest.param(_token(b'{"alg":"none"}', GOOD), id="no-algorithm"),
        pytest.param(_token(b'{"typ":"JWT","alg":"EdDSA"}', GOOD), id="another-spelling-of-the-header"),
        pytest.param(_token(HEADER, GOOD) + "=", id="padded"),
        pytest.param(_token(HEADER, b"x"), id="no-json"),
        pytest.param(_token(HEADER, b"[" * 100_000), id="deep-json"),
        pytest.param(_token(HEADER, b"[]"), id="no-map"),
        pytest.param(_token(HEADER, b'{"iat":1}'), id="another-profile"),
        pytest.param(_token(HEADER, GOOD.replace(b"iat", b"nbf")), id="no-time"),
        pytest.param(_token(HEADER, GOOD.replace(b"}", b',"exp":"x"}')), id="end-that-is-text"),
        pytest.param("x" * (1 << 20) + "..", id="too-large"),
    ],
)
def test_a_malformed_result_token_is_refused(token: str) -> None:
    with pytest.raises(refusals.MalformedEvidenceError):
        verify_result(token, KEY.public_key(), now=NOW, age_max_s=60)


def test_a_result_token_without_padding_is_the_one_spelling() -> None:
    assert verify_result(_token(HEADER, GOOD), KEY.public_key(), now=NOW, age_max_s=60)["iat"] == int(NOW.timestamp())


@given(st.lists(st.lists(st.text(max_size=40), min_size=3, max_size=3), max_size=4), st.integers(1, 200))
def test_a_table_keeps_its_width_and_its_lines(rows: list[list[str]], width: int) -> None:
    lines = format_table(("a", "b", "c"), rows, width=width).split("\n")
    assert max(map(len, lines)) <= max(width, 3 * 8 + 4)
    assert all(line.isprintable() for line in lines)


def test_a_strangers_words_cannot_move_the_cursor() -> None:
    table = format_table(("seen",), [["\x1b[2J\rok \u202e"]], width=80)
    assert "\x1b" not in table
    assert "\\x1b[2J\\rok \\u202e" in table


def test_checks_of_the_second_device_do_not_count_as_the_firsts() -> None:
    names = ("GPU root", "GPU mode", "gpu 0 not denied", "GPU root", "GPU mode", "gpu 1 not denied", "gpu identities")
    checks = [Check(name=name, seen="", required="", outcome="held") for name in names]
    grouped = group_checks(checks)
    assert {group: [check.name for check in found] for group, found in grouped.items()} == {
        "gpu0": ["GPU root", "GPU mode", "gpu 0 not denied"],
        "gpu1": ["GPU root", "GPU mode", "gpu 1 not denied"],
        "host": ["gpu identities"],
    }


def test_a_vendor_of_somebody_else_is_refused_in_the_result_too() -> None:
    stranger = replace(policy_for(host(SNP_CPU)), unsafe_simulated_roots=replace(vendors().roots(), amd=frozenset()))
    appraisal = appraise(encode_evidence(evidence_of(host(SNP_CPU))), stranger, nonce=NONCE, now=NOW)
    claims = attestation_result(appraisal, stranger, policy_id="p", nonce=NONCE, now=NOW)
    assert claims["submods"]["cpu0"]["ear.trustworthiness-vector"]["instance-identity"] == 96
