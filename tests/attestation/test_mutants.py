"""The sample that mutation testing takes is the same for the same seed, and its interval holds what it should."""

from __future__ import annotations

import random

import pytest

from tests.attestation.mutants import Tally, draw, estimate

MUTANTS = {"small": [f"s{n}" for n in range(20)], "large": [f"l{n}" for n in range(500)]}


def test_each_module_is_asked_as_hard_and_the_same_mutants_are_drawn_again() -> None:
    drawn = draw(MUTANTS, 60, seed=1)
    assert len(drawn) == len(set(drawn)) == 80
    assert set(MUTANTS["small"]) < set(drawn)
    assert drawn == draw({name: names[::-1] for name, names in MUTANTS.items()}, 60, seed=1)
    assert drawn != draw(MUTANTS, 60, seed=2)


def test_a_module_counts_by_its_size_and_a_whole_run_leaves_no_doubt() -> None:
    whole = [Tally(total=20, run=20, killed=10), Tally(total=180, run=180, killed=180)]
    assert estimate(whole) == pytest.approx((0.95, 0.95, 0.95))
    share, low, high = estimate([Tally(total=20, run=20, killed=10), Tally(total=180, run=60, killed=60)])
    assert share == pytest.approx(0.95)
    assert 0.9 < low < share < high <= 1


def test_the_interval_holds_the_truth_some_95_times_in_100() -> None:
    chance = random.Random(7)
    truth = [[*([1] * 95), *([0] * 5)], [*([1] * 270), *([0] * 30)], [1] * 120]
    share = sum(map(sum, truth)) / sum(map(len, truth))
    held = 0
    for _ in range(400):
        tallies = [Tally(total=len(one), run=60, killed=sum(chance.sample(one, 60))) for one in truth]
        _, low, high = estimate(tallies)
        held += low <= share <= high
    assert held >= 370
