"""What a refusal of Intel's quotes and collateral says, word for word; and the last value that is still accepted."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from attestation.certificate import Certificate
from attestation.collateral import encode_collateral, parse_collateral
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    RevokedError,
)
from attestation.evidence import TdxEvidence
from attestation.intel import TcbRules
from attestation.intel_refusal import explain
from attestation.revocation import RevocationList
from attestation.sim.collateral import SIMULATED_ADVISORY, CollateralFaults, make_tcb_info
from attestation.sim.intel import FMSPC
from attestation.sim.quote import quote_header, raw_signature, sign_quote
from attestation.sim.tdx import SimulatedTdxPlatform, TdxFaults, image_of
from attestation.tdx import TdxClaims, check_quote
from attestation.tdx_quote import parse_quote
from attestation.tdx_rules import XFAM_KNOWN, TdxRules
from tests.attestation.hosts import vendors
from tests.attestation.said import Said, refusal
from tests.attestation.vendors import NOW

SECOND = timedelta(seconds=1)
REPORT_DATA = bytes(range(64))
REFUSED_CHAIN = "Verification failed: Failed to verify certificate chain"


@pytest.fixture(scope="module")
def tdx() -> SimulatedTdxPlatform:
    return vendors().intel.make_platform(NOW)


def _quoted(tdx: SimulatedTdxPlatform, collateral: str | None = None, **faults: object) -> TdxEvidence:
    quote = tdx.quote(REPORT_DATA, image=image_of(b"i" * 32), faults=TdxFaults(**faults))
    return TdxEvidence(quote=quote, collateral=collateral or tdx.collateral)


def _tdx(evidence: TdxEvidence, **changes: object) -> TdxClaims:
    return check_quote(evidence, **{"roots": vendors().roots().intel, "now": NOW, **changes})


@pytest.mark.parametrize(
    ("faults", "check"),
    [
        (
            {"td_attributes": 1 << 28 | 1 | 1 << 63},
            Said("tdx guest attributes", "0x8000000010000001 (debug, SEPT_VE_DISABLE, PERFMON)", ""),
        ),
        ({"td_attributes": 0}, Said("tdx guest attributes", "0x0000000000000000 (none)", "")),
        (
            {"td_attributes": 1 << 28 | 1 << 30 | 3 << 40},
            Said("tdx guest attributes", "0x0000030050000000 (SEPT_VE_DISABLE, PKS, unknown 0x30000000000)", ""),
        ),
        (
            {"td_attributes": 3 << 28},
            Said("tdx guest attributes", "0x0000000030000000 (SEPT_VE_DISABLE, migratable)", ""),
        ),
    ],
)
def test_a_guest_is_refused_with_its_settings_in_words(
    tdx: SimulatedTdxPlatform, faults: dict[str, object], check: Said
) -> None:
    wanted = "SEPT_VE_DISABLE; not debug, migratable or unknown bits"
    assert refusal(lambda: _tdx(_quoted(tdx, **faults))) == check._replace(required=wanted)


def test_every_accepted_attribute_and_feature_is_accepted(tdx: SimulatedTdxPlatform) -> None:
    assert _tdx(_quoted(tdx, td_attributes=1 << 28 | 1 << 30 | 1 << 63, xfam=XFAM_KNOWN))
    assert _tdx(_quoted(tdx, xfam=3), rules=TdxRules(xfam_allowed=3))
    check = refusal(lambda: _tdx(_quoted(tdx, xfam=7), rules=TdxRules(xfam_allowed=3)))
    assert check == Said("tdx xfam", "0x7", "bits of 0x3 with 0x3")


def test_a_module_is_refused_with_its_measurement_and_version(tdx: SimulatedTdxPlatform) -> None:
    seam = parse_quote(_quoted(tdx).quote).body.mr_seam.hex()[:32]
    rules = TdxRules(modules=frozenset({b"m" * 48, b"n" * 48}))
    check = refusal(lambda: _tdx(_quoted(tdx), rules=rules))
    assert check == Said("tdx module", f"{seam}, version 1.5", "Intel's, one of 2 named")
    check = refusal(lambda: _tdx(_quoted(tdx, seam_attributes=1)))
    assert check == Said("tdx module", f"{seam}, version 1.5", "Intel's, no attributes")


WEAK = CollateralFaults(
    tcb_status="SWHardeningNeeded", tcb_date="2026-05-01T00:00:00Z", advisories=(SIMULATED_ADVISORY, "INTEL-SA-00615")
)
AGE_S = 31 * 86400 + 12 * 3600  # of that level at NOW
LENIENT = TcbRules(
    statuses=frozenset({"SWHardeningNeeded"}),
    age_max_s=AGE_S,
    advisories=frozenset({SIMULATED_ADVISORY, "INTEL-SA-00615"}),
)


def _weak(tdx: SimulatedTdxPlatform, faults: CollateralFaults = WEAK) -> TdxEvidence:
    return _quoted(tdx, vendors().intel.collateral(tdx, NOW, faults))


def test_a_weak_level_is_accepted_to_the_last_second_and_with_all_its_weaknesses(tdx: SimulatedTdxPlatform) -> None:
    age, weaknesses = map(Said.by, _tdx(_weak(tdx), tcb=LENIENT).checks[-2:])
    limit = f"at most {AGE_S} s for a level that is not UpToDate"
    assert age == Said("tdx tcb age", f"level of 2026-05-01, {AGE_S} s old", limit)
    both = f"INTEL-SA-00615, {SIMULATED_ADVISORY}"
    assert sorted(weaknesses.seen.split(", ")) == both.split(", ")
    assert weaknesses._replace(seen="") == Said("tdx tcb advisories", "", "none but the policy's")
    check = refusal(lambda: _tdx(_weak(tdx), tcb=replace(LENIENT, age_max_s=AGE_S - 1)))
    assert check.required == f"at most {AGE_S - 1} s for a level that is not UpToDate"
    check = refusal(lambda: _tdx(_weak(tdx), tcb=replace(LENIENT, advisories=frozenset())))
    assert check.required == f"none but the policy's: not {both}"
    none = replace(WEAK, advisories=())
    assert _tdx(_weak(tdx, none), tcb=replace(LENIENT, advisories=frozenset())).checks[-1].seen == "none"


def test_only_the_age_of_levels_that_are_not_up_to_date_counts(tdx: SimulatedTdxPlatform) -> None:
    """The quoting enclave's level is years old and up to date; the platform's is a month old and weak."""
    fields = json.loads(vendors().intel.collateral(tdx, NOW, CollateralFaults()))
    text = make_tcb_info("tdx", FMSPC, WEAK, NOW - timedelta(hours=1))
    signature = raw_signature(vendors().intel.tcb_key, text.encode()).hex()
    mixed = encode_collateral({**fields, "tcb_info": text, "tcb_info_signature": signature})
    age = _tdx(_quoted(tdx, mixed), tcb=LENIENT).checks[-2]
    assert age.seen == f"level of 2026-05-01, {AGE_S} s old"


def test_a_chain_that_the_library_refuses_is_looked_at_to_the_second(tdx: SimulatedTdxPlatform) -> None:
    collateral, chain = parse_collateral(tdx.collateral), parse_quote(_quoted(tdx).quote).chain
    certificates = [Certificate.parse(der) for one in (chain, *collateral.chains) for der in one]
    begin, end = max(one.not_before for one in certificates), min(one.not_after for one in certificates)
    lists = [RevocationList.parse(der) for der in (collateral.pck_crl, collateral.root_crl)]
    renewed = min(one.renewed for one in lists)
    unknown = (EvidenceSignatureError, "Failed to verify certificate chain")
    assert explain(REFUSED_CHAIN, chain, collateral, begin) == unknown
    assert explain(REFUSED_CHAIN, chain, collateral, renewed) == unknown
    out = f"a revocation list ran out at {renewed.isoformat()}; fetch new collateral"
    assert explain(REFUSED_CHAIN, chain, collateral, renewed + SECOND) == (EndorsementExpiredError, out)
    assert explain(REFUSED_CHAIN, chain, collateral, end) == (EndorsementExpiredError, out), (
        "the certificates still hold"
    )
    for now in (begin - SECOND, end + SECOND):
        kind, says = explain(REFUSED_CHAIN, chain, collateral, now)
        assert kind is EndorsementExpiredError
        assert says.startswith("a certificate is not valid now (until ")
        first = next(one for one in certificates if not one.not_before <= now <= one.not_after)
        assert says == f"a certificate is not valid now (until {first.not_after.isoformat()})"


def test_a_revoked_certificate_is_named_by_its_serial_number(tdx: SimulatedTdxPlatform) -> None:
    collateral = vendors().intel.collateral(tdx, NOW, CollateralFaults(revoke_platform=True))
    chain = parse_quote(_quoted(tdx).quote).chain
    says = f"the certificate with serial {Certificate.parse(chain[0]).serial:x} is revoked"
    assert explain(REFUSED_CHAIN, chain, parse_collateral(collateral), NOW) == (RevokedError, says)
    spoilt = replace(parse_collateral(tdx.collateral), pck_crl=b"no list")
    assert explain("Something new", chain, spoilt, NOW) == (EvidenceSignatureError, "Something new")


@pytest.mark.parametrize(
    ("sentence", "error"),
    [
        ("Debug mode is enabled", "GuestPolicyError"),
        ("SEPT_VE_DISABLE is not enabled", "GuestPolicyError"),
        ("TD migration is not allowed", "GuestPolicyError"),
        ("TCB status is Revoked", "RevokedError"),
        ("TCB status OutOfDate is not acceptable", "TcbStatusError"),
        ("TCB level not found", "TcbStatusError"),
        ("No TDX module identity", "TcbStatusError"),
        ("TDX module is unknown", "TcbStatusError"),
        ("TCB eval data number 3 is below 4", "TcbStatusError"),
        ("ISVSVN too low", "TcbStatusError"),
        ("Fmspc mismatch", "TcbStatusError"),
        ("TCBInfo expired", "EndorsementExpiredError"),
        ("TCBInfo issue date is in the future", "EndorsementExpiredError"),
        ("CertNotValidYet", "EndorsementExpiredError"),
        ("Failed to decode quote", "MalformedEvidenceError"),
        ("Failed to decode TcbInfo", "MalformedEvidenceError"),
        ("Signature is invalid for qe_report in quote", "EvidenceSignatureError"),
    ],
)
def test_a_sentence_of_the_library_has_its_name(tdx: SimulatedTdxPlatform, sentence: str, error: str) -> None:
    chain = parse_quote(_quoted(tdx).quote).chain
    kind, says = explain(f"Verification failed: {sentence} ", chain, parse_collateral(tdx.collateral), NOW)
    assert (kind.__name__, says) == (error, sentence)


def test_times_are_kept_in_utc(tdx: SimulatedTdxPlatform) -> None:
    assert _tdx(_quoted(tdx)).platform.not_after.tzinfo is UTC
    assert _tdx(_quoted(tdx)).platform.not_after == datetime.fromisoformat(
        json.loads(json.loads(tdx.collateral)["tcb_info"])["nextUpdate"]
    )


def test_every_field_of_a_guests_report_is_read_where_intel_puts_it(tdx: SimulatedTdxPlatform) -> None:
    raw = bytes((at * 7 + 3) % 251 + 1 for at in range(648))
    for version, size in ((4, 584), (5, 648)):
        data = raw[:size]
        signed = quote_header(version, 0x81) + (struct.pack("<HI", 3, 648) if version == 5 else b"") + data
        quote = parse_quote(sign_quote(signed, tee="tdx", pck_key=tdx.pck_key, chain=tdx.chain, foreign_key=False))
        body = quote.body
        number = [int.from_bytes(data[at : at + 8], "little") for at in (112, 120, 128)]
        assert (quote.version, quote.chain) == (version, tdx.chain)
        assert (body.tee_tcb_svn, body.mr_seam, body.mr_signer_seam) == (data[:16], data[16:64], data[64:112])
        assert [body.seam_attributes, body.td_attributes, body.xfam] == number
        assert (body.mr_td, body.mr_config_id, body.mr_owner) == (data[136:184], data[184:232], data[232:280])
        assert body.mr_owner_config == data[280:328]
        assert body.rtmrs == (data[328:376], data[376:424], data[424:472], data[472:520])
        assert (body.report_data, body.mr_service_td) == (data[520:584], data[600:648] or bytes(48))


@pytest.mark.parametrize("at", [64, 111])
def test_a_module_by_another_signer_than_intel_is_refused(tdx: SimulatedTdxPlatform, at: int) -> None:
    signed = bytearray(_quoted(tdx).quote[: 48 + 584])
    signed[48 + at] = 1
    quote = sign_quote(bytes(signed), tee="tdx", pck_key=tdx.pck_key, chain=tdx.chain, foreign_key=False)
    said = refusal(lambda: _tdx(TdxEvidence(quote=quote, collateral=tdx.collateral)))
    assert (said.name, said.required) == ("tdx module", "Intel's, no attributes")


def test_an_intel_root_nobody_pinned_is_named(tdx: SimulatedTdxPlatform) -> None:
    said = refusal(lambda: _tdx(_quoted(tdx), roots=frozenset({b"x" * 32})))
    pin = vendors().intel.root.hex()
    assert said == ("tdx root", f"root key {pin} is none of the 1 trusted ones", "a pinned root")
