"""What a refusal of a GPU or its manifests says, word for word; and the last value that is still accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from attestation import nvidia as nvidia_module
from attestation import nvidia_chain
from attestation.chain_cache import ChainCache
from attestation.errors import AttestationError, MalformedEvidenceError, RimMismatchError
from attestation.evidence import GpuEvidence
from attestation.nvidia import NvidiaClaims, check_firmware, check_measurements, load_rims, read_facts
from attestation.nvidia import check_report as check_gpu
from attestation.nvidia_chain import check_chain
from attestation.nvidia_facts import GpuFacts, GpuFeature
from attestation.rim import Rim
from attestation.sim.firmware import GPU_MODELS
from attestation.sim.nvidia import SimulatedNvidia
from attestation.spdm import parse_spdm
from attestation.verdict import CheckLog
from tests.attestation.said import Said, refusal
from tests.attestation.vendors import NOW, gpu, nvidia

NONCE = b"n" * 32
STRANGER = SimulatedNvidia.create(NOW).make_gpu()  # its vendor has the same names and other keys
RIMS = load_rims({sha256(rim).digest(): rim for rim in GPU_MODELS["H100"].manifests()})


def _facts(opaque: dict[int, bytes | None]) -> GpuFacts:
    """What a report says whose opaque fields were put in place of the regular ones, or left out (None)."""
    report = parse_spdm(gpu().attest(b"n" * 32).report)
    fields = {**report.opaque, **opaque}
    return read_facts(replace(report, opaque={number: value for number, value in fields.items() if value is not None}))


@pytest.mark.parametrize(
    ("opaque", "says"),
    [
        ({6: None}, "report lacks opaque field 6"),
        ({6: b"short"}, "GPU VBIOS version of 5 bytes, want 8"),
        ({11: b"\0"}, "GPU video decoder status 00, want aa or 55"),
        ({22: b"\1" * 7}, "GPU links of 7 bytes, want at most 64 times 8"),
        ({22: b"\1" * 520}, "GPU links of 520 bytes, want at most 64 times 8"),
        ({3: b"a b"}, "opaque field 3 is not a short word"),
        ({3: b"a" * 65}, "opaque field 3 is not a short word"),
        ({3: b"\xe4"}, "opaque field 3 is not a short word"),
        ({3: b""}, "opaque field 3 is not a short word"),
        ({3: b"..."}, "opaque field 3 is not a short word"),
        ({35: b""}, "opaque field 35 is not a short word"),
        ({36: b"\7\0"}, "GPU mode flag 0700 with protected PCIe status 55"),
        ({36: b"\1\0", 21: b"\xaa"}, "GPU mode flag 0100 with protected PCIe status aa"),
        ({36: b"\2\0", 21: None}, "GPU mode flag 0200 with protected PCIe status 55"),
        ({36: None, 21: b"\0"}, "GPU mode flag  with protected PCIe status 00"),
    ],
)
def test_a_gpu_report_is_refused_with_the_field(opaque: dict[int, bytes | None], says: str) -> None:
    with pytest.raises(AttestationError) as caught:
        _facts(opaque)
    assert str(caught.value) == says


def test_what_a_gpu_report_may_just_say() -> None:
    links = b"".join(number.to_bytes(8, "big") for number in range(64))
    facts = _facts(
        {3: b"5" * 64, 6: bytes(range(1, 9)), 15: b"skuX", 17: b"p", 18: b"q.r\0\0", 22: links, 35: b"gb100\0"}
    )
    assert (facts.driver, facts.vbios, facts.board, facts.chip) == ("5" * 64, "04.03.02.01.05", "P_Q.R_SKUX", "gb100")
    assert facts.switches == {number.to_bytes(8, "little") for number in range(1, 64)}
    assert facts.vbios_manifest == "NV_GPU_VBIOS_P_Q.R_SKUX_0403020105"
    assert _facts({22: None}).switches == frozenset()


@pytest.mark.parametrize(
    ("opaque", "feature"),
    [
        ({36: None, 21: None}, None),
        ({36: None, 21: b"\x55"}, GpuFeature.SPT),
        ({36: None, 21: b"\xaa"}, GpuFeature.PPCIE),
        ({36: b"\2\0", 21: b"\xaa"}, GpuFeature.PPCIE),
        ({36: b"\1\0", 21: None}, GpuFeature.MPT),
    ],
)
def test_the_mode_is_told_by_two_fields(opaque: dict[int, bytes | None], feature: GpuFeature | None) -> None:
    assert _facts(opaque).feature is feature


def _gpu(evidence: GpuEvidence | None = None, **changes: object) -> NvidiaClaims:
    usual = {"nonce": NONCE, "roots": frozenset({nvidia().root}), "rims": RIMS, "now": NOW}
    return check_gpu(evidence or gpu().attest(NONCE), **{**usual, **changes})


def test_a_gpu_that_does_not_tell_its_mode_is_refused_with_the_modes_wanted() -> None:
    log, facts = CheckLog(), _facts({36: None, 21: None})
    check = refusal(lambda: nvidia_module._check_mode(facts, frozenset({GpuFeature.SPT, GpuFeature.MPT}), log))
    assert check == Said("GPU mode", "none told by this driver", "mpt or spt")


def test_of_several_manifests_the_closest_one_is_named() -> None:
    driver, vbios = RIMS
    first, second, third = sorted(vbios.measurements)[:3]
    spoilt = (b"x" * 48,)
    far = replace(vbios, measurements={**vbios.measurements, first: spoilt, second: spoilt}, digest=b"far")
    near = replace(vbios, measurements={**vbios.measurements, third: spoilt}, digest=b"near")
    for order in ((far, near), (near, far)):
        check = refusal(lambda order=order: _gpu(rims=(driver, *order)))
        assert (check.seen, check.required) == (
            f"blocks {third} differ",
            "equal to its manifests: vendor firmware, booted securely, no debugger",
        )


def test_a_manifest_that_is_missing_is_named_with_the_chip() -> None:
    driver, vbios = RIMS
    wanted = "an allowed manifest for {}; ask for it to be allowed, or run an allowed version"
    report, facts = parse_spdm(gpu().attest(NONCE).report), _facts({35: b"gb100"})
    own = replace(driver, product="gb100")
    check = refusal(lambda: check_measurements(report, facts, "GH100", (driver, vbios), log=CheckLog()))
    assert check == Said(f"GPU driver manifest {facts.driver}", "0 found", wanted.format("gb100"))
    check = refusal(lambda: check_measurements(report, facts, "GH100", (own,), log=CheckLog()))
    name = f"GPU VBIOS manifest {facts.vbios_manifest}"
    assert check == Said(name, "0 found", wanted.format("GH100 or gb100"))


def test_a_manifest_under_another_digest_says_so() -> None:
    with pytest.raises(RimMismatchError) as caught:
        load_rims({b"d" * 32: GPU_MODELS["H100"].driver_manifest()})
    assert str(caught.value) == f"manifest {(b'd' * 32).hex()} is another file; fetch it again"


def test_manifests_and_chains_that_held_are_remembered_as_what_they_are() -> None:
    cache = ChainCache()
    files = {rim.digest: data for rim, data in zip(RIMS, GPU_MODELS["H100"].manifests(), strict=True)}
    assert load_rims(files, cache) == RIMS
    assert [cache.get(rim.digest, Rim) for rim in RIMS] == [*RIMS]
    again = load_rims(files, cache)
    assert all(one is two for one, two in zip(again, load_rims(files, cache), strict=True))
    entries = len(cache)
    held = check_chain(gpu().chain, roots=frozenset({nvidia().root}), now=NOW, log=CheckLog(), cache=cache)
    assert len(cache) == entries + 2, "the chain, and the authorities that devices share"
    once_more = check_chain(gpu().chain, roots=frozenset({nvidia().root}), now=NOW, log=CheckLog(), cache=cache)
    assert once_more is held


def test_a_chain_holds_from_its_first_to_its_last_second() -> None:
    roots = frozenset({nvidia().root})
    chain = nvidia().make_gpu("H100", not_after=NOW + timedelta(hours=1)).chain
    ends = check_chain(chain, roots=roots, now=NOW, log=CheckLog())
    for now in (ends.not_before, ends.not_after):
        assert check_chain(chain, roots=roots, now=now, log=CheckLog()) == ends
    second = timedelta(seconds=1)
    for now in (ends.not_before - second, ends.not_after + second):
        check = refusal(lambda now=now: check_chain(chain, roots=roots, now=now, log=CheckLog()))
        assert check.seen == f"{ends.not_before:%F %T} to {ends.not_after:%F %T}"
        assert check.required == f"valid at {now:%F %T}"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda mine, other: (other[0], *mine[1:]), "certificate 0 is not named by an authority"),
        (lambda mine, other: (*other[:2], *mine[2:]), "certificate 1 is not signed by the next"),
        (lambda mine, other: (*mine[:2], *mine[3:]), "certificate 1 is not named by an authority"),
        (lambda mine, other: (mine[1], mine[0], *mine[2:]), "the leaf is an authority"),
    ],
)
def test_a_chain_is_refused_with_the_link_that_breaks(broken: Callable[..., tuple[bytes, ...]], says: str) -> None:
    chain = broken(gpu().chain, STRANGER.chain)
    check = refusal(lambda: _gpu(replace(gpu().attest(NONCE), chain=chain)))
    assert check == Said("GPU certificate chain", says, "each named and signed by the next")


def test_a_root_nobody_pinned_is_named() -> None:
    check = refusal(lambda: _gpu(roots=frozenset()))
    assert check == Said("GPU root", nvidia().root.hex(), "a pinned NVIDIA root key")


@pytest.mark.parametrize("size", [3, 6])
def test_a_chain_of_another_length_is_counted(size: int) -> None:
    chain = (gpu().chain * 2)[:size]
    with pytest.raises(MalformedEvidenceError, match=rf"^GPU chain of {size} certificates, want one of \(4, 5\)$"):
        check_chain(chain, roots=frozenset({nvidia().root}), now=NOW, log=CheckLog())


def test_a_report_by_firmware_that_nobody_named_says_which_side_lacks_it() -> None:
    log = CheckLog()
    nameless = check_chain(nvidia().make_gpu(identity=b"").chain, roots=frozenset({nvidia().root}), now=NOW, log=log)
    check = refusal(lambda: check_firmware(b"f" * 48, nameless, log=log))
    assert check == Said("GPU firmware identity", (b"f" * 48).hex(), "in report and certificate")
    named = check_chain(gpu().chain, roots=frozenset({nvidia().root}), now=NOW, log=log)
    assert named.identity is not None
    check = refusal(lambda: check_firmware(None, named, log=log))
    assert (check.seen, check.required) == ("none in the report (driver older than 550)", named.identity.fwid.hex())


def test_a_key_made_in_an_open_device_is_refused_with_its_states() -> None:
    roots = frozenset({nvidia().root})
    for debug, seen in ((False, "closed"), (True, None)):
        device = nvidia().make_gpu("B200", debug=debug)
        log = CheckLog()
        endorsement = check_chain(device.chain, roots=roots, now=NOW, log=log)
        identity = endorsement.identity
        assert identity is not None
        required = "not in debug mode, not in recovery, secured"
        name = "GPU key made in a closed state"
        if seen is not None:
            check_firmware(identity.fwid, endorsement, log=log)
            assert Said.by(log.checks[-1]) == (name, seen, required)
        else:
            said = refusal(lambda one=endorsement, log=log: check_firmware(one.identity.fwid, one, log=log))
            assert said == (name, " and ".join(identity.open_states or ()), required)


@pytest.mark.parametrize(
    ("serial", "pdi"),
    [
        (1 << 64, bytes(8)),
        ((1 << 64) - 1, None),
        ((1 << 72) - 1, b"\xff" * 8),
        (1 << 72, None),
        (1 << 80, None),
        (0x41_0102030405060708, bytes(range(1, 9))),
    ],
)
def test_a_device_is_named_by_a_serial_number_of_nine_bytes_only(serial: int, pdi: bytes | None) -> None:
    assert nvidia_chain._pdi(serial) == pdi
