"""The `conformance` command: writes the cases into a folder, asks a verifier all of them, prints the score."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attestation.conformance import (
    CASE_SIZE_MAX,
    FORMAT,
    HELD,
    REFUSED,
    Answer,
    Case,
    Score,
    answer_case,
    make_cases,
    parse_case,
    score,
)
from attestation.sim.scenes import Stage
from attestation.table import format_table

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

ALL_RIGHT, SOME_WRONG, UNKNOWN = 0, 1, 2
JUDGED_AT = datetime(2026, 6, 1, 12, tzinfo=UTC)  # any time will do, as long as it is always the same
_ANSWER_MAX = 1 << 20
_TIMEOUT_S = 30.0


def add_parser(commands: Commands) -> None:
    """Add `conformance` to a command line."""
    parser = commands.add_parser("conformance", help="make cases for verifiers, or score a verifier with them")
    actions = parser.add_subparsers(required=True)
    make = actions.add_parser("make", help="write the cases into an empty or new folder")
    make.add_argument("folder", type=Path)
    make.add_argument("--seed", type=int, default=0, help="which bits, pieces and keys are taken")
    make.set_defaults(run=run_make)
    ask = actions.add_parser("run", help="ask a verifier every case and print its score")
    ask.add_argument("folder", type=Path)
    ask.add_argument("--verifier", help="program that reads a case on standard input; default: this verifier")
    ask.set_defaults(run=run_score)
    answer = actions.add_parser("answer", help="be such a program: one case on standard input")
    answer.set_defaults(run=run_answer)


def run_make(options: argparse.Namespace) -> int:
    """Write `index.json` and one file for each case."""
    folder: Path = options.folder
    if folder.exists() and any(folder.iterdir()):
        print(f"could not write: {folder} is not empty", file=sys.stderr)
        return UNKNOWN
    cases_folder = folder / "cases"
    cases_folder.mkdir(parents=True, exist_ok=True)
    index = []
    for case in make_cases(Stage.create(JUDGED_AT, options.seed)):
        name = f"cases/{case.id}.json"
        (folder / name).write_text(case.to_json())
        index.append({"id": case.id, "kind": case.kind, "expected": case.expected, "file": name})
    document = {"format": FORMAT, "seed": options.seed, "cases": index}
    (folder / "index.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(index)} cases in {folder}")
    return ALL_RIGHT


def run_score(options: argparse.Namespace) -> int:
    """Ask every case of the folder; 0 if every outcome was right."""
    try:
        verifier = _program(shlex.split(options.verifier)) if options.verifier else answer_case
        result = score(_read_cases(options.folder), verifier)
    except (OSError, ValueError) as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return UNKNOWN
    print(_report(result))
    return SOME_WRONG if result.wrong else ALL_RIGHT


def run_answer(_: argparse.Namespace) -> int:
    """Answer one case."""
    try:
        answer = answer_case(parse_case(sys.stdin.read(CASE_SIZE_MAX + 1)))
    except ValueError as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return UNKNOWN
    print(json.dumps({"outcome": answer.outcome, "reason": answer.reason}))
    return ALL_RIGHT


def _read_cases(folder: Path) -> Iterator[Case]:
    index = json.loads((folder / "index.json").read_text())
    if not isinstance(index, dict) or index.get("format") != FORMAT or not index.get("cases"):
        raise ValueError(f"{folder / 'index.json'} is no index of cases")
    for entry in index["cases"]:
        case = parse_case((folder / str(entry["file"])).read_text())
        if case.expected not in (HELD, REFUSED):
            raise ValueError(f"case {case.id} does not say what must come out")
        yield case


def _program(command: list[str]) -> Callable[[Case], Answer]:
    """Return a verifier that starts the program for each case; trouble is an answer of its own, and never right."""

    def ask(case: Case) -> Answer:
        question = json.dumps(case.question())
        try:
            done = subprocess.run(
                command, input=question, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
            said = json.loads(done.stdout[:_ANSWER_MAX])
            outcome, reason = said["outcome"], said.get("reason")
        except subprocess.TimeoutExpired:
            return Answer(outcome="error", reason=f"no answer within {_TIMEOUT_S:.0f} s")
        except (ValueError, TypeError, KeyError, AttributeError):
            return Answer(outcome="error", reason="printed no JSON object with an outcome")
        if outcome not in (HELD, REFUSED):
            return Answer(outcome="error", reason=f"outcome {outcome!r}"[:80])
        return Answer(outcome=outcome, reason=str(reason) if reason is not None else None)

    return ask


def _report(result: Score) -> str:
    rows = []
    for kind, count in result.cases.items():
        wrong = sum(case.kind == kind for case, _ in result.wrong)
        other = sum(case.kind == kind for case, _ in result.other_reason)
        rows.append((kind, str(count), str(count - wrong), str(wrong), str(other)))
    total, wrong = result.cases.total(), len(result.wrong)
    rows.append(("together", str(total), str(total - wrong), str(wrong), str(len(result.other_reason))))
    width = shutil.get_terminal_size((120, 24)).columns
    head = ("kind", "cases", "right", "wrong", "right, other reason")
    lines = [format_table(head, rows, width=width)]
    for case, answer in result.wrong:
        said = f"{answer.outcome} ({answer.reason!a})"
        lines.append(f"WRONG {case.id}: want {case.expected}, got {said}: {case.description}")
    for case, answer in result.other_reason:
        lines.append(f"other reason {case.id}: want {case.reason}, got {answer.reason!a}")
    return "\n".join(lines)
