"""Results are kept line by line, and the page says what they say."""

from __future__ import annotations

from pathlib import Path

from tests.faults.cluster.audit import Audit
from tests.faults.cluster.figures import Effect
from tests.faults.cluster.page import page_text
from tests.faults.cluster.results import Books, Measured, Unwell, append, read

AUDIT = Audit(verified=9, paid=10, unpaid=0, twice=0, unlike=0, unseen=1)


def measured(fault: str, recovery_s: float, *, lost: int = 0, rate: float = 10) -> Measured:
    effect = Effect(
        fault=fault,
        recovery_s=recovery_s,
        silence_s=0.5,
        whole_s=3,
        answered=40,
        again=1,
        cut=0,
        lost=lost,
        codes={},
        load=7,
    )
    return Measured(effect=effect, rate=rate, hosts=2, machine="a machine")


FOUND = [
    measured("replica killed", 1.5),
    measured("replica killed", 11.5, lost=2),
    measured("host without power", 3.0, rate=50),
    Unwell(fault="GCS killed", why="it stayed away"),
    Books(audit=AUDIT, imbalance=0, faults=3, released=1),
]


def test_results_are_read_as_they_were_kept_up_to_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results"
    for result in FOUND:
        append(path, result)
    with path.open("a") as out:
        out.write('{"kind": "Meas')
    assert read([path, tmp_path / "missing"]) == FOUND


def test_the_page_has_a_row_for_each_fault_and_rate_and_says_what_was_not_measured_and_what_broke() -> None:
    page = page_text(FOUND)
    assert "| replica killed | 2 | 6.5 s (most 11.5) |" in page
    assert "10 sealed requests a second, 2 hosts" in page and "50 sealed requests a second, 2 hosts" in page
    assert "GCS killed: it stayed away" in page
    assert "enclave killed" in page.partition("Not measured: ")[2]
    assert "after 3 faults: 9 receipts verified by the client, 10 paid; unpaid 0" in page


def test_a_target_is_held_only_when_every_time_held_it() -> None:
    page = page_text(FOUND)
    assert "replica killed: answers after 10 s at most: **not held** (2 times, most 11.5 s" in page
    assert "host without power: answers after 15 s at most: held (1 times, most 3.0 s, at up to 50" in page
