"""A sample of `make mutations`: no altered evidence is accepted, and only named refusals come out."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache

import pytest

from attestation import AppraisalPolicy, cbor
from attestation.appraisal import Result, appraise
from attestation.sim import mutate
from attestation.sim.intel import SimulatedIntel
from attestation.sim.nvidia import SimulatedNvidia
from attestation.sim.scenes import Scene, Stage
from attestation.sim.snp import SimulatedAmd
from attestation.sim.wrongs import REASONS
from attestation.simulate import Fault, SimulatedVendors
from tests.attestation import mutations
from tests.attestation.hosts import vendors
from tests.attestation.vendors import NOW


@cache
def stage() -> Stage:
    return Stage(vendors(), seed=7)


@cache
def honest() -> dict[str, Scene]:
    return {scene.name: scene for scene in stage().honest()}


def _appraise(scene: Scene, *, document: bytes | None = None, at: datetime | None = None) -> tuple[Result, str]:
    policy = AppraisalPolicy.from_yaml(json.dumps(scene.policy))
    found = appraise(document or scene.document, policy, nonce=scene.nonce, now=at or scene.at)
    return found.result, found.reason


def test_no_mutation_is_accepted_and_nothing_but_a_refusal_comes_out() -> None:
    stranger = SimulatedVendors(
        created=NOW, intel=SimulatedIntel.create(NOW), amd=SimulatedAmd.create(NOW), nvidia=SimulatedNvidia.create(NOW)
    )
    tally = mutations.run(
        mutations.SAMPLE, 7, stage=stage(), stranger=Stage(stranger, seed=9), processes=mutations.PROCESSES
    )
    assert tally.accepted == []
    assert tally.foreign == []
    assert tally.cases.total() > 2_500
    assert min(tally.cases[kind] for kind in ("bit flip", "certificate exchanged", "value exchanged")) > 10


@pytest.mark.parametrize("scene", honest().values(), ids=honest())
def test_an_honest_scene_holds(scene: Scene) -> None:
    assert scene.holds
    assert _appraise(scene) == (Result.HELD, "")


def test_every_fault_alone_is_refused_for_its_own_reason() -> None:
    assert set(REASONS) == set(Fault)
    scenes = {scene.name: scene for scene in stage().faults()}
    assert {fault for fault in Fault if any(name.endswith(f"-fault-{fault}") for name in scenes)} == set(Fault)
    for name, scene in scenes.items():
        assert scene.reason is not None
        assert _appraise(scene) == (Result.REFUSED, scene.reason.__name__), name


@pytest.mark.parametrize("scene", honest().values(), ids=honest())
def test_a_document_that_is_opened_and_closed_is_the_same(scene: Scene) -> None:
    assert mutate.close_document(mutate.open_document(scene.document)) == scene.document


@pytest.mark.parametrize("scene", honest().values(), ids=honest())
def test_the_walk_reaches_every_byte_string_and_text_of_the_document(scene: Scene) -> None:
    """Nothing is left out because its field is new: what the walk reaches makes up the whole document."""
    tree = mutate.open_document(scene.document)
    leaves = sum(len(value) for _, value in mutate.walk(tree) if isinstance(value, bytes | str))
    assert leaves > 0.4 * len(scene.document)  # PEM is half as long again as the certificates inside
    tops = {path[0] for path, _ in mutate.walk(tree) if path}
    assert tops == set(cbor.decode(scene.document))


def test_inside_its_validity_evidence_holds_and_one_second_outside_it_does_not() -> None:
    scene = honest()["snp"]
    edges = mutate.validity_edges(scene.document)
    assert len(edges) >= 3
    assert {_appraise(scene, at=edge)[0] for edge in edges} == {Result.REFUSED}


def test_mutations_of_the_same_document_and_seed_are_the_same() -> None:
    act = mutations.Act(scene=honest()["tdx"], siblings=(), strangers=())
    first, second = (list(mutations.mutations(act, mutations.SAMPLE, 3, number=1, of=8)) for _ in range(2))
    assert first == second
    assert len({mutation.document for mutation in first}) > 20
