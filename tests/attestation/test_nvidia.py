"""NVIDIA GPUs: genuine reports and chains hold; every way of cheating has its refusal."""

import base64
import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GpuBindingError,
    GpuStateError,
    MalformedEvidenceError,
    RimMismatchError,
    UntrustedRootError,
)
from attestation.evidence import GpuEvidence
from attestation.nvidia import (
    NVDEC0_BLOCK,
    ChainCache,
    GpuFacts,
    GpuFeature,
    NvidiaClaims,
    check_firmware,
    check_measurements,
    check_report,
    check_signed,
    load_rims,
    read_facts,
)
from attestation.nvidia_chain import DeviceEndorsement, check_chain
from attestation.rim import parse_rim
from attestation.roots import NVIDIA_DEVICE_ROOT
from attestation.sim.firmware import GPU_MODELS
from attestation.sim.nvidia import GpuFaults, SimulatedNvidia
from attestation.spdm import SPDM_SIZE_MAX, SpdmReport, parse_spdm
from attestation.verdict import CheckLog
from tests.attestation.vendors import NOW, flipped, gpu, nvidia, vector

NONCE = b"n" * 32
FIRMWARE = GPU_MODELS["H100"]
RIMS = {sha256(rim).digest(): rim for rim in FIRMWARE.manifests()}


@pytest.fixture(scope="module")
def evidence() -> GpuEvidence:
    return gpu().attest(NONCE)


def _check(evidence: GpuEvidence, **changes: object) -> NvidiaClaims:
    usual = {"nonce": NONCE, "roots": frozenset({nvidia().root}), "rims": RIMS, "now": NOW}
    return check_report(evidence, **{**usual, **changes})


def _ders(pem: bytes) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem))


def _genuine(name: str) -> list[GpuEvidence]:
    if name == "h100_spt":
        report = bytes.fromhex(vector("nvidia-gpu/h100_spt_report.hex").read_text())
        return [GpuEvidence(report=report, chain=_ders(vector("nvidia-gpu/h100_spt_chain.pem").read_bytes()))]
    return [
        GpuEvidence(report=base64.b64decode(entry["evidence"]), chain=_ders(base64.b64decode(entry["certificate"])))
        for entry in json.loads(vector(f"nvidia-gpu/{name}.json").read_text())
    ]


def _accept(evidence: GpuEvidence, now: datetime = NOW) -> tuple[DeviceEndorsement, SpdmReport, GpuFacts]:
    """Everything but the measurements: the manifests of the genuine reports' versions are not among the vectors."""
    log = CheckLog()
    endorsement = check_chain(evidence.chain, roots=frozenset({NVIDIA_DEVICE_ROOT}), now=now, log=log)
    report = parse_spdm(evidence.report)
    facts = read_facts(report)
    check_signed(report, endorsement, nonce=evidence.report[4:36], log=log)
    check_firmware(facts.fwid, endorsement, log=log)
    return endorsement, report, facts


@pytest.mark.parametrize(
    ("name", "count", "driver", "manifest", "feature"),
    [
        ("h100_spt", 1, "550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001", GpuFeature.SPT),
        ("hopper_evidence", 1, "590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001", GpuFeature.PPCIE),
        ("hgx8_ppcie_gpu_evidence", 8, "590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001", GpuFeature.PPCIE),
    ],
)
def test_genuine_reports_hold_down_to_nvidias_root(
    name: str, count: int, driver: str, manifest: str, feature: GpuFeature
) -> None:
    accepted = [_accept(evidence) for evidence in _genuine(name)]
    assert len(accepted) == count
    for endorsement, report, facts in accepted:
        assert (endorsement.model, facts.driver, facts.vbios_manifest) == ("GH100", driver, manifest)
        assert facts.feature is feature
        assert not facts.nvdec0
        assert len(report.measurements) == 64
    assert len({endorsement.device_id for endorsement, _, _ in accepted}) == count, "eight GPUs, eight identities"


