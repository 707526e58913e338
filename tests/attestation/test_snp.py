"""SEV-SNP: genuine reports and chains hold; every way of cheating has its refusal."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.certificate import Certificate
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GuestPolicyError,
    MalformedEvidenceError,
    PlatformSettingsError,
    RevokedError,
    TcbStatusError,
    UntrustedRootError,
)
from attestation.evidence import SnpEvidence
from attestation.roots import AMD_ARK_GENOA, AMD_ARK_MILAN, AMD_ARK_TURIN
from attestation.sim.snp import SIMULATED_TCB, SimulatedSnpPlatform, SnpFaults
from attestation.snp import SnpClaims, check_report, check_signed, measurement_id, parse_report
from attestation.snp_certificate import SnpEndorsement
from attestation.snp_chain import check_chain
from attestation.snp_policy import SnpPlatformRules, SnpRules, SnpSigningKey, SnpTcb, SnpTcbFloor, Want
from attestation.snp_tcb import SnpProduct, covers, encode_tcb, parse_tcb
from attestation.verdict import CheckLog
from tests.attestation.vendors import NOW, amd, flipped, vector

FLOOR = SnpTcbFloor(milan=SIMULATED_TCB, genoa=SIMULATED_TCB, turin=SIMULATED_TCB)
GENUINE = {SnpProduct.MILAN: AMD_ARK_MILAN, SnpProduct.GENOA: AMD_ARK_GENOA, SnpProduct.TURIN: AMD_ARK_TURIN}
GENUINE_ROOTS = frozenset(GENUINE.values())
BOTH_KEYS = SnpRules(signing_keys=frozenset(SnpSigningKey))
ANY_MACHINE = SnpRules(platform=SnpPlatformRules(alias_check_complete=Want.ANY))
OLDER = replace(SIMULATED_TCB, microcode=SIMULATED_TCB.microcode - 1)
REPORT_DATA, MEASUREMENT, HOST_DATA = b"d" * 64, b"m" * 48, b"h" * 32


@pytest.fixture(scope="module")
def platform() -> SimulatedSnpPlatform:
    return amd().make_platform()


@pytest.fixture(scope="module")
def evidence(platform: SimulatedSnpPlatform) -> SnpEvidence:
    return platform.evidence(_report(platform))


def _report(platform: SimulatedSnpPlatform, **faults: object) -> bytes:
    return platform.report(REPORT_DATA, measurement=MEASUREMENT, host_data=HOST_DATA, faults=SnpFaults(**faults))


def _check(
    evidence: SnpEvidence,
    *,
    floor: SnpTcbFloor = FLOOR,
    later: timedelta = timedelta(),
    rules: SnpRules = SnpRules(),  # noqa: B008  (frozen)
) -> SnpClaims:
    return check_report(evidence, roots=frozenset({amd().root}), floor=floor, rules=rules, now=NOW + later)


def _genuine_chain(product: str) -> tuple[bytes, bytes, bytes]:
    leaf = vector(f"sev-snp/virtee_{product}_vcek.der").read_bytes()
    ask, ark = x509.load_pem_x509_certificates(vector(f"sev-snp/{product}_ask_ark.pem").read_bytes())
    return leaf, ask.public_bytes(Encoding.DER), ark.public_bytes(Encoding.DER)


def _genuine_endorsement(product: str) -> SnpEndorsement:
    leaf, ask, ark = _genuine_chain(product)
    evidence = SnpEvidence(report=b"", vcek=leaf, ask=ask, ark=ark, crl=b"")
    return check_chain(evidence, roots=GENUINE_ROOTS, now=NOW, log=CheckLog())


def test_a_genuine_milan_report_holds_down_to_amds_root() -> None:
    endorsement = _genuine_endorsement("milan")
    report = parse_report(bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text()))
    tcb = SnpTcb(bootloader=3, tee=0, snp=8, microcode=0x73)
    check_signed(report, endorsement, floor=SnpTcbFloor(milan=tcb), rules=ANY_MACHINE, log=CheckLog())
    assert endorsement.product is SnpProduct.MILAN
    assert endorsement.tcb == tcb
    assert endorsement.root == AMD_ARK_MILAN
    assert (report.version, report.policy.raw, report.policy.smt, report.vmpl) == (2, 0x30000, True, 0)


def test_a_genuine_report_with_one_flipped_bit_is_refused() -> None:
    endorsement = _genuine_endorsement("milan")
    genuine = bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text())
    altered = bytearray(genuine)
    altered[21] ^= 0x80
    with pytest.raises(EvidenceSignatureError):
        check_signed(parse_report(bytes(altered)), endorsement, floor=FLOOR, log=CheckLog())


def test_a_genuine_report_below_the_floor_is_refused() -> None:
    endorsement = _genuine_endorsement("milan")
    report = parse_report(bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text()))
    floor = SnpTcbFloor(milan=SnpTcb(bootloader=3, tee=0, snp=9, microcode=0))
    with pytest.raises(TcbStatusError):
        check_signed(report, endorsement, floor=floor, rules=ANY_MACHINE, log=CheckLog())


def test_a_genuine_report_that_cannot_tell_of_memory_aliases_is_refused_by_default() -> None:
    endorsement = _genuine_endorsement("milan")
    report = parse_report(bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text()))
    with pytest.raises(PlatformSettingsError, match="version 2 reports cannot tell alias_check_complete"):
        check_signed(report, endorsement, floor=FLOOR, log=CheckLog())


def test_a_genuine_turin_certificate_is_read_in_its_own_layout() -> None:
    endorsement = _genuine_endorsement("turin")
    assert endorsement.product is SnpProduct.TURIN
    assert endorsement.tcb == SnpTcb(fmc=0, bootloader=0, tee=0, snp=0, microcode=9)
    assert endorsement.chip_id == bytes.fromhex("1e550a8ee5cf9f4d").ljust(64, b"\0")


@pytest.mark.parametrize("name", ["milan", "genoa", "turin", "genoa_vlek", "turin_vlek"])
def test_the_pinned_keys_are_those_of_amds_roots(name: str) -> None:
    ask, ark = x509.load_pem_x509_certificates(vector(f"sev-snp/{name}_ask_ark.pem").read_bytes())
    root = Certificate.parse(ark.public_bytes(Encoding.DER))
    signing = Certificate.parse(ask.public_bytes(Encoding.DER))
    product = SnpProduct(name.partition("_")[0].capitalize())
    assert sha256(root.public_key_info).digest() == GENUINE[product]
    assert signing.issuer == root.subject and signing.is_authority()


def test_a_simulated_report_is_refused_under_amds_genuine_roots(evidence: SnpEvidence) -> None:
    with pytest.raises(UntrustedRootError):
        check_report(evidence, roots=GENUINE_ROOTS, floor=FLOOR, now=NOW)


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("product", SnpProduct)
def test_an_honest_platform_is_accepted(product: SnpProduct, vlek: bool) -> None:
    honest = amd().make_platform(product=product, vlek=vlek)
    claims = _check(honest.evidence(_report(honest)), rules=BOTH_KEYS)
    assert claims.signing_key is (SnpSigningKey.VLEK if vlek else SnpSigningKey.VCEK)
    assert claims.provider == ("Simulated provider" if vlek else "")
    assert (claims.report_data, claims.measurement, claims.host_data) == (REPORT_DATA, MEASUREMENT, HOST_DATA)
    assert (claims.product, claims.chip_id, claims.tcb) == (product, honest.chip_id, SIMULATED_TCB)
    assert claims.root == amd().root
    assert claims.not_after == amd().issued + timedelta(days=365), "the revocation list runs out first"
    assert all(check.outcome == "held" for check in claims.checks)


def test_a_report_is_never_called_up_to_date(evidence: SnpEvidence) -> None:
    assert _check(evidence).tcb_status == "AtOrAboveFloor"


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_report_versions_2_to_5_are_read(platform: SimulatedSnpPlatform, version: int) -> None:
    report = parse_report(_report(platform, version=version, mitigations=(3, 7)))
    _check(platform.evidence(_report(platform, version=version)), rules=ANY_MACHINE)
    assert report.version == version
    assert report.cpu == (None if version < 3 else (0x19, 0x01, 0))
    assert (report.launch_mitigations, report.current_mitigations) == ((3, 7) if version == 5 else (None, None))
    assert report.current_firmware == report.committed_firmware == (1, 55, 41)


@pytest.mark.parametrize(
    ("faults", "refusal"),
    [
        pytest.param({"debug": True}, GuestPolicyError, id="guest-memory-opened-for-debugging"),
        pytest.param({"migration_agent": True}, GuestPolicyError, id="guest-can-be-migrated-out"),
        pytest.param({"vmpl": 1}, GuestPolicyError, id="report-asked-from-a-lower-privilege-level"),
        pytest.param({"version": 1}, MalformedEvidenceError, id="report-of-a-version-from-before-snp-was-final"),
        pytest.param({"version": 6}, MalformedEvidenceError, id="report-of-a-version-nobody-has-read-yet"),
        pytest.param({"signature_algorithm": 2}, EvidenceSignatureError, id="other-signature-algorithm-named"),
        pytest.param({"signing_key": 1}, EndorsementMismatchError, id="vlek-claimed-under-a-vcek"),
        pytest.param({"signing_key": 7}, EndorsementMismatchError, id="report-says-it-is-unsigned"),
        pytest.param({"signing_key": 3}, EndorsementMismatchError, id="unknown-kind-of-signing-key"),
        pytest.param({"mask_chip_id": True}, EndorsementMismatchError, id="chip-id-masked-by-the-host"),
        pytest.param({"chip_id": b"x" * 64}, EndorsementMismatchError, id="report-of-another-chip"),
        pytest.param({"cpu_family": 0x1A}, EndorsementMismatchError, id="report-of-another-product"),
        pytest.param({"cpu_model": 0x11}, EndorsementMismatchError, id="report-of-another-product-of-the-family"),
        pytest.param({"mask_chip_key": True}, EndorsementMismatchError, id="report-that-says-nobody-signs"),
        pytest.param({"reported": OLDER}, EndorsementMismatchError, id="certificate-for-another-tcb-than-reported"),
        pytest.param({"current": OLDER}, TcbStatusError, id="running-firmware-rolled-back"),
        pytest.param({"committed": OLDER}, TcbStatusError, id="rollback-still-possible"),
        pytest.param({"launch": OLDER}, TcbStatusError, id="launched-on-old-firmware"),
        pytest.param({"foreign_key": True}, EvidenceSignatureError, id="signed-by-a-key-of-the-attackers-own"),
    ],
)
def test_refused(platform: SimulatedSnpPlatform, faults: dict[str, object], refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        _check(platform.evidence(_report(platform, **faults)))


def test_refused_platform_with_firmware_below_the_floor() -> None:
    old = amd().make_platform(tcb=OLDER)
    with pytest.raises(TcbStatusError):
        _check(old.evidence(_report(old)))


def test_refused_product_without_a_floor(evidence: SnpEvidence) -> None:
    with pytest.raises(TcbStatusError):
        _check(evidence, floor=SnpTcbFloor(genoa=SIMULATED_TCB))


def test_refused_everything_by_an_empty_floor(evidence: SnpEvidence) -> None:
    with pytest.raises(TcbStatusError):
        _check(evidence, floor=SnpTcbFloor())


def test_refused_masked_chip_under_a_vlek() -> None:
    lent = amd().make_platform(vlek=True)
    with pytest.raises(EndorsementMismatchError):
        _check(lent.evidence(_report(lent, mask_chip_id=True)), rules=BOTH_KEYS)


def test_refused_certificate_of_another_platform(platform: SimulatedSnpPlatform, evidence: SnpEvidence) -> None:
    other = amd().make_platform()
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, vcek=other.vcek))


def test_refused_chip_certificate_used_as_signing_key(evidence: SnpEvidence) -> None:
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, ask=evidence.vcek))


def test_refused_root_in_place_of_the_signing_key(evidence: SnpEvidence) -> None:
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, ask=evidence.ark))


def test_refused_signing_key_as_chip_certificate(evidence: SnpEvidence) -> None:
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, vcek=evidence.ask))


@pytest.mark.parametrize(("revoked", "what"), [(0x10001, "ASK"), (77, "VCEK")])
def test_refused_revoked_certificate(revoked: int, what: str) -> None:
    platform = amd().make_platform(serial=77, crl=amd().make_crl(revoked=[5, revoked]))
    with pytest.raises(RevokedError, match=what):
        _check(platform.evidence(_report(platform)))


def test_a_list_that_revokes_others_is_no_refusal() -> None:
    platform = amd().make_platform(serial=77, crl=amd().make_crl(revoked=[5, 78]))
    _check(platform.evidence(_report(platform)))


def test_refused_without_revocation_list(evidence: SnpEvidence) -> None:
    with pytest.raises(MalformedEvidenceError):
        _check(replace(evidence, crl=b""))


@pytest.mark.parametrize(
    ("issued", "days"),
    [
        pytest.param(NOW - timedelta(days=40), 30, id="stale-list-that-hides-a-revocation"),
        pytest.param(NOW + timedelta(hours=1), 30, id="list-from-the-future"),
    ],
)
def test_refused_revocation_list_outside_its_time(evidence: SnpEvidence, issued: object, days: int) -> None:
    with pytest.raises(EndorsementExpiredError):
        _check(replace(evidence, crl=amd().make_crl(issued=issued, valid_days=days)))


def test_refused_revocation_list_signed_by_somebody_else(evidence: SnpEvidence) -> None:
    stranger = replace(amd(), ark_key=amd().ask_key)
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, crl=stranger.make_crl()))


def test_refused_expired_chip_certificate() -> None:
    old = amd().make_platform(valid_days=0)
    with pytest.raises(EndorsementExpiredError):
        _check(old.evidence(_report(old)))


def test_refused_before_the_chain_begins(evidence: SnpEvidence) -> None:
    with pytest.raises(EndorsementExpiredError):
        _check(evidence, later=-timedelta(days=2))


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_refused_report_of_another_size(evidence: SnpEvidence, size: int) -> None:
    with pytest.raises(MalformedEvidenceError):
        _check(replace(evidence, report=evidence.report.ljust(size, b"\0")[:size]))


def test_refused_bytes_hidden_behind_the_signature(evidence: SnpEvidence) -> None:
    with pytest.raises(MalformedEvidenceError):
        _check(replace(evidence, report=evidence.report[:-1] + b"\1"))


def test_a_refusal_carries_the_checks_that_ran(platform: SimulatedSnpPlatform) -> None:
    with pytest.raises(GuestPolicyError) as caught:
        _check(platform.evidence(_report(platform, debug=True)))
    assert caught.value.checks[-1].outcome == "failed"
    assert caught.value.checks[-1].name == "SNP guest policy"
    assert all(check.outcome == "held" for check in caught.value.checks[:-1])
    assert pickle.loads(pickle.dumps(caught.value)).checks == caught.value.checks


def _measured(platform: SimulatedSnpPlatform, **inputs: bytes) -> bytes:
    defaults = {"measurement": MEASUREMENT, "host_data": HOST_DATA}
    return measurement_id(parse_report(platform.report(REPORT_DATA, **{**defaults, **inputs})))


def test_the_measurement_id_names_image_host_data_keys_and_guest_policy(platform: SimulatedSnpPlatform) -> None:
    usual = _measured(platform)
    report = parse_report(_report(platform))
    others = {
        _measured(platform, measurement=b"x" * 48),
        _measured(platform, host_data=b"x" * 32),
        measurement_id(parse_report(_report(platform, debug=True))),
        measurement_id(replace(report, id_key_digest=b"x" * 48)),
        measurement_id(replace(report, author_key_digest=b"x" * 48)),
    }
    assert len(others) == 5
    assert usual not in others
    assert usual == measurement_id(report), "report_data, report id and signature are not part of it"


def test_the_measurement_id_is_this_value_for_good(platform: SimulatedSnpPlatform) -> None:
    report = replace(parse_report(_report(platform)), measurement=b"\1" * 48, host_data=b"\2" * 32)
    preimage = b"chrysalis/1 measurement" + b"sev-snp" + b"\1" * 48 + b"\2" * 32 + bytes(96) + b"\0\0\3" + bytes(5)
    assert measurement_id(report) == sha256(preimage).digest()


@given(
    product=st.sampled_from(SnpProduct),
    parts=st.tuples(*[st.integers(0, 255)] * 4),
    fmc=st.integers(0, 255),
)
def test_a_tcb_version_survives_its_encoding(product: SnpProduct, parts: tuple[int, ...], fmc: int) -> None:
    bootloader, tee, snp, microcode = parts
    fmc = fmc if product is SnpProduct.TURIN else 0
    tcb = SnpTcb(bootloader=bootloader, tee=tee, snp=snp, microcode=microcode, fmc=fmc)
    assert parse_tcb(encode_tcb(tcb, product), product) == tcb


def test_milan_and_turin_lay_a_tcb_version_out_differently() -> None:
    milan, turin = bytes([1, 2, 0, 0, 0, 0, 7, 8]), bytes([1, 2, 3, 4, 0, 0, 0, 8])
    assert parse_tcb(milan, SnpProduct.MILAN) == SnpTcb(bootloader=1, tee=2, snp=7, microcode=8)
    assert parse_tcb(turin, SnpProduct.TURIN) == SnpTcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=8)
    for raw, other in ((milan, SnpProduct.TURIN), (turin, SnpProduct.GENOA)):
        with pytest.raises(MalformedEvidenceError, match="reserved"):
            parse_tcb(raw, other)


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_one_part_below_the_floor_is_below_the_floor(part: str) -> None:
    floor = SnpTcb(bootloader=5, tee=5, snp=5, microcode=5, fmc=5)
    assert covers(replace(floor, **{part: 6}), floor)
    assert not covers(replace(floor, **{part: 4}), floor)


@given(bit=st.integers(0, 1184 * 8 - 1))
@example(bit=0x48 * 8)  # key flags
@example(bit=0x2A0 * 8 + 50 * 8)  # between the number r and the end of its field
@example(bit=1184 * 8 - 1)
@settings(max_examples=150, deadline=None)
def test_one_flipped_bit_in_the_report_is_refused(evidence: SnpEvidence, bit: int) -> None:
    with pytest.raises(AttestationError):
        _check(replace(evidence, report=flipped(evidence.report, bit)))


@given(part=st.sampled_from(["vcek", "ask", "ark", "crl"]), bit=st.integers(0, 1 << 20))
@settings(max_examples=200, deadline=None)
def test_one_flipped_bit_in_a_certificate_or_the_revocation_list_is_refused(
    evidence: SnpEvidence, part: str, bit: int
) -> None:
    with pytest.raises(AttestationError):
        _check(replace(evidence, **{part: flipped(getattr(evidence, part), bit)}))


@given(data=st.binary(max_size=1200) | st.binary(min_size=1184, max_size=1184))
def test_the_report_parser_raises_only_its_own_error(data: bytes) -> None:
    _only_malformed(parse_report, data)


@given(data=st.binary(max_size=400))
@example(data=b"\x30\x00")
@example(data=b"\x30\x84\xff\xff\xff\xff")
@example(data=b"\x30\x80\x00\x00")
def test_the_certificate_reader_raises_only_its_own_error(data: bytes) -> None:
    _only_malformed(Certificate.parse, data)


@given(cut=st.integers(0, 2000), bit=st.integers(0, 1 << 14))
@settings(deadline=None)
def test_the_certificate_reader_raises_only_its_own_error_on_damaged_certificates(
    evidence: SnpEvidence, cut: int, bit: int
) -> None:
    _only_malformed(_read_everything, flipped(evidence.vcek, bit)[: max(cut, 1)])
    _only_malformed(_read_everything, flipped(evidence.vcek, bit))


def _read_everything(data: bytes) -> None:
    certificate = Certificate.parse(data)
    certificate.public_key()
    certificate.is_authority()


def _only_malformed(parse: Callable[[bytes], object], data: bytes) -> None:
    with suppress(MalformedEvidenceError):
        parse(data)


def test_signing_keys_are_told_apart() -> None:
    assert _genuine_endorsement("milan").signing_key is SnpSigningKey.VCEK
