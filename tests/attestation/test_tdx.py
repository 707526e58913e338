"""TDX: genuine quotes hold at their time; every way of cheating has its refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import errors as refusals
from attestation.collateral import encode_collateral, parse_collateral
from attestation.errors import AttestationError, MalformedEvidenceError, PolicyError
from attestation.evidence import TdxEvidence
from attestation.intel import TcbRules
from attestation.intel_claims import read_claims
from attestation.roots import INTEL_SGX_ROOT, PRODUCTION
from attestation.sim.collateral import SIMULATED_ADVISORY, CollateralFaults
from attestation.sim.intel import SimulatedIntel
from attestation.sim.tdx import MR_TD_MARK, SimulatedTdxPlatform, TdxFaults, image_of
from attestation.tdx import TdxClaims, check_quote, measurement_id
from attestation.tdx_quote import cut_quote, parse_quote
from attestation.tdx_rules import ATTRIBUTE_SEPT_VE_DISABLE, TdxRules
from attestation.x509 import encode_pem, parse_pem
from tests.attestation.hosts import vendors
from tests.attestation.vendors import NOW, vector

IMAGE = image_of(b"i" * 32)
REPORT_DATA = bytes(range(64))
MODULE = bytes([5, 1, 2]) + bytes(13)
GENUINE = [
    pytest.param("phala_v4_quote.bin", "phala_v4_collateral.json", 1752919234, 1752919235, id="phala"),
    pytest.param("cocoon_v4_quote.bin", "mixed_90c06f_collateral_202602.json", 1771980350, 1772549366, id="cocoon"),
]


@pytest.fixture(scope="module")
def platform() -> SimulatedTdxPlatform:
    return vendors().intel.make_platform(NOW)


def _check(evidence: TdxEvidence, *, now: datetime = NOW, **policy: object) -> TdxClaims:
    return check_quote(evidence, roots=vendors().roots().intel, now=now, **policy)


def _genuine(quote: str, collateral: str) -> TdxEvidence:
    return TdxEvidence(
        quote=cut_quote(vector(f"tdx/{quote}").read_bytes()),
        collateral=encode_collateral(json.loads(vector(f"tdx/{collateral}").read_text())),
    )


@pytest.mark.parametrize(("quote", "collateral", "at", "until"), GENUINE)
def test_a_genuine_quote_holds_at_its_time(quote: str, collateral: str, at: int, until: int) -> None:
    evidence, now = _genuine(quote, collateral), datetime.fromtimestamp(at, UTC)
    claims = check_quote(evidence, roots=PRODUCTION.intel, now=now)
    platform = claims.platform
    assert (platform.tcb_status, platform.advisories, platform.root) == ("UpToDate", (), INTEL_SGX_ROOT)
    assert abs((platform.not_after - datetime.fromtimestamp(until, UTC)).total_seconds()) <= 1
    assert len(claims.measurement_id) == len(platform.platform_id) == 32


@pytest.mark.parametrize(("quote", "collateral", "at", "until"), GENUINE)
def test_a_genuine_quote_is_refused_after_its_collateral(quote: str, collateral: str, at: int, until: int) -> None:
    with pytest.raises(refusals.EndorsementExpiredError):
        check_quote(
            _genuine(quote, collateral),
            roots=PRODUCTION.intel,
            now=datetime.fromtimestamp(until, UTC) + timedelta(days=1),
        )


@pytest.mark.parametrize(("quote", "collateral", "at", "until"), GENUINE)
def test_a_genuine_quote_is_refused_under_a_simulated_root(quote: str, collateral: str, at: int, until: int) -> None:
    with pytest.raises(refusals.UntrustedRootError):
        _check(_genuine(quote, collateral), now=datetime.fromtimestamp(at, UTC))


@pytest.mark.parametrize("at", [8, 48, 100, 500, 631, 640, 700, 770, 1300])
@pytest.mark.parametrize(("quote", "collateral", "time", "until"), GENUINE)
def test_a_genuine_quote_with_a_flipped_bit_is_refused(
    quote: str, collateral: str, time: int, until: int, at: int
) -> None:
    evidence = _genuine(quote, collateral)
    altered = bytearray(evidence.quote)
    altered[at] ^= 4
    with pytest.raises(AttestationError):
        check_quote(
            replace(evidence, quote=bytes(altered)), roots=PRODUCTION.intel, now=datetime.fromtimestamp(time, UTC)
        )


def test_the_fields_of_a_genuine_quote_are_read_where_intel_puts_them() -> None:
    body = parse_quote(cut_quote(vector("tdx/phala_v4_quote.bin").read_bytes())).body
    assert body.mr_td.hex().startswith("91eb2b44d141d4ece09f0c75c2c53d24")
    assert body.rtmrs[0].hex().startswith("44c0197b39157fdd7a4dcc44767f9d6b")
    assert body.rtmrs[3] == bytes(48)
    assert body.report_data.hex().endswith("518fadb92c2b523f20")
    assert body.td_attributes == ATTRIBUTE_SEPT_VE_DISABLE


def test_padding_behind_a_quote_is_refused_until_it_is_cut() -> None:
    padded = vector("tdx/cocoon_v4_quote.bin").read_bytes()
    with pytest.raises(MalformedEvidenceError, match="cut padding off"):
        parse_quote(padded)
    assert len(cut_quote(padded)) == 4940
    with pytest.raises(MalformedEvidenceError):
        cut_quote(padded + b"\1")


@pytest.mark.parametrize(("version", "body_type"), [(4, 2), (5, 2), (5, 3)])
def test_a_simulated_quote_of_every_version_holds(platform: SimulatedTdxPlatform, version: int, body_type: int) -> None:
    quote = platform.quote(REPORT_DATA, image=IMAGE, version=version, body_type=body_type)
    claims = _check(platform.evidence(quote))
    assert claims.report_data == REPORT_DATA
    assert claims.measurement_id == measurement_id(parse_quote(quote).body)
    assert claims.body.mr_td.startswith(MR_TD_MARK)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        pytest.param({"td_attributes": 1 << 28 | 1}, refusals.GuestPolicyError, id="debug-guest"),
        pytest.param({"td_attributes": 0}, refusals.GuestPolicyError, id="memory-remapped-unseen"),
        pytest.param({"td_attributes": 3 << 28}, refusals.GuestPolicyError, id="migratable-guest"),
        pytest.param({"td_attributes": 1 << 28 | 1 << 40}, refusals.GuestPolicyError, id="unknown-attribute"),
        pytest.param({"xfam": 0x602E7 | 1 << 20}, refusals.GuestPolicyError, id="unknown-feature"),
        pytest.param({"xfam": 0x602E5}, refusals.GuestPolicyError, id="no-sse"),
        pytest.param({"seam_attributes": 1}, refusals.TcbStatusError, id="module-with-attributes"),
        pytest.param({"foreign_key": True}, refusals.EvidenceSignatureError, id="key-not-certified"),
        pytest.param({"tee_tcb_svn": bytes([1, 1, 2]) + bytes(13)}, refusals.TcbStatusError, id="old-module"),
        pytest.param({"tee_tcb_svn": bytes([5, 3, 2]) + bytes(13)}, refusals.TcbStatusError, id="unknown-module"),
    ],
)
def test_a_quote_is_refused(
    platform: SimulatedTdxPlatform, faults: dict[str, object], error: type[AttestationError]
) -> None:
    quote = platform.quote(REPORT_DATA, image=IMAGE, faults=TdxFaults(**faults))
    with pytest.raises(error) as caught:
        _check(platform.evidence(quote))
    assert caught.value.checks[-1].outcome == "failed"


def test_a_feature_or_a_module_the_policy_leaves_out_is_refused(platform: SimulatedTdxPlatform) -> None:
    evidence = platform.evidence(platform.quote(REPORT_DATA, image=IMAGE))
    module = parse_quote(evidence.quote).body.mr_seam
    assert _check(evidence, rules=TdxRules(xfam_allowed=0x602E7, modules=frozenset({module})))
    with pytest.raises(refusals.GuestPolicyError, match="xfam"):
        _check(evidence, rules=TdxRules(xfam_allowed=0x2E7))
    with pytest.raises(refusals.TcbStatusError, match="module"):
        _check(evidence, rules=TdxRules(modules=frozenset({b"m" * 48})))


def test_a_guest_with_a_service_domain_is_refused(platform: SimulatedTdxPlatform) -> None:
    faults = TdxFaults(service_td=b"s" * 48)
    quote = platform.quote(REPORT_DATA, image=IMAGE, version=5, body_type=3, faults=faults)
    with pytest.raises(refusals.GuestPolicyError):
        _check(platform.evidence(quote))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        pytest.param({"age": timedelta(days=31)}, refusals.EndorsementExpiredError, id="stale"),
        pytest.param({"age": timedelta(days=-2)}, refusals.EndorsementExpiredError, id="from-the-future"),
        pytest.param({"tcb_status": "OutOfDate"}, refusals.TcbStatusError, id="out-of-date"),
        pytest.param({"tcb_status": "ConfigurationNeeded"}, refusals.TcbStatusError, id="configuration-needed"),
        pytest.param({"tcb_status": "Revoked"}, refusals.RevokedError, id="level-revoked"),
        pytest.param({"tcb_status": "Splendid"}, AttestationError, id="status-nobody-knows"),
        pytest.param({"module_svn": 9}, refusals.TcbStatusError, id="module-below-level"),
        pytest.param({"qe_svn": 9}, refusals.TcbStatusError, id="quoting-enclave-below-level"),
        pytest.param({"pce_id": b"\0\1"}, refusals.TcbStatusError, id="other-provisioning-enclave"),
        pytest.param({"fmspc": b"123456"}, refusals.TcbStatusError, id="other-processor-family"),
        pytest.param({"revoke_platform": True}, refusals.RevokedError, id="platform-revoked"),
        pytest.param({"revoke_platform_ca": True}, refusals.RevokedError, id="platform-ca-revoked"),
        pytest.param({"revoke_tcb_signer": True}, refusals.RevokedError, id="tcb-signer-revoked"),
    ],
)
def test_collateral_is_refused(
    platform: SimulatedTdxPlatform, faults: dict[str, object], error: type[AttestationError]
) -> None:
    collateral = vendors().intel.collateral(platform, NOW, CollateralFaults(**faults))
    evidence = platform.with_collateral(collateral).evidence(platform.quote(REPORT_DATA, image=IMAGE))
    with pytest.raises(error):
        _check(evidence)


WEAK = CollateralFaults(tcb_status="SWHardeningNeeded", tcb_date="2026-05-01T00:00:00Z")
ONE_WEAKNESS = frozenset({SIMULATED_ADVISORY})
NAMED = TcbRules(
    statuses=frozenset({"UpToDate", "SWHardeningNeeded", "OutOfDate"}), age_max_s=60 * 86400, advisories=ONE_WEAKNESS
)


def _published(platform: SimulatedTdxPlatform, faults: CollateralFaults) -> TdxEvidence:
    collateral = vendors().intel.collateral(platform, NOW, faults)
    return platform.with_collateral(collateral).evidence(platform.quote(REPORT_DATA, image=IMAGE))


@pytest.mark.parametrize("faults", [CollateralFaults(), CollateralFaults(advisories=('","pck":{', '"tcb":{')), WEAK])
def test_claims_read_in_part_are_those_of_the_whole(platform: SimulatedTdxPlatform, faults: CollateralFaults) -> None:
    evidence = _published(platform, faults)
    root, now = parse_quote(evidence.quote).chain[-1], int(NOW.timestamp())
    bundle = dcap_qvl.QuoteCollateralV3.from_json(evidence.collateral)
    verifier = dcap_qvl.QuoteVerifier(root)
    text = verifier.verify_with_policy(evidence.quote, bundle, now, NAMED.for_library(NOW)).to_json()
    whole, part = json.loads(text), read_claims(text)
    assert (part.status, list(part.advisories)) == (whole["tcb"]["status"], whole["tcb"]["advisory_ids"])
    assert list(part.ppid) == whole["platform"]["pck"]["ppid"]
    assert list(part.pce_id) == whole["platform"]["pck"]["pce_id"]
    assert part.expires.timestamp() == whole["earliest_expiration_date"]
    assert dict(part.levels())["UpToDate"] == datetime.fromisoformat(faults.tcb_date)


def test_claims_of_another_library_are_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(ValueError, match="not found"):
        read_claims('{"claims_version":2}')


def test_a_status_with_age_and_weaknesses_the_policy_names_is_accepted(platform: SimulatedTdxPlatform) -> None:
    claims = _check(_published(platform, WEAK), tcb=NAMED)
    assert (claims.platform.tcb_status, claims.platform.advisories) == ("SWHardeningNeeded", (SIMULATED_ADVISORY,))
    assert [check.name for check in claims.checks][-2:] == ["tdx tcb age", "tdx tcb advisories"]


@pytest.mark.parametrize(
    ("faults", "rules"),
    [
        pytest.param(WEAK, replace(NAMED, statuses=frozenset({"UpToDate", "OutOfDate"})), id="status-not-named"),
        pytest.param(WEAK, replace(NAMED, age_max_s=0), id="no-age-named"),
        pytest.param(WEAK, replace(NAMED, age_max_s=30 * 86400), id="level-too-old"),
        pytest.param(WEAK, replace(NAMED, advisories=frozenset()), id="no-weakness-named"),
        pytest.param(WEAK, replace(NAMED, advisories=frozenset({"INTEL-SA-00001"})), id="other-weakness-named"),
        pytest.param(
            replace(WEAK, advisories=(SIMULATED_ADVISORY, "INTEL-SA-00615")), NAMED, id="one-weakness-more-than-named"
        ),
        pytest.param(replace(WEAK, tcb_status="OutOfDate"), replace(NAMED, advisories=frozenset()), id="out-of-date"),
        pytest.param(
            replace(WEAK, tcb_status="OutOfDate"), replace(NAMED, age_max_s=30 * 86400), id="out-of-date-and-too-old"
        ),
        pytest.param(
            CollateralFaults(module_status="OutOfDate", tcb_date="2026-03-01T00:00:00Z"), NAMED, id="module-too-old"
        ),
    ],
)
def test_a_status_that_is_not_wholly_named_is_refused(
    platform: SimulatedTdxPlatform, faults: CollateralFaults, rules: TcbRules
) -> None:
    with pytest.raises(refusals.TcbStatusError):
        _check(_published(platform, faults), tcb=rules)


@pytest.mark.parametrize(
    "fields",
    [
        {"statuses": frozenset({"UpToDate", "Revoked"})},
        {"statuses": frozenset({"Fine"})},
        {"statuses": frozenset()},
        {"age_max_s": -1},
        {"evaluation_min": -1},
    ],
)
def test_rules_that_name_no_good_firmware_are_a_mistake(fields: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        TcbRules(**fields)


def test_a_weakness_known_against_an_up_to_date_level_does_not_refuse(platform: SimulatedTdxPlatform) -> None:
    claims = _check(_published(platform, CollateralFaults(advisories=("INTEL-SA-00615",))))
    assert (claims.platform.tcb_status, claims.platform.advisories) == ("UpToDate", ("INTEL-SA-00615",))


def test_rolled_back_collateral_is_refused_below_the_floor(platform: SimulatedTdxPlatform) -> None:
    evidence = platform.evidence(platform.quote(REPORT_DATA, image=IMAGE))
    assert _check(evidence, tcb=TcbRules(evaluation_min=17))
    with pytest.raises(refusals.TcbStatusError):
        _check(evidence, tcb=TcbRules(evaluation_min=18))


def test_collateral_for_enclaves_is_refused_for_a_guest(platform: SimulatedTdxPlatform) -> None:
    collateral = vendors().intel.collateral(platform, NOW, tee="sgx")
    with pytest.raises(refusals.EndorsementMismatchError):
        _check(TdxEvidence(quote=platform.quote(REPORT_DATA, image=IMAGE), collateral=collateral))


def _collateral_with(platform: SimulatedTdxPlatform, **changes: str) -> str:
    return json.dumps({**json.loads(platform.collateral), **changes}, sort_keys=True, separators=(",", ":"))


def _foreign(platform: SimulatedTdxPlatform) -> dict[str, str]:
    vendor = SimulatedIntel.create(NOW)
    fields: dict[str, str] = json.loads(vendor.collateral(platform, NOW))
    return fields


@pytest.mark.parametrize(
    "name",
    ["pck_crl", "root_ca_crl", "tcb_info_signature", "qe_identity_signature"],  # the texts say the same
)
def test_collateral_of_another_vendor_is_refused_in_every_field(platform: SimulatedTdxPlatform, name: str) -> None:
    mixed = _collateral_with(platform, **{name: _foreign(platform)[name]})
    with pytest.raises(AttestationError):
        _check(TdxEvidence(quote=platform.quote(REPORT_DATA, image=IMAGE), collateral=mixed))


@pytest.mark.parametrize("name", ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_an_issuer_chain_of_another_vendor_is_refused(platform: SimulatedTdxPlatform, name: str) -> None:
    mixed = _collateral_with(platform, **{name: _foreign(platform)[name]})
    with pytest.raises(refusals.UntrustedRootError):
        _check(TdxEvidence(quote=platform.quote(REPORT_DATA, image=IMAGE), collateral=mixed))


def test_an_edited_tcb_info_is_refused(platform: SimulatedTdxPlatform) -> None:
    text = json.loads(platform.collateral)["tcb_info"].replace('"pcesvn":11', '"pcesvn":10')
    edited = TdxEvidence(
        quote=platform.quote(REPORT_DATA, image=IMAGE), collateral=_collateral_with(platform, tcb_info=text)
    )
    with pytest.raises(refusals.EvidenceSignatureError):
        _check(edited)


def test_swapped_revocation_lists_are_refused(platform: SimulatedTdxPlatform) -> None:
    fields = json.loads(platform.collateral)
    swapped = _collateral_with(platform, pck_crl=fields["root_ca_crl"], root_ca_crl=fields["pck_crl"])
    with pytest.raises(AttestationError):
        _check(TdxEvidence(quote=platform.quote(REPORT_DATA, image=IMAGE), collateral=swapped))


@pytest.mark.parametrize(
    "respell",
    [
        pytest.param(lambda text: text + " ", id="trailing-space"),
        pytest.param(lambda text: text.replace('","', '", "', 1), id="inner-space"),
        pytest.param(lambda text: json.dumps(dict(reversed(json.loads(text).items()))), id="other-order"),
        pytest.param(lambda text: text[:-1] + ',"tcb_info":"x"}', id="doubled-key"),
        pytest.param(lambda text: text[:-1] + ',"extra":"x"}', id="unknown-key"),
        pytest.param(lambda text: text.replace('"pck_crl":"30', '"pck_crl":"\\u00330', 1), id="escaped-digit"),
        pytest.param(lambda text: text.replace("\\n-----END", "\\r\\n-----END", 1), id="other-line-ends"),
        pytest.param(lambda text: text.replace("-----BEGIN", "words\\n-----BEGIN", 1), id="words-before-a-chain"),
        pytest.param(lambda text: "[" * 50_000, id="deeply-nested"),
        pytest.param(lambda text: "null", id="null"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: text * 20, id="too-large"),
    ],
)
def test_collateral_in_another_spelling_is_refused(platform: SimulatedTdxPlatform, respell: object) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_collateral(respell(platform.collateral))


def test_upper_case_hex_is_refused(platform: SimulatedTdxPlatform) -> None:
    crl = json.loads(platform.collateral)["pck_crl"]
    with pytest.raises(MalformedEvidenceError, match="lower-case"):
        parse_collateral(_collateral_with(platform, pck_crl=crl.upper()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_quote_parser_raises_only_its_error(platform: SimulatedTdxPlatform, data: st.DataObject) -> None:
    quote = platform.quote(REPORT_DATA, image=IMAGE)
    start = data.draw(st.integers(0, len(quote)))
    end = data.draw(st.integers(start, len(quote)))
    spliced = quote[:start] + data.draw(st.binary(max_size=80)) + quote[end:]
    try:
        parse_quote(spliced)
    except MalformedEvidenceError:
        return


@pytest.mark.parametrize("size", [0, 1, 47, 48, 200, 632, 700, 1100, 2000])
def test_a_truncated_quote_is_malformed(platform: SimulatedTdxPlatform, size: int) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_quote(platform.quote(REPORT_DATA, image=IMAGE)[:size])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, 3, id="sgx-version"),
        pytest.param(0, 6, id="unknown-version"),
        pytest.param(2, 3, id="p-384-key"),
        pytest.param(4, 0, id="sgx-enclave"),
    ],
)
def test_a_quote_of_another_kind_is_malformed(platform: SimulatedTdxPlatform, at: int, value: int) -> None:
    quote = bytearray(platform.quote(REPORT_DATA, image=IMAGE))
    quote[at] = value
    with pytest.raises(MalformedEvidenceError):
        parse_quote(bytes(quote))


def test_every_loaded_thing_changes_the_measurement_id(platform: SimulatedTdxPlatform) -> None:
    body = parse_quote(platform.quote(REPORT_DATA, image=IMAGE)).body
    ids = {measurement_id(body)}
    for name in ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config"):
        ids.add(measurement_id(body._replace(**{name: b"x" * 48})))
    for index in range(3):
        rtmrs = tuple(b"x" * 48 if place == index else value for place, value in enumerate(body.rtmrs))
        ids.add(measurement_id(body._replace(rtmrs=rtmrs)))
    assert len(ids) == 8
    assert measurement_id(body._replace(report_data=b"x" * 64)) in ids
    assert measurement_id(body._replace(rtmrs=(*body.rtmrs[:3], b"x" * 48))) in ids, "the runtime log explains RTMR3"


def test_the_measurement_id_is_this_value_for_good(platform: SimulatedTdxPlatform) -> None:
    body = parse_quote(platform.quote(REPORT_DATA, image=IMAGE)).body
    named = body.mr_td + b"".join(body.rtmrs[:3]) + body.mr_config_id + body.mr_owner + body.mr_owner_config
    assert measurement_id(body) == sha256(b"chrysalis/1 measurementtdx" + named).digest()


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_a_chain_has_one_spelling(chain: list[bytes]) -> None:
    text = encode_pem(chain)
    assert parse_pem(text, count=len(chain)) == tuple(chain)
    with pytest.raises(MalformedEvidenceError):
        parse_pem(text, count=len(chain) + 1)
    for other in (text + "\n", "\n" + text, text.replace("\n", "\r\n"), text.rstrip("\n")):
        with pytest.raises(MalformedEvidenceError):
            parse_pem(other, count=len(chain))