def test_the_genuine_nonce_is_the_one_recorded_beside_it() -> None:
    entries = json.loads(vector("nvidia-gpu/hgx8_ppcie_gpu_evidence.json").read_text())
    reports = [parse_spdm(base64.b64decode(entry["evidence"])) for entry in entries]
    assert [report.nonce.hex() for report in reports] == [entry["nonce"] for entry in entries]


def test_a_genuine_report_does_not_match_the_manifest_of_another_driver() -> None:
    _, report, facts = _accept(_genuine("h100_spt")[0])
    other = vector("nvidia-gpu/NV_GPU_DRIVER_GH100_550.144.03.xml").read_bytes()
    vbios = vector("nvidia-gpu/1010_0200_882_96005E0001_test_no_gpu.swidtag").read_bytes()
    with pytest.raises(RimMismatchError, match=r"driver manifest 550\.90\.07"):
        check_measurements(report, facts, "GH100", [parse_rim(other), parse_rim(vbios)], log=CheckLog())


def test_genuine_measurements_are_compared_at_manifest_index_plus_one() -> None:
    _, report, facts = _accept(_genuine("h100_spt")[0])
    driver = parse_rim(vector("nvidia-gpu/NV_GPU_DRIVER_GH100_550.144.03.xml").read_bytes())
    vbios = parse_rim(vector("nvidia-gpu/1010_0200_882_96005E0001_test_no_gpu.swidtag").read_bytes())
    named = [replace(driver, version=facts.driver), replace(vbios, version=facts.vbios)]
    with pytest.raises(RimMismatchError, match=r"blocks 1, 2, 3, 7, 9, 11, 22, 31, 39, 40 differ"):
        check_measurements(report, facts, "GH100", named, log=CheckLog())


def test_the_pinned_key_is_that_of_nvidias_root() -> None:
    (root,) = x509.load_pem_x509_certificates(vector("nvidia-gpu/verifier_device_root.pem").read_bytes())
    assert _genuine("h100_spt")[0].chain[-1] == root.public_bytes(Encoding.DER)
    assert _accept(_genuine("h100_spt")[0])[0].root == NVIDIA_DEVICE_ROOT


@given(bit=st.integers(0, 4117 * 8 - 1))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_in_a_genuine_report_is_refused(bit: int) -> None:
    genuine = _genuine("h100_spt")[0]
    altered = replace(genuine, report=flipped(genuine.report, bit))
    log = CheckLog()
    endorsement = check_chain(genuine.chain, roots=frozenset({NVIDIA_DEVICE_ROOT}), now=NOW, log=log)
    with pytest.raises(AttestationError):
        report = parse_spdm(altered.report)
        read_facts(report)
        check_signed(report, endorsement, nonce=genuine.report[4:36], log=log)


def test_an_honest_gpu_is_accepted(evidence: GpuEvidence) -> None:
    claims = _check(evidence)
    assert (claims.model, claims.driver, claims.vbios) == ("GH100", FIRMWARE.driver, FIRMWARE.vbios)
    assert (claims.feature, claims.root) == (GpuFeature.SPT, nvidia().root)
    assert claims.rims == tuple(RIMS)
    told = {check.name for check in claims.checks if check.outcome != "held"}
    assert told == {"GPU key made in a closed state"}, "Hopper's certificates do not say so"


def test_a_gpu_of_another_model_is_accepted_with_its_own_manifests() -> None:
    other = nvidia().make_gpu("B200")
    claims = _check(other.attest(NONCE), rims={sha256(rim).digest(): rim for rim in other.rims})
    assert claims.model == "GB100"
    assert all(check.outcome == "held" for check in claims.checks)


def test_refused_blackwell_whose_key_was_made_in_debug_mode() -> None:
    device = nvidia().make_gpu("B200", debug=True)
    with pytest.raises(GpuStateError, match="debug"):
        _check(device.attest(NONCE), rims={sha256(rim).digest(): rim for rim in device.rims})


