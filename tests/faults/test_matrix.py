"""A sample of the crash matrix; `make faults` runs all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.matrix import FAULTS, choose, run_case

WRITES = {
    "ledger begin",
    "ledger insert",
    "ledger commit",
    "outbox begin",
    "outbox insert",
    "outbox commit",
    "send",
    "sent",
}


@pytest.mark.parametrize("sender", ["highload", "vault"])
async def test_the_points_are_found_and_not_listed(tmp_path: Path, sender: str) -> None:
    _, points = await run_case(tmp_path, sender=sender, fault="none", deadly=-1)
    assert set(points) >= WRITES | {"ledger+outbox commit"}
    assert (sender == "vault") == ("rename" in points)
    assert points.count("send") == 2
    assert len(points) > 60
    assert set(choose(points, 1, fault="none")) == set(range(len(points)))
    under_faults = [list(choose(points, 20, fault=fault)) for fault in FAULTS if fault != "none"]
    assert min(map(len, under_faults)) >= 20
    assert set().union(*under_faults) == set(range(len(points)))


@pytest.mark.parametrize(
    ("sender", "fault", "kind", "place"),
    [
        pytest.param("highload", "none", "outbox commit", 2, id="highload-signed-not-written"),
        pytest.param("highload", "lose-answer", "sent", 0, id="highload-sent-answer-lost"),
        pytest.param("highload", "drop", "sent", 1, id="highload-lost-on-the-way"),
        pytest.param("highload", "none", "ledger commit", 4, id="highload-ledger"),
        pytest.param("highload", "duplicate", "ledger+outbox commit", -1, id="highload-paid-not-booked"),
        pytest.param("vault", "none", "rename", 0, id="vault-entitlements-not-in-place"),
        pytest.param("vault", "reject", "sent", 0, id="vault-refused"),
        pytest.param("vault", "delay", "outbox begin", -1, id="vault-late"),
        pytest.param("vault", "forge-state", "ledger begin", 2, id="vault-lied-to"),
    ],
)
async def test_killed_there_each_payee_is_paid_exactly_once(
    tmp_path: Path, sender: str, fault: str, kind: str, place: int
) -> None:
    _, points = await run_case(tmp_path / "whole", sender=sender, fault="none", deadly=-1)
    deadly = [i for i, name in enumerate(points) if name == kind][place]
    await run_case(tmp_path / "killed", sender=sender, fault=fault, deadly=deadly)
