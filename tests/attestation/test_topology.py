"""GPUs and switches of one machine: the complete set holds, every way of patching one together has its refusal."""

from dataclasses import replace
from functools import cache
from hashlib import sha256
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import (
    AttestationError,
    Evidence,
    PolicyError,
    TeeKind,
    Tier,
    encode_evidence,
    parse_evidence,
    verify,
)
from attestation import errors as refusals
from attestation.certificate import Certificate
from attestation.chain_cache import ChainCache
from attestation.evidence import EVIDENCE_SIZE_MAX
from attestation.nvidia import GpuFeature, NvidiaClaims
from attestation.nvswitch import NvSwitchClaims, read_switch_facts
from attestation.policy import Revocation
from attestation.sim.faults import SWITCH_FAULTS
from attestation.sim.ocsp import OcspFaults
from attestation.simulate import Fault, SimulatedHost
from attestation.spdm import parse_spdm
from attestation.topology import check_topology
from attestation.transcript import GPUS_MAX, SWITCHES_MAX
from attestation.verdict import CheckLog
from tests.attestation.hosts import NONCE, TDX_CPU, appraise, evidence_of, host, policy_for, vendors
from tests.attestation.test_nvidia import _accept, _genuine
from tests.attestation.test_nvswitch import _genuine as _genuine_switches
from tests.attestation.vendors import NOW, flipped

HGX = frozenset({"hgx-8x4"})
MACHINE_REFUSALS = {
    Fault.MISSING_SWITCH: (refusals.GpuBindingError, "switch count"),
    Fault.UNNAMED_SWITCH: (refusals.TopologyError, "topology"),
    Fault.EXTRA_SWITCH: (refusals.TopologyError, "topology"),
    Fault.FOREIGN_SWITCH: (refusals.UntrustedRootError, "switch root"),
    Fault.OTHER_SWITCH: (refusals.TopologyError, "gpu 0 links"),
    Fault.DOUBLED_SWITCH: (refusals.GpuBindingError, "device identities"),
    Fault.SWAPPED_SWITCH_REPORT: (refusals.GpuBindingError, "switch 3 in transcript"),
    Fault.REORDERED_SWITCHES: (refusals.GpuBindingError, "switch 0 in transcript"),
    Fault.OPEN_SWITCH: (refusals.GpuStateError, "switch routes"),
    Fault.ALTERED_SWITCH_FIRMWARE: (refusals.RimMismatchError, "switch measurements"),
    Fault.GPU_NAMES_OTHER_SWITCH: (refusals.TopologyError, "gpu 7 links"),
    Fault.SWITCH_NAMES_OTHER_GPU: (refusals.TopologyError, "switch 3 links"),
    Fault.UNUSED_SWITCHES: (refusals.TopologyError, "switches"),
    Fault.UNNAMED_GPU: (refusals.TopologyError, "topology"),
    Fault.GPU_AS_SWITCH: (refusals.EndorsementMismatchError, "switch chip"),
}
GPU_FAULTS_IN_A_MACHINE = {
    Fault.MISSING_GPU: refusals.GpuBindingError,
    Fault.FOREIGN_GPU: refusals.UntrustedRootError,
    Fault.SWAPPED_GPU_REPORT: refusals.GpuBindingError,
    Fault.REORDERED_GPUS: refusals.GpuBindingError,
    Fault.DOUBLED_GPU: refusals.GpuBindingError,
    Fault.ALTERED_GPU_FIRMWARE: refusals.RimMismatchError,
    Fault.CC_OFF: refusals.GpuStateError,
    Fault.CC_DEVTOOLS: refusals.GpuStateError,
    Fault.MIXED_MODES: refusals.GpuStateError,
}
MADE_WRONG = {Fault.EXTRA_SWITCH, Fault.FOREIGN_SWITCH, Fault.FOREIGN_GPU}  # at the factory; the others only lie


@cache
def machine(kind: TeeKind = TDX_CPU) -> SimulatedHost:
    return vendors().make_host(kind, gpus=8, switches=4, quote_latency_s=0)


def _liar(*faults: Fault) -> SimulatedHost:
    if MADE_WRONG & set(faults):
        return vendors().make_host(TDX_CPU, gpus=8, switches=4, faults=faults, quote_latency_s=0)
    return machine().with_faults(*faults)


def _refused(evidence: Evidence, error: type[AttestationError], check: str = "", **policy: object) -> None:
    with pytest.raises(error) as caught:
        appraise(evidence, policy_for(machine(), **policy))
    assert type(caught.value) is error
    assert caught.value.checks[-1].outcome == "failed"
    assert caught.value.checks[-1].name == check or not check


@pytest.mark.parametrize("kind", list(TeeKind))
def test_a_complete_machine_in_protected_pcie_is_confidential(kind: TeeKind) -> None:
    verdict = appraise(evidence_of(machine(kind)), policy_for(machine(kind)))
    assert verdict.tier is Tier.CONFIDENTIAL
    assert [gpu.mode for gpu in verdict.gpus] == [GpuFeature.PPCIE] * 8
    assert [switch.pdi for switch in verdict.switches] == [switch.pdi for switch in machine(kind).switches]
    assert len(verdict.to_dict()["switches"]) == 4