def test_refused_driver_manifest_of_the_chip_that_the_certificate_names_when_the_driver_names_another() -> None:
    device = nvidia().make_gpu("B200")
    report = device.attest(NONCE, GpuFaults(opaque={35: b"GB202\0"}))
    with pytest.raises(RimMismatchError, match="manifest for GB202"):
        _check(report, rims={sha256(rim).digest(): rim for rim in device.rims})


def test_a_genuine_blackwell_holds_down_to_nvidias_root_and_tells_no_mode() -> None:
    report = bytes.fromhex(vector("nvidia-gpu/blackwell_report.hex").read_text())
    chain = _ders(vector("nvidia-gpu/blackwell_chain.pem").read_bytes())
    endorsement, parsed, facts = _accept(GpuEvidence(report=report, chain=chain))
    assert (endorsement.model, facts.driver, facts.vbios_manifest) == (
        "GB100",
        "575.32",
        "NV_GPU_VBIOS_G525_0220_886_970088000F",
    )
    assert endorsement.identity.open_states == ()
    assert (facts.feature, facts.chip, len(parsed.measurements)) == (None, None, 64)
    with pytest.raises(GpuStateError, match="none told by this driver"):
        check_report(
            GpuEvidence(report=report, chain=chain),
            nonce=parsed.nonce,
            roots=frozenset({NVIDIA_DEVICE_ROOT}),
            rims=(),
            now=NOW,
            features=frozenset(GpuFeature),
        )


def test_the_device_identity_outlives_a_firmware_update(evidence: GpuEvidence) -> None:
    assert _check(gpu().attest(NONCE)).device_id == _check(evidence).device_id
    assert _check(nvidia().make_gpu().attest(NONCE)).device_id != _check(evidence).device_id


def test_manifests_may_be_read_once_for_many_gpus(evidence: GpuEvidence) -> None:
    assert _check(evidence, rims=load_rims(RIMS)) == _check(evidence)


