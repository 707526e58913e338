"""What the verifier says, word for word: `words.txt`, written by `python -m tests.attestation.words > FILE`.

Every check of every honest scene, the check that refuses each lie, and what the verdicts hold. Digests stand as their
length in bytes, long numbers as such, so that the page is the same whatever keys were drawn.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

from attestation import AppraisalPolicy, parse_evidence
from attestation.appraisal import appraise
from attestation.sim.scenes import Scene, Stage
from attestation.verify import check_recording
from tests.attestation.hosts import vendors


def lines(stage: Stage) -> Iterator[str]:
    """The page, each line once."""
    said: set[str] = set()
    for line in _all_lines(stage):
        plain = _without_what_differs(line)
        if plain not in said or plain.startswith("=="):
            said.add(plain)
            yield plain


def _without_what_differs(line: str) -> str:
    numbers = re.sub(r"(?<=serial )[0-9a-f]+|(?<=VCEK )[0-9]+|(?<=UnixTime.)[0-9]+", "<number>", line)
    return re.sub(r"\b[0-9a-f]{8,}\b", _length, numbers)


def _length(match: re.Match[str]) -> str:
    return f"<{len(match[0]) / 2:g} bytes>"


def _all_lines(stage: Stage) -> Iterator[str]:
    for scene in stage.honest():
        yield f"== {scene.name}"
        yield from _appraised(scene)
    yield "== recording"
    yield from _recorded(next(stage.honest()))
    for scene in (*stage.faults(), *stage.device_faults()):
        yield f"== {scene.name}"
        *_, refusal, advice = _appraised(scene)
        yield refusal
        yield advice


def _appraised(scene: Scene) -> Iterator[str]:
    found = appraise(scene.document, _policy(scene), nonce=scene.nonce, now=scene.at)
    for check in found.checks:
        yield f"{check.outcome}: {check.name} | {check.seen} | {check.required}"
    yield f"{found.result} {found.reason}: {found.advice}"
    if found.verdict:
        claims = found.verdict.to_dict()
        del claims["checks"]
        yield from (f"verdict: {name} = {json.dumps(value)}" for name, value in claims.items())


def _recorded(scene: Scene) -> Iterator[str]:
    for check in check_recording(parse_evidence(scene.document), _policy(scene), now=scene.at):
        yield f"{check.outcome}: {check.name} | {check.seen} | {check.required}"


def _policy(scene: Scene) -> AppraisalPolicy:
    return AppraisalPolicy.from_yaml(json.dumps(scene.policy))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines(Stage(vendors(), seed=1)))
