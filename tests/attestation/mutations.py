"""Try to get altered evidence accepted: `python -m tests.attestation.mutations` does it in full (`make mutations`).

Every case is judged by the production verifier. What counts is that none is accepted and that nothing but a named
refusal comes out, warnings included. The suite runs a sample (test_mutations.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from random import Random

from attestation import AppraisalPolicy, AttestationError, parse_evidence, verify
from attestation.sim import mutate
from attestation.sim.scenes import Scene, Stage
from attestation.table import format_table
from tests.attestation.vendors import NOW

PROCESSES = 2
LARGE = 64 << 10  # bytes; a document so many times as large gets as many times fewer cases, each costs more
SLICES = 8  # pieces a large unit is cut into, so that the processes end together


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many cases of each kind: every case of a small document, every so many of a large one.

    Attributes:
        bits: bit flips of one document, at most.
        cuts: lengths one document is cut to, at most.
        splices: spliced documents.
        pool: values tried in one place of a document.
        field_step: only every so many field changes.
        nonce_step: only every so many bits of the nonce.
        pair_step: only every so many pairs of faults.
    """

    bits: int
    cuts: int
    splices: int
    pool: int
    field_step: int = 1
    nonce_step: int = 1
    pair_step: int = 1


FULL = Size(bits=70_000, cuts=2_000, splices=5_000, pool=200)
SAMPLE = Size(bits=160, cuts=32, splices=32, pool=20, field_step=41, nonce_step=37, pair_step=61)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An honest scene with the documents it may be mixed with."""

    scene: Scene
    siblings: tuple[bytes, ...]
    strangers: tuple[bytes, ...]


@dataclass(slots=True)
class Tally:
    """What came out."""

    cases: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.accepted += other.accepted
        self.foreign += other.foreign


def acts(stage: Stage, stranger: Stage) -> list[Act]:
    """Every honest scene with hardware in it; siblings are hosts of the same kind with other keys, strangers have
    other vendors. What a host without a TEE says is signed by nobody, so altered it is as good as before.
    """
    twins = {scene.name: scene.document for scene in Stage(stage.vendors, stage.seed + 1).honest()}
    foreign = {scene.name: scene.document for scene in stranger.honest()}
    return [
        Act(scene=scene, siblings=(twins[scene.name],), strangers=(foreign[scene.name],))
        for scene in stage.honest()
        if scene.name != "open"
    ]


def mutations(act: Act, size: Size, seed: int, *, number: int, of: int) -> Iterator[mutate.Mutation]:
    """The altered documents of one act, every `of`-th from `number` on; deterministic for its documents."""
    document = act.scene.document
    rng = Random(f"{seed} {act.scene.name}")
    share = 1 + len(document) // LARGE
    step = -(-8 * len(document) * share // size.bits)
    yield from mutate.flip_bits(document, start=rng.randrange(step) + number * step, step=of * step)
    step = -(-len(document) * share // size.cuts)
    yield from mutate.cut(document, start=rng.randrange(step) + number * step, step=of * step)
    donors = [*act.siblings, *act.strangers]
    yield from mutate.splice(document, donors, seed=seed * of + number, count=size.splices // of // share)
    yield from mutate.change_fields(
        document,
        siblings=act.siblings,
        strangers=act.strangers,
        pool_max=size.pool,
        start=rng.randrange(size.field_step) + number * size.field_step * share,
        step=of * size.field_step * share,
    )


@lru_cache(maxsize=512)
def _policy(text: str) -> AppraisalPolicy:
    return AppraisalPolicy.from_yaml(text)


def judge(tally: Tally, act: Scene, kind: str, place: str, **other: object) -> None:
    """Count one case."""
    case = {"document": act.document, "nonce": act.nonce, "now": act.at} | other
    policy = _policy(json.dumps(act.policy))
    tally.cases[kind] += 1
    try:
        verify(parse_evidence(case["document"]), policy, nonce=case["nonce"], now=case["now"])
        tally.accepted.append(f"{act.name}: {kind} {place}")
    except AttestationError:
        pass
    except Exception as error:
        tally.foreign.append(f"{act.name}: {kind} {place}: {error!r}")


def judge_slice(act: Act, size: Size, seed: int, number: int, of: int) -> Tally:
    """Judge every `of`-th altered document from `number` on."""
    tally = Tally()
    for one in mutations(act, size, seed, number=number, of=of):
        judge(tally, act.scene, one.kind, one.place, document=one.document)
    return tally


def judge_challenges(act: Act, size: Size) -> Tally:
    """The document itself, at other times, for other nonces, and under other policies."""
    tally, scene = Tally(), act.scene
    for edge in mutate.validity_edges(scene.document):
        judge(tally, scene, "time outside validity", edge.isoformat(), now=edge)
    for bit in range(0, 8 * len(scene.nonce), size.nonce_step):
        nonce = bytearray(scene.nonce)
        nonce[bit // 8] ^= 1 << bit % 8
        judge(tally, scene, "another nonce", f"bit {bit}", nonce=bytes(nonce))
    for document in (*act.siblings, *act.strangers):
        if document != scene.document:
            judge(tally, scene, "evidence of another host", "as it is", document=document)
    return tally


def judge_scenes(scenes: Iterable[Scene], kind: str) -> Tally:
    """Scenes in which a host lies, as they are."""
    tally = Tally()
    for scene in scenes:
        judge(tally, scene, kind, scene.name)
    return tally


_stage: list[tuple[list[Act], Size, int]] = []  # what forked workers find; filled before they start


def _work(unit: tuple[int, int]) -> Tally:
    warnings.simplefilter("error")
    (everyone, size, seed), (index, number) = _stage[0], unit
    return judge_slice(everyone[index], size, seed, number, SLICES)


def run(size: Size, seed: int, *, stage: Stage, stranger: Stage, processes: int) -> Tally:
    """Judge everything.

    Args:
        size: how much of it.
        seed: where strides begin and what splices take.
        stage: whose evidence is altered.
        stranger: other vendors.
        processes: how many judge at a time.
    """
    everyone = acts(stage, stranger)
    tally = judge_scenes(stage.faults(), "host fault")
    pairs = stage.fault_pairs(start=seed % size.pair_step, step=size.pair_step)
    tally.add(judge_scenes(pairs, "two host faults"))
    tally.add(judge_scenes(stage.device_faults(), "device or vendor fault"))
    for act in everyone:
        tally.add(judge_challenges(act, size))
    _stage[:] = [(everyone, size, seed)]
    units = [(index, number) for index in range(len(everyone)) for number in range(SLICES)]
    with get_context("fork").Pool(processes) as pool:
        for part in pool.imap_unordered(_work, units):
            tally.add(part)
    return tally


def report(tally: Tally) -> str:
    """The table: kind, cases, accepted, foreign exceptions."""
    rows = []
    for kind, count in sorted(tally.cases.items()):
        accepted = sum(f": {kind} " in line for line in tally.accepted)
        foreign = sum(f": {kind} " in line for line in tally.foreign)
        rows.append((kind, f"{count:,}", str(accepted), str(foreign)))
    total = (f"{tally.cases.total():,}", str(len(tally.accepted)), str(len(tally.foreign)))
    rows.append(("together", *total))
    return format_table(("kind", "cases", "accepted", "foreign exceptions"), rows, width=100)


def main() -> int:
    """Print the table; 1 if anything was accepted or anything but a refusal came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", action="store_true", help="the few that the test suite runs")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args()
    started = time.monotonic()
    stage, stranger = Stage.create(NOW, options.seed), Stage.create(NOW, options.seed + 2)
    size = SAMPLE if options.sample else FULL
    tally = run(size, options.seed, stage=stage, stranger=stranger, processes=options.processes)
    seconds = time.monotonic() - started
    print(report(tally))
    for line in [*tally.accepted, *tally.foreign][:50]:
        print(line)
    print(f"{tally.cases.total():,} cases in {seconds:.0f} s, {tally.cases.total() / seconds:,.0f} a second")
    return 1 if tally.accepted or tally.foreign else 0


if __name__ == "__main__":
    sys.exit(main())