@pytest.mark.parametrize(
    ("faults", "refusal"),
    [
        pytest.param({"nonce": b"x" * 32}, GpuBindingError, id="replayed-report"),
        pytest.param({"altered_blocks": (7,)}, RimMismatchError, id="altered-driver-firmware"),
        pytest.param({"altered_blocks": (9,)}, RimMismatchError, id="altered-vbios"),
        pytest.param({"driver": "535.86.09"}, RimMismatchError, id="driver-without-an-allowed-manifest"),
        pytest.param({"vbios": "96.00.00.00.01"}, RimMismatchError, id="vbios-without-an-allowed-manifest"),
        pytest.param({"identity": b"x" * 48}, EndorsementMismatchError, id="certificate-of-other-firmware"),
        pytest.param({"identity": b""}, EndorsementMismatchError, id="firmware-identity-left-out"),
        pytest.param({"feature": GpuFeature.PPCIE}, GpuStateError, id="unattested-switches-in-between"),
        pytest.param({"protected_pcie": True}, GpuStateError, id="mode-fields-that-contradict-each-other"),
        pytest.param({"opaque": {36: b"\7\0"}}, GpuStateError, id="unknown-mode"),
        pytest.param({"opaque": {22: b"\1" * 7}}, MalformedEvidenceError, id="half-a-link"),
        pytest.param({"opaque": {22: b"\1" * 8 * 65}}, MalformedEvidenceError, id="more-links-than-a-gpu-has"),
        pytest.param({"opaque": {11: b"\0"}}, GpuStateError, id="unknown-decoder-status-to-skip-a-measurement"),
        pytest.param({"opaque": {6: b"short"}}, MalformedEvidenceError, id="vbios-version-of-another-size"),
        pytest.param({"opaque": {3: b"\xff\xfe"}}, MalformedEvidenceError, id="driver-version-that-is-no-text"),
        pytest.param({"opaque": {3: b"../../x"}}, MalformedEvidenceError, id="driver-version-that-is-a-path"),
        pytest.param({"opaque": {17: b""}}, MalformedEvidenceError, id="board-without-a-name"),
        pytest.param({"foreign_key": True}, EvidenceSignatureError, id="signed-by-a-key-of-the-attackers-own"),
    ],
)
def test_refused(faults: dict[str, object], refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        _check(gpu().attest(NONCE, GpuFaults(**faults)))


def test_refused_under_nvidias_genuine_root(evidence: GpuEvidence) -> None:
    with pytest.raises(UntrustedRootError):
        _check(evidence, roots=frozenset({NVIDIA_DEVICE_ROOT}))


def test_refused_leaf_without_firmware_identity() -> None:
    with pytest.raises(EndorsementMismatchError):
        _check(nvidia().make_gpu(identity=b"").attest(NONCE))


def test_refused_even_when_report_and_leaf_both_leave_the_firmware_identity_out() -> None:
    with pytest.raises(EndorsementMismatchError):
        _check(nvidia().make_gpu(identity=b"").attest(NONCE, GpuFaults(identity=b"")))


def test_refused_expired_certificate() -> None:
    with pytest.raises(EndorsementExpiredError):
        _check(nvidia().make_gpu(not_after=NOW - timedelta(hours=1)).attest(NONCE))


def test_refused_certificate_from_the_future(evidence: GpuEvidence) -> None:
    with pytest.raises(EndorsementExpiredError):
        _check(evidence, now=NOW - timedelta(days=2))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda mine, other: (other[0], *mine[1:]), id="leaf-of-another-gpu"),
        pytest.param(lambda mine, other: (mine[0], other[1], *mine[2:]), id="device-certificate-of-another-gpu"),
        pytest.param(lambda mine, other: (*mine[:2], mine[3], mine[4]), id="a-link-left-out"),
        pytest.param(lambda mine, other: (*mine[:3], mine[2], mine[4]), id="a-link-doubled"),
        pytest.param(lambda mine, other: (mine[1], mine[0], *mine[2:]), id="leaf-used-as-an-authority"),
        pytest.param(lambda mine, other: mine[1:], id="device-key-used-as-a-leaf"),
    ],
)
def test_refused_chain(evidence: GpuEvidence, broken: object) -> None:
    other = nvidia().make_gpu()
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, chain=broken(evidence.chain, other.chain)))


def test_refused_chain_that_only_names_the_trusted_root(evidence: GpuEvidence) -> None:
    stranger = SimulatedNvidia.create(NOW).make_gpu()
    forged = replace(stranger, chain=(*stranger.chain[:-1], evidence.chain[-1]))
    with pytest.raises(EvidenceSignatureError):
        _check(forged.attest(NONCE))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6])
def test_refused_chain_of_another_length(evidence: GpuEvidence, size: int) -> None:
    with pytest.raises(MalformedEvidenceError):
        _check(replace(evidence, chain=(evidence.chain * 2)[:size]))


def test_refused_without_manifests(evidence: GpuEvidence) -> None:
    with pytest.raises(RimMismatchError):
        _check(evidence, rims={})


@pytest.mark.parametrize("kept", [0, 1], ids=["driver-only", "vbios-only"])
def test_refused_with_half_of_the_manifests(evidence: GpuEvidence, kept: int) -> None:
    with pytest.raises(RimMismatchError):
        _check(evidence, rims=dict([list(RIMS.items())[kept]]))


def test_refused_manifest_of_another_chip_with_the_same_version(evidence: GpuEvidence) -> None:
    other = GPU_MODELS["B200"].driver_manifest()
    vbios = FIRMWARE.vbios_manifest()
    with pytest.raises(RimMismatchError, match="driver manifest"):
        _check(evidence, rims={sha256(rim).digest(): rim for rim in (other, vbios)})


