"""Cases any verifier can be scored with, and the score.

A case is one JSON object: evidence, policy, nonce and time, and what must come out. A verifier is a program that reads
a case on standard input and prints its outcome; layout and words in docs/CONFORMANCE.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from attestation.appraisal import appraise
from attestation.errors import PolicyError
from attestation.policy import AppraisalPolicy
from attestation.sim import mutate
from attestation.sim.scenes import Scene, Stage

FORMAT = "chrysalis conformance case 1"
CASE_SIZE_MAX = 4 << 20  # bytes of JSON
HELD, REFUSED = "held", "refused"
_FLIPS, _CUTS, _SPLICES, _FIELDS = 16, 6, 6, 40  # altered documents of each kind from each honest one


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to a verifier, with its answer.

    Attributes:
        id: unique, in words joined by hyphens.
        kind: sort of case, for the table.
        description: what is right or wrong with it.
        evidence: the document.
        policy: the policy file's content.
        nonce: 32 bytes the verifier sent.
        at: the time to judge at.
        expected: "held" or "refused".
        reason: code of the refusal; None when it is the verifier's choice.
    """

    id: str
    kind: str
    description: str
    evidence: bytes
    policy: dict[str, Any]
    nonce: bytes
    at: datetime
    expected: str
    reason: str | None

    def question(self) -> dict[str, object]:
        """Return what a verifier is told."""
        return {
            "format": FORMAT,
            "id": self.id,
            "evidence": base64.b64encode(self.evidence).decode(),
            "policy": self.policy,
            "nonce": self.nonce.hex(),
            "at": self.at.isoformat(),
        }

    def to_json(self) -> str:
        """Return the whole case, answer included."""
        told = {"kind": self.kind, "description": self.description}
        answer = {"expected": self.expected, "reason": self.reason}
        return json.dumps({**self.question(), **told, **answer}, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a verifier said: "held" or "refused" with a code; or "error" with the trouble in words."""

    outcome: str
    reason: str | None = None


def parse_case(text: str) -> Case:
    """Read a case, or the question alone: then `expected` is empty.

    Raises:
        ValueError: larger than 4 MiB, no case of this format, or a field that is none.
    """
    if len(text) > CASE_SIZE_MAX:
        raise ValueError(f"case of {len(text)} characters, at most {CASE_SIZE_MAX} are read")
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(f"want a JSON object with format {FORMAT!r}")
    try:
        return Case(
            id=str(fields["id"]),
            kind=str(fields.get("kind", "")),
            description=str(fields.get("description", "")),
            evidence=base64.b64decode(fields["evidence"], validate=True),
            policy=dict(fields["policy"]),
            nonce=bytes.fromhex(fields["nonce"]),
            at=datetime.fromisoformat(fields["at"]),
            expected=str(fields.get("expected", "")),
            reason=fields.get("reason"),
        )
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"case: {error!r}") from None


def reason_code(error: str) -> str:
    """Return a refusal's code: the words of its class name, "GuestPolicyError" is "guest-policy"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.removesuffix("Error")).lower()


def answer_case(case: Case) -> Answer:
    """Answer a case with the verifier of this package."""
    try:
        policy = AppraisalPolicy.from_yaml(json.dumps(case.policy))
        found = appraise(case.evidence, policy, nonce=case.nonce, now=case.at)
    except (PolicyError, ValueError) as error:
        return Answer(outcome="error", reason=str(error))
    return Answer(outcome=str(found.result), reason=reason_code(found.reason) or None)


def make_cases(stage: Stage) -> Iterator[Case]:
    """Return the kit: honest hosts, every fault alone, every device fault, other times and nonces, altered documents.

    Number, names and order follow from the code and the seed; keys and signatures differ from run to run.
    """
    honest = list(stage.honest())
    twins = {scene.name: scene for scene in Stage(stage.vendors, stage.seed + 1).honest()}
    for scene in honest:
        yield _case(scene, "honest host")
    for scene in stage.faults():
        yield _case(scene, "lying host")
    for scene in stage.device_faults():
        yield _case(scene, "device or vendor fault")
    for scene in honest:
        yield from _other_challenges(scene, twins[scene.name])
        if scene.name != "open":  # nobody signed what a host without a TEE says: altered, it is as good as before
            yield from _altered(scene, twins[scene.name], stage.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a verifier did.

    Attributes:
        cases: number of cases of each kind.
        wrong: id, expected and got, of each case with another outcome.
        other_reason: the same, where the outcome was right and the refusal's code another.
    """

    cases: Counter[str]
    wrong: tuple[tuple[Case, Answer], ...]
    other_reason: tuple[tuple[Case, Answer], ...]


def score(cases: Iterable[Case], verifier: Callable[[Case], Answer]) -> Score:
    """Ask a verifier every case."""
    kinds: Counter[str] = Counter()
    wrong, other_reason = [], []
    for case in cases:
        kinds[case.kind] += 1
        answer = verifier(case)
        if answer.outcome != case.expected:
            wrong.append((case, answer))
        elif case.reason is not None and answer.reason != case.reason:
            other_reason.append((case, answer))
    return Score(cases=kinds, wrong=tuple(wrong), other_reason=tuple(other_reason))


def _case(scene: Scene, kind: str) -> Case:
    return Case(
        id=scene.name,
        kind=kind,
        description=scene.description,
        evidence=scene.document,
        policy=scene.policy,
        nonce=scene.nonce,
        at=scene.at,
        expected=HELD if scene.holds else REFUSED,
        reason=reason_code(scene.reason.__name__) if scene.reason else None,
    )


def _refused(scene: Scene, number: int, kind: str, words: str, *, reason: str | None = None) -> Case:
    """The scene's case under another name, which must be refused; the caller puts in why."""
    name = f"{scene.name}-{kind.replace(' ', '-')}-{number}"
    return replace(_case(scene, kind), id=name, description=words, expected=REFUSED, reason=reason)


def _other_challenges(scene: Scene, twin: Scene) -> Iterator[Case]:
    for number, edge in enumerate(sorted(mutate.validity_edges(scene.document))):
        words = "judged one second outside the validity of something in it"
        yield replace(_refused(scene, number, "another time", words), at=edge)
    for bit in (0, 100, 255):
        nonce = bytearray(scene.nonce)
        nonce[bit // 8] ^= 1 << bit % 8
        words = f"bit {bit} of the nonce is another"
        yield replace(_refused(scene, bit, "another nonce", words, reason="freshness"), nonce=bytes(nonce))
    words = "evidence of another host, for other nonces"
    yield replace(_refused(scene, 0, "another host", words, reason="freshness"), evidence=twin.document)


def _altered(scene: Scene, twin: Scene, seed: int) -> Iterator[Case]:
    document = scene.document
    flips = mutate.flip_bits(document, start=seed % 101, step=8 * len(document) // _FLIPS)
    cuts = mutate.cut(document, start=seed % 101, step=len(document) // _CUTS)
    splices = mutate.splice(document, [twin.document], seed=seed, count=_SPLICES)
    step = 53 + 2 * (seed % 7)
    fields = mutate.change_fields(document, siblings=[twin.document], pool_max=20, start=seed % step, step=step)
    kinds = (("bit flip", flips, _FLIPS), ("cut", cuts, _CUTS), ("splice", splices, _SPLICES))
    for kind, found, most in (*kinds, ("field", fields, _FIELDS)):
        for number, one in enumerate(islice(found, most)):
            yield replace(_refused(scene, number, kind, f"{one.kind}: {one.place}"), evidence=one.document)
