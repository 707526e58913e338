"""SGX: a quote of version 3 holds for the enclave that was named, and for no other."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import errors as refusals
from attestation.errors import AttestationError, MalformedEvidenceError
from attestation.floors import Floors
from attestation.intel import TcbRules
from attestation.roots import PRODUCTION
from attestation.sgx import EnclaveReference, SgxClaims, SgxEvidence, check_sgx_quote
from attestation.sgx_quote import parse_sgx_quote
from attestation.sim.collateral import GOOD, SIMULATED_ADVISORY, CollateralFaults
from attestation.sim.quote import EnclaveIdentity, quote_header, sign_quote
from attestation.sim.sgx import MR_ENCLAVE_MARK, enclave_of, sgx_quote
from attestation.sim.tdx import SimulatedTdxPlatform, image_of
from tests.attestation.hosts import vendors
from tests.attestation.vendors import NOW, flipped

REPORT_DATA = bytes(range(64))
ENCLAVE = enclave_of("sealing helper")
BUILD = EnclaveReference(mr_enclaves=frozenset({ENCLAVE.mr_enclave}), isv_prod_id=1)
SIGNER = EnclaveReference(mr_signers=frozenset({ENCLAVE.mr_signer}), isv_prod_id=1, isv_svn_min=3)


@pytest.fixture(scope="module")
def platform() -> SimulatedTdxPlatform:
    return vendors().intel.make_platform(NOW)


def _evidence(
    platform: SimulatedTdxPlatform,
    enclave: EnclaveIdentity = ENCLAVE,
    faults: CollateralFaults = GOOD,
    **signing: bool,
) -> SgxEvidence:
    return SgxEvidence(
        quote=sgx_quote(platform, enclave, REPORT_DATA, **signing),
        collateral=vendors().intel.collateral(platform, NOW, faults, tee="sgx"),
    )


def _check(evidence: SgxEvidence, reference: EnclaveReference = BUILD, **changes: object) -> SgxClaims:
    given_ = {"report_data": REPORT_DATA, "roots": vendors().roots().intel, "now": NOW, **changes}
    return check_sgx_quote(evidence, reference, **given_)


@pytest.mark.parametrize("reference", [BUILD, SIGNER, replace(SIGNER, mr_enclaves=BUILD.mr_enclaves)])
def test_an_enclave_that_was_named_holds(platform: SimulatedTdxPlatform, reference: EnclaveReference) -> None:
    claims = _check(_evidence(platform), reference)
    assert claims.report.mr_enclave.startswith(MR_ENCLAVE_MARK)
    assert (claims.report.isv_prod_id, claims.report.isv_svn, claims.report.report_data) == (1, 3, REPORT_DATA)
    assert (claims.platform.tcb_status, claims.platform.root) == ("UpToDate", vendors().intel.root)
    assert claims.platform.not_after > NOW
    assert all(check.outcome == "held" for check in claims.checks)


def test_a_simulated_enclave_is_refused_under_intels_root(platform: SimulatedTdxPlatform) -> None:
    with pytest.raises(refusals.UntrustedRootError):
        _check(_evidence(platform), roots=PRODUCTION.intel)


@pytest.mark.parametrize(
    ("changes", "reference", "error"),
    [
        pytest.param({"attributes": 0x7}, BUILD, refusals.GuestPolicyError, id="debug"),
        pytest.param({"attributes": 0x4}, BUILD, refusals.GuestPolicyError, id="not-initialised"),
        pytest.param({"attributes": 0x1}, BUILD, refusals.GuestPolicyError, id="not-64-bit"),
        pytest.param({"attributes": 0x15}, BUILD, refusals.GuestPolicyError, id="provisioning-key-not-named"),
        pytest.param({"attributes": 0x5 | 1 << 40}, BUILD, refusals.GuestPolicyError, id="unknown-attribute"),
        pytest.param({"mr_enclave": b"x" * 32}, BUILD, refusals.MeasurementNotAllowedError, id="other-build"),
        pytest.param({"mr_signer": b"x" * 32}, SIGNER, refusals.MeasurementNotAllowedError, id="other-signer"),
        pytest.param({"isv_prod_id": 2}, SIGNER, refusals.MeasurementNotAllowedError, id="other-product"),
        pytest.param({"isv_svn": 2}, SIGNER, refusals.MeasurementNotAllowedError, id="older-version"),
        pytest.param({"config_id": b"c" * 64}, BUILD, refusals.MeasurementNotAllowedError, id="hosts-configuration"),
        pytest.param(
            {"mr_enclave": b"x" * 32},
            replace(SIGNER, mr_enclaves=BUILD.mr_enclaves),
            refusals.MeasurementNotAllowedError,
            id="right-signer-other-build",
        ),
        pytest.param(
            {"config_id": b"c" * 64, "config_svn": 1},
            replace(BUILD, config_id=b"c" * 64, config_svn_min=2),
            refusals.MeasurementNotAllowedError,
            id="older-configuration",
        ),
    ],
)
def test_another_enclave_is_refused(
    platform: SimulatedTdxPlatform,
    changes: dict[str, object],
    reference: EnclaveReference,
    error: type[AttestationError],
) -> None:
    with pytest.raises(error) as caught:
        _check(_evidence(platform, replace(ENCLAVE, **changes)), reference)
    assert caught.value.checks[-1].outcome == "failed"


def test_an_enclave_with_the_provisioning_key_holds_where_it_is_named(platform: SimulatedTdxPlatform) -> None:
    evidence = _evidence(platform, replace(ENCLAVE, attributes=0x15))
    assert _check(evidence, replace(BUILD, provision_key=True)).report.attributes == 0x15


def test_a_quote_for_another_nonce_is_refused(platform: SimulatedTdxPlatform) -> None:
    with pytest.raises(refusals.BindingMismatchError):
        _check(_evidence(platform), report_data=bytes(64))


def test_a_key_the_quoting_enclave_did_not_certify_is_refused(platform: SimulatedTdxPlatform) -> None:
    with pytest.raises(refusals.EvidenceSignatureError):
        _check(_evidence(platform, foreign_key=True))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        pytest.param({"age": timedelta(days=31)}, refusals.EndorsementExpiredError, id="stale"),
        pytest.param({"tcb_status": "OutOfDate"}, refusals.TcbStatusError, id="out-of-date"),
        pytest.param({"tcb_status": "Revoked"}, refusals.RevokedError, id="level-revoked"),
        pytest.param({"qe_svn": 9}, refusals.TcbStatusError, id="quoting-enclave-below-level"),
        pytest.param({"pce_id": b"\0\1"}, refusals.TcbStatusError, id="other-provisioning-enclave"),
        pytest.param({"fmspc": b"123456"}, refusals.TcbStatusError, id="other-processor-family"),
        pytest.param({"revoke_platform": True}, refusals.RevokedError, id="platform-revoked"),
    ],
)
def test_collateral_is_refused(
    platform: SimulatedTdxPlatform, faults: dict[str, object], error: type[AttestationError]
) -> None:
    with pytest.raises(error):
        _check(_evidence(platform, faults=CollateralFaults(**faults)))


def test_a_status_is_accepted_only_when_it_is_named_with_age_and_weaknesses(platform: SimulatedTdxPlatform) -> None:
    evidence = _evidence(platform, faults=CollateralFaults(tcb_status="SWHardeningNeeded"))
    named = TcbRules(
        statuses=frozenset({"UpToDate", "SWHardeningNeeded"}),
        age_max_s=5 * 365 * 86400,
        advisories=frozenset({SIMULATED_ADVISORY}),
    )
    assert _check(evidence, tcb=named).platform.advisories == (SIMULATED_ADVISORY,)
    with pytest.raises(refusals.TcbStatusError):
        _check(evidence, tcb=replace(named, advisories=frozenset()))


def test_collateral_for_guests_is_refused_for_an_enclave(platform: SimulatedTdxPlatform) -> None:
    with pytest.raises(refusals.EndorsementMismatchError):
        _check(replace(_evidence(platform), collateral=platform.collateral))


def test_collateral_older_than_what_was_seen_is_refused(platform: SimulatedTdxPlatform) -> None:
    newer = _check(_evidence(platform, faults=CollateralFaults(evaluation=18))).marks
    assert _check(_evidence(platform), floors=Floors())
    with pytest.raises(refusals.EndorsementRollbackError):
        _check(_evidence(platform), floors=newer)


def test_a_guests_quote_is_no_enclaves(platform: SimulatedTdxPlatform) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_sgx_quote(platform.quote(REPORT_DATA, image=image_of(b"i" * 32)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, (48 + 384 + 4 + 128 + 384 + 64 + 34 + 6) * 8 - 1))
def test_one_flipped_bit_is_refused(platform: SimulatedTdxPlatform, bit: int) -> None:
    evidence = _evidence(platform)
    with pytest.raises(AttestationError):
        _check(replace(evidence, quote=flipped(evidence.quote, bit)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_parser_raises_only_its_error(platform: SimulatedTdxPlatform, data: st.DataObject) -> None:
    quote = sgx_quote(platform, ENCLAVE, REPORT_DATA)
    start = data.draw(st.integers(0, len(quote)))
    end = data.draw(st.integers(start, len(quote)))
    try:
        parse_sgx_quote(quote[:start] + data.draw(st.binary(max_size=80)) + quote[end:])
    except MalformedEvidenceError:
        return


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 70, b"x"])
def test_bytes_behind_a_quote_are_refused(platform: SimulatedTdxPlatform, extra: bytes) -> None:
    with pytest.raises(MalformedEvidenceError, match="another length"):
        parse_sgx_quote(sgx_quote(platform, ENCLAVE, REPORT_DATA) + extra)


@pytest.mark.parametrize("at", [20, 31, 96, 127, 160, 191, 262, 303])
def test_a_reserved_byte_that_is_set_is_refused(platform: SimulatedTdxPlatform, at: int) -> None:
    report = bytearray(ENCLAVE.report(REPORT_DATA))
    report[at] = 1
    quote = sign_quote(quote_header(3, 0) + bytes(report), tee="sgx", pck_key=platform.pck_key, chain=platform.chain)
    with pytest.raises(MalformedEvidenceError, match="reserved"):
        parse_sgx_quote(quote)


@pytest.mark.parametrize(("at", "value"), [(0, 4), (0, 5), (2, 3), (4, 0x81)])
def test_a_quote_of_another_kind_is_malformed(platform: SimulatedTdxPlatform, at: int, value: int) -> None:
    quote = bytearray(sgx_quote(platform, ENCLAVE, REPORT_DATA))
    struct.pack_into("<H", quote, at, value)
    with pytest.raises(MalformedEvidenceError):
        parse_sgx_quote(bytes(quote))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mr_enclaves": frozenset({b"short"})},
        {"mr_signers": frozenset({bytes(33)})},
        {"mr_signers": frozenset({bytes(32)}), "config_id": b""},
        {"mr_signers": frozenset({bytes(32)}), "isv_svn_min": -1},
    ],
)
def test_a_reference_that_would_accept_anything_is_a_mistake(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"want|name enclaves"):
        EnclaveReference(**fields)
