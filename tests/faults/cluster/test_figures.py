"""The figures of a fault, from notes that are written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.cluster.figures import Asked, Outcome, Window, all_ended, effect_of, read_asked, table

WINDOW = Window(fault="fault", began=100.0, whole=108.0, ended=120.0)


def answered(sent: float, *failures: float, took: float = 0.1, number: int = 0) -> Asked:
    ended = max((sent, *failures)) + took
    return Asked(
        number=number, sent=sent, ended=ended, outcome=Outcome.ANSWERED, failures=failures, code="x" if failures else ""
    )


def steady(begin: float, end: float) -> list[Asked]:
    return [answered(begin + step * 0.5) for step in range(int((end - begin) * 2))]


def test_a_fault_that_nobody_notices_needs_no_recovery() -> None:
    effect = effect_of(WINDOW, steady(90, 125))
    assert (effect.recovery_s, effect.lost, effect.cut, effect.again, effect.codes) == (0, 0, 0, 0, {})
    assert effect.silence_s == pytest.approx(0.5)
    assert effect.whole_s == 8


def test_recovery_lasts_until_the_first_answer_after_the_last_failure() -> None:
    effect = effect_of(WINDOW, [*steady(90, 125), answered(101.2, 103.0, took=1.0)])
    assert effect.recovery_s == pytest.approx(3.1)
    assert (effect.again, effect.codes) == (1, {"x": 1})


def test_a_silence_is_an_outage_although_nothing_fails() -> None:
    effect = effect_of(WINDOW, [*steady(90, 101), *steady(106, 125)])
    assert effect.recovery_s == pytest.approx(6.1)
    assert effect.silence_s == pytest.approx(5.5)


def test_no_answer_until_the_end_is_told_as_the_whole_window() -> None:
    effect = effect_of(WINDOW, steady(90, 101))
    assert effect.recovery_s == effect_of(WINDOW, []).recovery_s == 20


def test_requests_of_other_times_do_not_count() -> None:
    cut = Asked(number=0, sent=99.0, ended=100.5, outcome=Outcome.CUT, failures=(100.5,), code="worker_lost")
    before = Asked(number=0, sent=98.0, ended=99.5, outcome=Outcome.LOST, failures=(99.5,), code="x")
    after = Asked(number=0, sent=120.5, ended=121.0, outcome=Outcome.LOST, failures=(121.0,), code="x")
    effect = effect_of(WINDOW, [*steady(100, 120), cut, before, after])
    assert (effect.cut, effect.lost, effect.codes) == (1, 0, {"worker_lost": 1})


def test_a_request_that_has_no_end_yet_is_missed() -> None:
    notes = [answered(float(number), number=number) for number in range(5)]
    assert all_ended(notes, 3.0)
    assert not all_ended([note for note in notes if note.number != 1], 3.0)
    assert not all_ended(notes[:3], 3.0), "another one may have been sent before 3.0"


def test_the_notes_of_a_load_are_read_up_to_a_line_that_is_still_being_written(tmp_path: Path) -> None:
    asked = answered(1.0, 2.0)
    (tmp_path / "notes").write_text(json.dumps(asked.to_json()) + '\n{"sent": 1')
    assert read_asked(tmp_path / "notes") == [asked]


def test_the_table_adds_counts_and_shows_the_worst_time() -> None:
    one = effect_of(WINDOW, steady(90, 125))
    other = effect_of(WINDOW, [*steady(90, 101), *steady(106, 125)])
    line = table([one, other]).splitlines()[-1]
    assert line.startswith("| fault | 2 | 3.0 s (most 6.1) |")
    assert f"| {one.answered + other.answered} |" in line