def test_refused_manifest_whose_bytes_are_not_the_pinned_ones(evidence: GpuEvidence) -> None:
    pin, rim = next(iter(RIMS.items()))
    with pytest.raises(RimMismatchError):
        _check(evidence, rims={**RIMS, pin: rim + b"\n"})


def test_refused_pair_of_manifests_that_claim_the_same_index(evidence: GpuEvidence) -> None:
    driver, vbios = load_rims(RIMS)
    greedy = replace(vbios, measurements={**vbios.measurements, 7: driver.measurements[7]})
    with pytest.raises(RimMismatchError, match="both claim index 7"):
        _check(evidence, rims=(driver, greedy))


def test_refused_report_with_fewer_blocks_than_the_manifest_describes(evidence: GpuEvidence) -> None:
    driver, vbios = load_rims(RIMS)
    report = parse_spdm(evidence.report)
    with pytest.raises(RimMismatchError, match="blocks 39, 40 differ"):
        check_measurements(
            replace(report, measurements=report.measurements[:39]),
            read_facts(report),
            "GH100",
            (driver, vbios),
            log=CheckLog(),
        )


def test_the_second_alternative_of_a_manifest_is_as_good_as_the_first(evidence: GpuEvidence) -> None:
    driver, vbios = load_rims(RIMS)
    first, second = driver.measurements[22]
    assert parse_spdm(evidence.report).measurements[22] == second
    only_first = replace(driver, measurements={**driver.measurements, 22: (first,)})
    with pytest.raises(RimMismatchError, match="blocks 22 differ"):
        _check(evidence, rims=(only_first, vbios))


def test_among_manifests_of_one_vbios_version_the_boards_own_is_found(evidence: GpuEvidence) -> None:
    driver, vbios = load_rims(RIMS)
    other_board = replace(vbios, measurements={**vbios.measurements, 0: (b"x" * 48,)}, digest=b"other")
    assert _check(evidence, rims=(other_board, driver, vbios)).rims == (driver.digest, vbios.digest)


def test_the_video_decoders_block_counts_only_where_it_is_on() -> None:
    assert _check(gpu().attest(NONCE, GpuFaults(video_decoder=False, altered_blocks=(NVDEC0_BLOCK,))))
    assert _check(gpu().attest(NONCE, GpuFaults(video_decoder=True)))
    with pytest.raises(RimMismatchError, match="blocks 35 differ"):
        _check(gpu().attest(NONCE, GpuFaults(video_decoder=True, altered_blocks=(NVDEC0_BLOCK,))))


def test_protected_pcie_is_accepted_only_by_name() -> None:
    report = gpu().attest(NONCE, GpuFaults(feature=GpuFeature.PPCIE))
    assert _check(report, features=frozenset({GpuFeature.PPCIE})).feature is GpuFeature.PPCIE
    assert _check(gpu().attest(NONCE, GpuFaults(feature=GpuFeature.MPT))).feature is GpuFeature.MPT


def test_a_cached_chain_still_has_to_be_trusted_and_in_time(evidence: GpuEvidence) -> None:
    cache = ChainCache()
    short = nvidia().make_gpu(not_after=NOW + timedelta(hours=1)).attest(NONCE)
    assert _check(short, cache=cache) == _check(short, cache=cache)
    with pytest.raises(EndorsementExpiredError):
        _check(short, cache=cache, now=NOW + timedelta(hours=2))
    with pytest.raises(UntrustedRootError):
        _check(short, cache=cache, roots=frozenset({NVIDIA_DEVICE_ROOT}))
    with pytest.raises(EvidenceSignatureError):
        _check(replace(short, report=evidence.report), cache=cache)


