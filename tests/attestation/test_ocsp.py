"""OCSP: a good, current answer by the issuer's own responder holds; nothing else does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.hashes import SHA1, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate, ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.certificate import Certificate
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RevocationUnknownError,
    RevokedError,
)
from attestation.evidence import encode_evidence, parse_evidence
from attestation.ocsp import RESPONSE_SIZE_MAX, OcspResponse, check_revocation, parse_ocsp
from attestation.policy import AppraisalPolicy, Revocation
from attestation.sim.nvidia import SimulatedNvidia
from attestation.sim.ocsp import LIFE, OcspFaults
from attestation.verdict import CheckLog, TeeKind
from tests.attestation.hosts import NOW, appraise, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import flipped

CHAIN = host(TeeKind.TDX, 1).gpus[0].chain
GOOD = vendors().nvidia.responder.answers(CHAIN, now=NOW)


def check(
    answers: tuple[bytes, ...], policy: Revocation = Revocation.REQUIRED, later: timedelta = timedelta(0)
) -> CheckLog:
    log = CheckLog()
    check_revocation(CHAIN, list(map(parse_ocsp, answers)), policy=policy, now=NOW + later, log=log)
    return log


def answers(**faults: object) -> tuple[bytes, ...]:
    return vendors().nvidia.responder.answers(CHAIN, now=NOW, faults=OcspFaults(**faults))  # type: ignore[arg-type]


def test_good_answers_about_every_certificate_hold() -> None:
    assert [item.outcome for item in check(GOOD).checks if item.name.endswith("revocation")] == ["held"] * 6


def test_the_library_reads_what_we_read() -> None:
    for answer in GOOD:
        ours, theirs = parse_ocsp(answer), ocsp.load_der_ocsp_response(answer)
        (single,) = ours.singles
        assert (single.serial, single.issuer_key, single.issuer_name) == (
            theirs.serial_number,
            theirs.issuer_key_hash,
            theirs.issuer_name_hash,
        )
        assert (ours.signed, ours.signature) == (theirs.tbs_response_bytes, theirs.signature)
        assert (single.this_update, single.next_update) == (theirs.this_update_utc, theirs.next_update_utc)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        pytest.param({"status": "revoked"}, RevokedError, id="revoked"),
        pytest.param({"status": "unknown"}, RevocationUnknownError, id="unknown"),
        pytest.param({"age": LIFE}, EndorsementExpiredError, id="run-out"),
        pytest.param({"age": -timedelta(days=1)}, EndorsementExpiredError, id="in-the-future"),
        pytest.param({"foreign_key": True}, EvidenceSignatureError, id="by-a-stranger"),
        pytest.param({"no_usage": True}, EvidenceSignatureError, id="by-a-certificate-for-something-else"),
        pytest.param({"no_end": True}, MalformedEvidenceError, id="without-an-end"),
        pytest.param({"other_serial": True}, RevocationUnknownError, id="about-another-certificate"),
    ],
)
def test_refused(faults: dict[str, object], error: type[AttestationError]) -> None:
    with pytest.raises(error):
        check(answers(**faults))


@pytest.mark.parametrize("faults", [{"status": "revoked"}, {"status": "unknown"}, {"age": LIFE}, {"foreign_key": True}])
def test_a_bad_answer_is_refused_also_where_none_is_required(faults: dict[str, object]) -> None:
    with pytest.raises(AttestationError):
        check(answers(**faults), Revocation.IF_PRESENT)


def test_a_revocation_beside_an_older_good_answer_is_refused() -> None:
    with pytest.raises(RevokedError):
        check((*GOOD, *answers(status="revoked")))


@pytest.mark.parametrize("missing", range(3))
def test_an_answer_left_out_is_refused_where_it_is_required_and_told_where_not(missing: int) -> None:
    left = GOOD[:missing] + GOOD[missing + 1 :]
    with pytest.raises(RevocationUnknownError, match="no answer"):
        check(left)
    assert [item.outcome for item in check(left, Revocation.IF_PRESENT).checks].count("not applicable") == 1


def test_the_responder_of_another_vendor_is_refused() -> None:
    other = SimulatedNvidia.create(NOW).responder
    lies = tuple(other.answer(certificate, issuer, now=NOW) for certificate, issuer in pairwise(CHAIN[1:]))
    with pytest.raises(EvidenceSignatureError):
        check(lies)


def test_an_authority_above_cannot_answer_for_the_issuer() -> None:
    responder = vendors().nvidia.responder
    subject, issuer = map(load_der_x509_certificate, CHAIN[1:3])
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject,
        issuer=issuer,
        algorithm=SHA384(),
        cert_status=ocsp.OCSPCertStatus.GOOD,
        this_update=NOW,
        next_update=NOW + LIFE,
        revocation_time=None,
        revocation_reason=None,
    )
    certificate = load_der_x509_certificate(responder.certificates[-1])  # certified by the root
    signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate).certificates([certificate])
    lie = signed.sign(responder.key, SHA384()).public_bytes(Encoding.DER)
    with pytest.raises(EvidenceSignatureError):
        check((lie, *GOOD[1:]))


def test_an_issuer_named_by_sha1_is_refused() -> None:
    subject, issuer = map(load_der_x509_certificate, CHAIN[1:3])
    responder = load_der_x509_certificate(vendors().nvidia.responder.certificates[0])
    builder = ocsp.OCSPResponseBuilder().add_response(
        subject, issuer, SHA1(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + LIFE, None, None
    )
    signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder)
    with pytest.raises(MalformedEvidenceError, match="unknown hash"):
        parse_ocsp(signed.sign(vendors().nvidia.responder.key, SHA384()).public_bytes(Encoding.DER))


@pytest.mark.parametrize("code", [1, 2, 3, 5, 6])
def test_an_answer_that_is_a_failure_is_refused(code: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="status"):
        parse_ocsp(bytes([0x30, 3, 0x0A, 1, code]))


def test_a_huge_answer_is_refused_unread() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_ocsp(bytes(RESPONSE_SIZE_MAX + 1))


@given(st.integers(0, len(GOOD[0]) * 8 - 1))
@settings(max_examples=250, deadline=None)
def test_one_flipped_bit_never_makes_another_answer(bit: int) -> None:
    """A bit may stand in what nobody signs (the responder's certificate, when it is not needed); it changes nothing."""
    try:
        changed = parse_ocsp(flipped(GOOD[0], bit))
        check((flipped(GOOD[0], bit), *GOOD[1:]))
    except AttestationError:
        return
    assert changed.singles == parse_ocsp(GOOD[0]).singles


@given(st.binary(max_size=300), st.integers(0, len(GOOD[0]) - 1))
@settings(max_examples=150, deadline=None)
def test_garbage_spliced_into_an_answer_is_an_answer_or_a_named_refusal(garbage: bytes, at: int) -> None:
    for data in (garbage, GOOD[0][:at] + garbage, GOOD[0][:at] + garbage + GOOD[0][at + len(garbage) :]):
        try:
            parse_ocsp(data)
        except MalformedEvidenceError:
            continue


def test_no_bit_of_an_answer_is_free() -> None:
    evidence = replace(evidence_of(host(TeeKind.TDX, 2)), ocsp=endorsed())
    chain = evidence.gpus[0].chain
    good = [parse_ocsp(answer) for answer in evidence.ocsp]
    (mine, *_) = [position for position, one in enumerate(good) if is_about(one, chain)]
    for bit in range(8 * len(evidence.ocsp[mine])):
        altered = flipped(evidence.ocsp[mine], bit)
        with pytest.raises(AttestationError):
            one = parse_ocsp(altered)
            answers = [*good[:mine], one, *good[mine + 1 :]]
            check_revocation(chain, answers, policy=Revocation.REQUIRED, now=NOW, log=CheckLog())


def is_about(answer: OcspResponse, chain: tuple[bytes, ...]) -> bool:
    certificate, issuer = (Certificate.parse(der) for der in chain[1:3])
    return any(single.is_about(certificate, issuer) for single in answer.singles)


# --- in evidence ---------------------------------------------------------------------------------------------------


def endorsed(**faults: object) -> object:
    gpus = host(TeeKind.TDX, 2).gpus
    fault = OcspFaults(**faults)  # type: ignore[arg-type]
    return tuple(sorted(vendors().nvidia.responder.answers(*(gpu.chain for gpu in gpus), now=NOW, faults=fault)))


def strict(**changes: object) -> AppraisalPolicy:
    return policy_for(host(TeeKind.TDX, 2), gpu_revocation=Revocation.REQUIRED, **changes)


def test_evidence_with_good_answers_holds_until_the_first_of_them_ends() -> None:
    evidence = replace(evidence_of(host(TeeKind.TDX, 2)), ocsp=endorsed())
    assert parse_evidence(encode_evidence(evidence)) == evidence
    verdict = appraise(evidence, strict(max_age_s=1 << 30))
    assert verdict.not_after == NOW - timedelta(hours=1) + LIFE
    with pytest.raises(EndorsementExpiredError):
        appraise(evidence, strict(), later=LIFE)


def test_evidence_without_answers_is_refused_where_they_are_required() -> None:
    evidence = evidence_of(host(TeeKind.TDX, 2))
    with pytest.raises(RevocationUnknownError, match="no answer"):
        appraise(evidence, strict())
    verdict = appraise(evidence, policy_for(host(TeeKind.TDX, 2)))
    assert sum(item.name.endswith("revocation") and item.outcome == "not applicable" for item in verdict.checks) == 6


def test_a_revoked_gpu_is_refused_by_the_default_policy_too() -> None:
    evidence = replace(evidence_of(host(TeeKind.TDX, 2)), ocsp=endorsed(status="revoked"))
    with pytest.raises(RevokedError):
        appraise(evidence, policy_for(host(TeeKind.TDX, 2)))


def test_an_empty_list_of_answers_has_no_second_spelling() -> None:
    data = encode_evidence(replace(evidence_of(host(TeeKind.TDX, 2)), ocsp=(b"x",)))
    with pytest.raises(MalformedEvidenceError, match="left out"):
        parse_evidence(data.replace(b"docsp\x81\x41x", b"docsp\x80"))
