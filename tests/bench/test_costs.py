"""docs/COSTS.md is what the command prints: no figure in it is older than the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.costs.page import measure

PAGE = Path(__file__).parents[2] / "docs" / "COSTS.md"


@pytest.mark.timeout(400)  # 5 s of work, on a machine that may be busy with more
def test_the_page_of_costs_is_what_is_measured() -> None:
    measured = measure()
    assert PAGE.read_text() == measured.text, "the costs changed: run make costs, and look at the difference"
    assert len(measured.asked) >= 15