def test_a_refused_chain_is_not_cached(evidence: GpuEvidence) -> None:
    cache = ChainCache()
    forged = replace(evidence, chain=(nvidia().make_gpu().chain[0], *evidence.chain[1:]))
    for _ in range(2):
        with pytest.raises(EvidenceSignatureError, match="certificate chain"):
            _check(forged, cache=cache)


def test_a_refusal_carries_the_checks_that_ran() -> None:
    with pytest.raises(RimMismatchError) as caught:
        _check(gpu().attest(NONCE, GpuFaults(altered_blocks=(7,))))
    assert [check.outcome for check in caught.value.checks[-2:]] == ["held", "failed"]
    assert caught.value.checks[-1].seen == "blocks 7 differ"


@given(bit=st.integers(0, 4129 * 8 - 1))
@example(bit=0)
@example(bit=36 * 8)  # slot of the request
@example(bit=4129 * 8 - 1)
@settings(max_examples=150, deadline=None)
def test_one_flipped_bit_in_the_report_is_refused(evidence: GpuEvidence, bit: int) -> None:
    with pytest.raises(AttestationError):
        _check(replace(evidence, report=flipped(evidence.report, bit)), rims=load_rims(RIMS))


@given(position=st.integers(0, 4), bit=st.integers(0, 1 << 14))
@settings(max_examples=150, deadline=None)
def test_one_flipped_bit_in_a_certificate_is_refused(evidence: GpuEvidence, position: int, bit: int) -> None:
    chain = list(evidence.chain)
    chain[position] = flipped(chain[position], bit)
    with pytest.raises(AttestationError):
        _check(replace(evidence, chain=tuple(chain)))


@given(which=st.integers(0, 1), bit=st.integers(0, 1 << 18))
@settings(max_examples=50, deadline=None)
def test_one_flipped_bit_in_a_manifest_is_refused(evidence: GpuEvidence, which: int, bit: int) -> None:
    pin, rim = list(RIMS.items())[which]
    with pytest.raises(RimMismatchError):
        _check(evidence, rims={**RIMS, pin: flipped(rim, bit)})


@given(cut=st.integers(0, 5000), more=st.binary(max_size=4))
@settings(deadline=None)
def test_a_report_is_read_only_whole(evidence: GpuEvidence, cut: int, more: bytes) -> None:
    data = evidence.report[:cut] + more
    if data != evidence.report:
        with pytest.raises(MalformedEvidenceError):
            parse_spdm(data)


@given(data=st.binary(max_size=400), head=st.booleans())
@example(data=b"", head=True)
def test_the_report_parser_raises_only_its_own_error(evidence: GpuEvidence, data: bytes, head: bool) -> None:
    with suppress(MalformedEvidenceError):
        parse_spdm(evidence.report[:44] + data if head else data)


def test_a_huge_report_is_refused_unread() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_spdm(bytes(SPDM_SIZE_MAX + 1))


def test_an_opaque_field_given_twice_is_malformed(evidence: GpuEvidence) -> None:
    report = bytearray(evidence.report)
    at = report.index(b"\x24\0\2\0", 37 + 8 + 64 * 55)  # field 36 becomes a second field 34
    report[at] = 34
    with pytest.raises(MalformedEvidenceError, match="34 is given twice"):
        parse_spdm(bytes(report))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(45, 2, id="block-out-of-order"),
        pytest.param(46, 2, id="block-of-another-specification"),
        pytest.param(49, 0x81, id="raw-value-where-a-digest-belongs"),
        pytest.param(50, 47, id="value-of-another-size"),
        pytest.param(41, 63, id="fewer-blocks-announced"),
        pytest.param(2, 0, id="request-for-unsigned-measurements"),
        pytest.param(3, 1, id="request-for-one-block"),
    ],
)
def test_malformed_spdm(evidence: GpuEvidence, offset: int, value: int) -> None:
    report = bytearray(evidence.report)
    report[offset] = value
    with pytest.raises(MalformedEvidenceError):
        parse_spdm(bytes(report))