@pytest.mark.parametrize("fault", MACHINE_REFUSALS)
def test_refused_machine(fault: Fault) -> None:
    error, check = MACHINE_REFUSALS[fault]
    _refused(evidence_of(_liar(fault)), error, check)


@pytest.mark.parametrize("fault", GPU_FAULTS_IN_A_MACHINE)
def test_refused_gpu_within_a_machine(fault: Fault) -> None:
    _refused(evidence_of(_liar(fault)), GPU_FAULTS_IN_A_MACHINE[fault])


def test_every_fault_of_switches_is_tried_above() -> None:
    assert MACHINE_REFUSALS.keys() == SWITCH_FAULTS
    with pytest.raises(ValueError, match="needs switches"):
        host(TDX_CPU, 2, Fault.OPEN_SWITCH)


def test_refused_protected_pcie_without_switches() -> None:
    for gpus in (1, 2):
        liar = host(TDX_CPU, gpus, Fault.GPU_OF_A_SET)
        with pytest.raises(refusals.TopologyError, match=f"{gpus} GPUs and 0 switches"):
            appraise(evidence_of(liar), policy_for(liar))


def test_refused_single_gpu_that_is_one_of_a_set_with_encrypted_links() -> None:
    liar = host(TDX_CPU, 1, Fault.MIXED_MODES)
    with pytest.raises(refusals.GpuStateError, match="gpu mode of a single gpu: mpt"):
        appraise(evidence_of(liar), policy_for(liar))


def test_refused_switch_reports_that_the_transcript_does_not_name() -> None:
    evidence = evidence_of(machine())
    alone = host(TDX_CPU, 2)
    with pytest.raises(refusals.GpuBindingError, match="switch count: 4 reports; required: 0"):
        appraise(replace(evidence_of(alone), switches=evidence.switches), policy_for(alone))


def test_refused_switches_that_answer_for_another_host() -> None:
    borrowed = evidence_of(machine(), receipt=b"x" * 32)
    mine = evidence_of(machine())
    _refused(replace(mine, switches=borrowed.switches), refusals.GpuBindingError, "switch 0 in transcript")


def test_refused_when_the_topology_or_the_mode_is_not_allowed() -> None:
    evidence = evidence_of(machine())
    _refused(evidence, refusals.TopologyError, "topology", gpu_topologies=frozenset())
    _refused(evidence, refusals.GpuStateError, "GPU mode", gpu_modes=frozenset({GpuFeature.SPT}))


def test_refused_denied_switch() -> None:
    evidence = evidence_of(machine())
    device_id = sha256(Certificate.parse(evidence.switches[2].chain[1]).public_key_info).digest()
    _refused(evidence, refusals.RevokedError, "switch 2 not denied", denied_platforms=frozenset({device_id}))


def test_refused_revoked_switch_and_one_nobody_answered_for() -> None:
    alive = vendors().refresh(machine(), now=NOW)
    assert appraise(evidence_of(alive), policy_for(machine(), gpu_revocation=Revocation.REQUIRED))
    _refused(evidence_of(machine()), refusals.RevocationUnknownError, gpu_revocation=Revocation.REQUIRED)
    responder, chain = vendors().nvidia.responder, machine().switches[3].chain
    revoked = responder.answer(chain[1], chain[2], now=NOW, faults=OcspFaults(status="revoked"))
    bad = replace(alive, ocsp=(*alive.ocsp[:-1], revoked))
    _refused(evidence_of(bad), refusals.RevokedError, "switch certificate 1 revocation")


def test_an_unknown_topology_is_a_mistake_in_the_policy() -> None:
    with pytest.raises(PolicyError, match="hgx-8x4"):
        policy_for(machine(), gpu_topologies=frozenset({"hgx-8x5"}))


def test_the_document_of_a_machine_is_read_back_and_the_largest_fits() -> None:
    evidence = evidence_of(machine())
    document = encode_evidence(evidence)
    assert parse_evidence(document) == evidence
    largest = replace(
        evidence,
        gpus=evidence.gpus[:1] * GPUS_MAX,
        switches=evidence.switches[:1] * SWITCHES_MAX,
        rims=evidence.rims[:1] * (2 * GPUS_MAX),
    )
    assert len(document) < len(encode_evidence(largest)) < EVIDENCE_SIZE_MAX


def _genuine_machine() -> tuple[list[NvidiaClaims], list[NvSwitchClaims]]:
    gpus, switches = _read_genuine_machine()
    return list(gpus), list(switches)


