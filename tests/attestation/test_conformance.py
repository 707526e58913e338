"""The conformance kit: our verifier is right on every case, and a verifier that is wrong is found out."""

from __future__ import annotations

import json
import sys
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from attestation.__main__ import main
from attestation.conformance import (
    CASE_SIZE_MAX,
    HELD,
    REFUSED,
    Answer,
    Case,
    answer_case,
    make_cases,
    parse_case,
    reason_code,
    score,
)
from attestation.sim.scenes import Stage
from tests.attestation.hosts import vendors

ALWAYS_YES = "import sys, json; sys.stdin.read(); print(json.dumps({'outcome': 'held'}))"


@cache
def cases() -> tuple[Case, ...]:
    return tuple(make_cases(Stage(vendors(), seed=5)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases of the kit: an honest host, a liar, and bytes with a bit flipped."""
    kit = tmp_path / "kit"
    (kit / "cases").mkdir(parents=True)
    chosen = [next(case for case in cases() if case.kind == kind) for kind in ("honest host", "lying host", "bit flip")]
    for case in chosen:
        (kit / "cases" / f"{case.id}.json").write_text(case.to_json())
    index = [{"id": case.id, "file": f"cases/{case.id}.json"} for case in chosen]
    (kit / "index.json").write_text(json.dumps({"format": "chrysalis conformance case 1", "cases": index}))
    return kit


def _script(tmp_path: Path, text: str) -> str:
    (tmp_path / "verifier.py").write_text(text)
    return f"{sys.executable} {tmp_path / 'verifier.py'}"


def test_this_verifier_is_right_on_every_case_and_for_the_reason_named() -> None:
    result = score(cases(), answer_case)
    assert [case.id for case, _ in result.wrong] == []
    assert [(case.id, answer.reason) for case, answer in result.other_reason] == []
    assert result.cases.total() > 500
    assert min(result.cases.values()) >= 10


def test_ids_are_unique_and_follow_from_the_seed() -> None:
    again = [case.id for case in make_cases(Stage(vendors(), seed=5))]
    assert [case.id for case in cases()] == again
    assert len(set(again)) == len(again)


@pytest.mark.parametrize("outcome", [HELD, REFUSED])
def test_a_verifier_that_always_says_the_same_is_found_out(outcome: str) -> None:
    result = score(cases(), lambda case: Answer(outcome=outcome))
    assert {case.expected for case, _ in result.wrong} == {HELD, REFUSED} - {outcome}


def test_a_right_outcome_for_another_reason_is_told_apart() -> None:
    liar = next(case for case in cases() if case.reason)
    result = score([liar], lambda case: Answer(outcome=REFUSED, reason="another"))
    assert (result.wrong, len(result.other_reason)) == ((), 1)


def test_a_case_is_read_back() -> None:
    for case in cases()[:50]:
        assert parse_case(case.to_json()) == case


def test_a_question_does_not_tell_the_answer() -> None:
    assert {"expected", "reason", "kind", "description"}.isdisjoint(cases()[0].question())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "another"}', '{"format": "chrysalis conformance case 1"}', "x" * (CASE_SIZE_MAX + 1)],
)
def test_a_file_that_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_case(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [("evidence", "?"), ("evidence", 7), ("nonce", "xx"), ("at", "never"), ("policy", None), ("id", ...)],
)
def test_a_case_with_a_field_that_is_none_is_refused(field: str, value: object) -> None:
    fields = json.loads(cases()[0].to_json()) | {field: value}
    if value is ...:
        del fields[field]
    with pytest.raises(ValueError):
        parse_case(json.dumps(fields))


@pytest.mark.parametrize(("name", "code"), [("GuestPolicyError", "guest-policy"), ("TierError", "tier"), ("", "")])
def test_a_reason_code_is_the_words_of_the_refusal(name: str, code: str) -> None:
    assert reason_code(name) == code


def test_our_verifier_scores_full_marks_from_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "run", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["together", "3", "3", "0", "0"]


def test_our_verifier_is_a_program_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{sys.executable} -m attestation conformance answer"
    assert main(["conformance", "run", str(folder), "--verifier", command]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["together", "3", "3", "0", "0"]


@pytest.mark.parametrize(
    ("text", "words", "wrong"),
    [
        pytest.param(ALWAYS_YES, "got held", 2, id="always-yes"),
        pytest.param("print('held')", "no JSON object", 3, id="words"),
        pytest.param("print('[]')", "no JSON object", 3, id="list"),
        pytest.param("raise SystemExit(1)", "no JSON object", 3, id="nothing"),
        pytest.param('print(\'{"outcome": "maybe"}\')', "maybe", 3, id="another-word"),
    ],
)
def test_a_program_that_is_wrong_is_scored_wrong(
    folder: Path, tmp_path: Path, text: str, words: str, wrong: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", "run", str(folder), "--verifier", _script(tmp_path, text)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("WRONG") == wrong
    assert words in printed


def test_a_folder_without_cases_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "run", str(tmp_path)]) == 2
    assert "could not tell" in capsys.readouterr().err


def test_an_index_of_nothing_exits_2_and_not_0(folder: Path) -> None:
    (folder / "index.json").write_text('{"format": "chrysalis conformance case 1", "cases": []}')
    assert main(["conformance", "run", str(folder)]) == 2


def test_cases_are_never_written_over_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    assert main(["conformance", "make", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_kit_is_written_and_holds_what_its_index_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stage, "create", lambda now, seed: Stage(vendors(), seed))
    assert main(["conformance", "make", str(tmp_path / "kit"), "--seed=5"]) == 0
    index = json.loads((tmp_path / "kit" / "index.json").read_text())
    assert [entry["id"] for entry in index["cases"]] == [case.id for case in cases()]
    assert all((tmp_path / "kit" / entry["file"]).is_file() for entry in index["cases"])
    assert f"{len(cases())} cases" in capsys.readouterr().out


def test_a_question_that_is_none_exits_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("{}"))
    assert main(["conformance", "answer"]) == 2
    assert "could not tell" in capsys.readouterr().err


def test_a_policy_nobody_can_use_is_no_refusal() -> None:
    case = parse_case(json.dumps({**json.loads(cases()[0].to_json()), "policy": {"nonsense": 1}}))
    assert answer_case(case).outcome == "error"