@cache
def _read_genuine_machine() -> tuple[list[NvidiaClaims], list[NvSwitchClaims]]:
    """Claims of NVIDIA's own eight GPUs and four switches, as far as the topology needs them."""
    usual = {"model": "", "device_id": b"", "root": b"", "not_after": NOW, "checks": ()}
    gpus = []
    for evidence in _genuine("hgx8_ppcie_gpu_evidence"):
        endorsement, _, facts = _accept(evidence)
        gpus.append(
            NvidiaClaims(
                **usual,
                board="",
                driver="",
                vbios="",
                feature=facts.feature,
                pdi=endorsement.pdi,
                switches=facts.switches,
                rims=(b"", b""),
            )
        )
    switches = []
    for evidence in _genuine_switches("hgx4_ppcie_switch_evidence"):
        facts = read_switch_facts(parse_spdm(evidence.report))
        switches.append(NvSwitchClaims(**usual, bios="", pdi=facts.pdi, gpus=facts.gpus, rim=b""))
    return gpus, switches


def test_nvidias_own_eight_gpus_and_four_switches_name_each_other() -> None:
    gpus, switches = _genuine_machine()
    assert check_topology(gpus, switches, allowed=HGX, log=CheckLog()) == "hgx-8x4"


@pytest.mark.parametrize("index", range(8))
def test_refused_genuine_machine_in_which_one_gpu_is_exchanged(index: int) -> None:
    gpus, switches = _genuine_machine()
    gpus[index] = replace(gpus[index], pdi=b"stranger")
    with pytest.raises(refusals.TopologyError, match="switch 0 links"):
        check_topology(gpus, switches, allowed=HGX, log=CheckLog())


@given(
    places=st.lists(st.integers(0, 9), min_size=8, max_size=8) | st.permutations(range(8)),
    between=st.lists(st.integers(0, 5), min_size=4, max_size=4) | st.permutations(range(4)),
)
@settings(max_examples=150, deadline=None)
def test_only_the_genuine_machine_itself_is_one_whoever_else_names_its_devices(
    places: list[int], between: list[int]
) -> None:
    gpus, switches = _genuine_machine()
    gpus += [replace(gpus[0], pdi=name) for name in (b"stranger", b"another.")]
    switches += [replace(switches[0], pdi=name) for name in (b"stranger", b"another.")]
    chosen = [gpus[index] for index in places], [switches[index] for index in between]
    if sorted(places) == list(range(8)) and sorted(between) == list(range(4)):
        assert check_topology(*chosen, allowed=HGX, log=CheckLog()) == "hgx-8x4"
        return
    with pytest.raises(refusals.TopologyError):
        check_topology(*chosen, allowed=HGX, log=CheckLog())


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_refused_any_other_selection_of_the_reports_that_were_signed(data: st.DataObject) -> None:
    evidence = _signed_machine()
    kind, count = data.draw(st.sampled_from((("gpus", 8), ("switches", 4))))
    reports = getattr(evidence, kind)
    chosen = data.draw(
        st.lists(st.integers(0, count - 1), max_size=count + 2).filter(lambda one: one != [*range(count)])
    )
    changed = replace(evidence, **{kind: tuple(reports[index] for index in chosen)})
    _refused(changed, refusals.GpuBindingError)


@given(place=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_no_bit_of_a_machines_document_is_free(place: float) -> None:
    document, chains = _document()
    with pytest.raises(AttestationError):
        altered = parse_evidence(flipped(document, int(place * len(document) * 8)))
        verify(altered, policy_for(machine()), nonce=NONCE, now=NOW, chains=chains)


@cache
def _document() -> tuple[bytes, ChainCache]:
    return encode_evidence(_signed_machine()), ChainCache()


@cache
def _signed_machine() -> Evidence:
    return evidence_of(machine())


@pytest.mark.parametrize("pdi", [None, "doubled"])
def test_refused_gpus_that_cannot_be_told_apart(pdi: str | None) -> None:
    gpus, switches = _genuine_machine()
    gpus[0] = replace(gpus[0], pdi=pdi and gpus[1].pdi)
    with pytest.raises(refusals.TopologyError, match="7 GPUs and 4 switches are told apart"):
        check_topology(gpus, switches, allowed=HGX, log=CheckLog())


@pytest.mark.parametrize("doubled", ["gpus", "switches"])
def test_refused_machine_in_which_two_devices_share_an_identifier_although_all_links_agree(doubled: str) -> None:
    gpus = [bytes([1, number]) * 4 for number in range(8)]
    switches = [bytes([2, number]) * 4 for number in range(4)]
    (gpus if doubled == "gpus" else switches)[1] = (gpus if doubled == "gpus" else switches)[0]
    log = CheckLog()
    with pytest.raises(refusals.TopologyError, match="topology identifiers"):
        check_topology(
            [SimpleNamespace(pdi=pdi, switches=frozenset(switches)) for pdi in gpus],
            [SimpleNamespace(pdi=pdi, gpus=frozenset(gpus)) for pdi in switches],
            allowed=HGX,
            log=log,
        )


def test_refused_machine_where_no_topology_is_allowed_says_so() -> None:
    with pytest.raises(refusals.TopologyError, match=r"required: none: no topology is allowed$"):
        check_topology([], [], allowed=frozenset(), log=CheckLog())
