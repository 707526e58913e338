"""Floors: what was seen once is never believed older, also after a restart."""

from __future__ import annotations

import pickle
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import Evidence, Verdict, verify
from attestation import errors as refusals
from attestation.collateral_marks import crl_mark
from attestation.errors import FloorFileError, MalformedEvidenceError
from attestation.floor_store import FloorStore
from attestation.floors import MARKS_MAX, Floors, Mark, encode_floors, parse_floors
from attestation.sim.collateral import CollateralFaults
from attestation.verdict import CheckLog
from attestation.verify import check_recording
from tests.attestation.hosts import NONCE, SNP_CPU, TDX_CPU, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW, flipped

LATER = NOW + timedelta(days=5)
MARKS = st.builds(
    Mark,
    series=st.sampled_from(["a", "b", "c"]),
    number=st.integers(0, 1 << 64 - 1),
    issued=st.integers(0, 1 << 33).map(lambda second: datetime.fromtimestamp(second, UTC)),
)
FLOORS = st.lists(MARKS, max_size=6).map(Floors.of)


def _mark(number: int = 5, days: int = 0, series: str = "a") -> Mark:
    return Mark(series=series, number=number, issued=NOW + timedelta(days=days))


def _check(floors: Floors, *seen: Mark, lag_max_s: int = 0) -> None:
    floors.check(Floors.of(seen), lag_max_s=lag_max_s, log=CheckLog())


def _appraise(evidence: Evidence, floors: Floors | None, *, lag_max_s: int = 86400) -> Verdict:
    policy = policy_for(host(TDX_CPU), collateral_lag_max_s=lag_max_s)
    return verify(evidence, policy, nonce=NONCE, now=LATER, floors=floors)


def _fetched(at: datetime, **faults: object) -> Evidence:
    """Evidence of one host with collateral published at a time."""
    return evidence_of(vendors().refresh(host(TDX_CPU), now=at, faults=CollateralFaults(**faults)))


@pytest.mark.parametrize("seen", [_mark(), _mark(6), _mark(5, 1), _mark(1, -9, "unseen")])
def test_what_is_as_new_as_before_holds(seen: Mark) -> None:
    _check(Floors.of([_mark()]), seen)


@pytest.mark.parametrize("seen", [_mark(4), _mark(4, 9), _mark(5, -1), _mark(9, -1)])
def test_what_is_older_in_number_or_date_is_refused(seen: Mark) -> None:
    with pytest.raises(refusals.EndorsementRollbackError, match=r"a \d of"):
        _check(Floors.of([_mark()]), seen)


def test_a_date_may_lag_as_much_as_the_policy_says_and_a_number_never() -> None:
    floors = Floors.of([_mark()])
    _check(floors, _mark(5, -1), lag_max_s=86400)
    with pytest.raises(refusals.EndorsementRollbackError):
        _check(floors, _mark(5, -1), lag_max_s=86399)
    with pytest.raises(refusals.EndorsementRollbackError):
        _check(floors, _mark(4), lag_max_s=10**9)


@given(FLOORS, FLOORS, FLOORS)
def test_floors_only_rise_and_in_any_order_to_the_same(one: Floors, two: Floors, three: Floors) -> None:
    both = one.raised_by(two)
    assert both == two.raised_by(one)
    assert both.raised_by(three) == one.raised_by(two.raised_by(three))
    assert both.raised_by(one) == both.raised_by(both) == both
    _check(one, *both.marks)  # whatever was raised to passes what was before


@given(FLOORS)
def test_floors_have_one_encoding(floors: Floors) -> None:
    data = encode_floors(floors)
    assert parse_floors(data) == floors
    assert encode_floors(parse_floors(data)) == data
    assert pickle.loads(pickle.dumps(floors)) == floors


@settings(max_examples=200)
@given(st.integers(0, 10_000))
def test_one_flipped_bit_in_the_encoding_is_refused(bit: int) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_floors(flipped(encode_floors(Floors.of([_mark(), _mark(7, series="b")])), bit))


@given(st.binary(max_size=200))
def test_the_parser_raises_only_its_error(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_floors(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"series": ""},
        {"series": "x" * 257},
        {"number": -1},
        {"number": 1 << 64},
        {"issued": NOW.replace(tzinfo=None)},
        {"issued": NOW.replace(microsecond=1)},
        {"issued": datetime(1969, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_mark_that_is_none_is_a_mistake(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="want"):
        replace(_mark(), **fields)


@pytest.mark.parametrize("series", [["b", "a"], ["a", "a"], [f"{number:05}" for number in range(MARKS_MAX + 1)]])
def test_floors_out_of_order_doubled_or_without_end_are_a_mistake(series: list[str]) -> None:
    with pytest.raises(ValueError, match="sorted"):
        Floors(marks=tuple(_mark(series=name) for name in series))


def test_a_verdict_carries_the_marks_of_all_four_lists() -> None:
    verdict = _appraise(_fetched(LATER, crl_number=8), Floors())
    names = [mark.series.removeprefix(f"intel/{vendors().intel.root.hex()}/") for mark in verdict.marks.marks]
    assert [name.split("/")[0] for name in names] == ["crl", "crl", "tdx", "tdx"]
    assert "tdx/tcb-info/50c06f000000" in names
    assert sorted(mark.number for mark in verdict.marks.marks) == [8, 8, 17, 17]
    assert {mark.issued for mark in verdict.marks.marks} == {LATER - timedelta(hours=1)}


@pytest.mark.parametrize(
    ("old", "newer"),
    [
        pytest.param({}, {"evaluation": 18}, id="tcb-evaluation-number"),
        pytest.param({}, {"crl_number": 2}, id="revocation-list-number"),
        pytest.param({"age": timedelta(days=4)}, {}, id="date-alone"),
    ],
)
def test_valid_collateral_older_than_what_was_seen_is_refused(old: dict[str, object], newer: dict[str, object]) -> None:
    stale, fresh = _fetched(LATER, **old), _fetched(LATER, **newer)
    assert _appraise(stale, None)
    assert _appraise(stale, Floors())
    seen = _appraise(fresh, Floors()).marks
    assert _appraise(fresh, seen)
    with pytest.raises(refusals.EndorsementRollbackError) as caught:
        _appraise(stale, seen)
    assert caught.value.checks[-1].name == "endorsements not rolled back"


def test_a_recovery_is_not_undone_by_the_collateral_from_before_it() -> None:
    before, after = _fetched(LATER), _fetched(LATER, evaluation=18, tcb_status="OutOfDate")
    with pytest.raises(refusals.TcbStatusError):
        _appraise(after, Floors())
    neighbour = vendors().refresh(host(TDX_CPU), now=LATER, faults=CollateralFaults(evaluation=18))
    seen = _appraise(evidence_of(neighbour), Floors()).marks
    with pytest.raises(refusals.EndorsementRollbackError):
        _appraise(before, seen)


def test_hosts_that_fetched_within_a_day_of_each_other_both_hold() -> None:
    seen = _appraise(_fetched(LATER), Floors()).marks
    yesterday = _fetched(LATER, age=timedelta(hours=23))
    assert _appraise(yesterday, seen)
    with pytest.raises(refusals.EndorsementRollbackError):
        _appraise(yesterday, seen, lag_max_s=3600)


def test_another_vendors_lists_do_not_count() -> None:
    theirs = Floors.of([_mark(10**6, 300, "intel/00/tdx/tcb-info/50c06f000000")])
    assert _appraise(_fetched(LATER), theirs)


def test_a_revocation_list_of_amd_is_remembered_too() -> None:
    evidence, policy = evidence_of(host(SNP_CPU)), policy_for(host(SNP_CPU))
    seen = verify(evidence, policy, nonce=NONCE, now=NOW, floors=Floors()).marks
    assert [mark.series for mark in seen.marks] == [f"amd/{vendors().amd.root.hex()}/crl"]
    newer = Floors.of(replace(mark, issued=mark.issued + timedelta(days=2)) for mark in seen.marks)
    with pytest.raises(refusals.EndorsementRollbackError):
        verify(evidence, policy, nonce=NONCE, now=NOW, floors=newer)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_garbage_in_place_of_a_revocation_list_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        crl_mark("x", data)


def test_a_store_remembers_over_a_restart(tmp_path: Path) -> None:
    store = FloorStore(tmp_path / "floors")
    assert store.floors == Floors()
    store.raise_by(_appraise(_fetched(LATER, evaluation=18), store.floors).marks)
    again = FloorStore(tmp_path / "floors")
    assert again.floors == store.floors != Floors()
    assert stat.S_IMODE((tmp_path / "floors").stat().st_mode) == 0o600
    with pytest.raises(refusals.EndorsementRollbackError):
        _appraise(_fetched(LATER), again.floors)


def test_a_store_never_goes_down(tmp_path: Path) -> None:
    store = FloorStore(tmp_path / "floors")
    store.raise_by(Floors.of([_mark(9, 9)]))
    before = (tmp_path / "floors").read_bytes()
    store.raise_by(Floors.of([_mark(1)]))
    assert (tmp_path / "floors").read_bytes() == before
    store.raise_by(Floors.of([_mark(1, series="other")]))
    assert FloorStore(tmp_path / "floors").floors == Floors.of([_mark(9, 9), _mark(1, series="other")])


@pytest.mark.parametrize("keep", [0, 1, 32, 50])
def test_a_store_that_is_cut_off_is_refused_and_not_forgotten(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "floors"
    FloorStore(path).raise_by(Floors.of([_mark()]))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FloorFileError, match="damaged"):
        FloorStore(path)


def test_a_store_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "floors"
    FloorStore(path).raise_by(Floors.of([_mark()]))
    path.chmod(0o666)
    with pytest.raises(FloorFileError, match="others"):
        FloorStore(path)


def test_a_folder_in_place_of_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FloorFileError):
        FloorStore(tmp_path)


def test_a_write_that_was_interrupted_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "floors"
    store = FloorStore(path)
    store.raise_by(Floors.of([_mark()]))
    path.with_name("floors.new").write_bytes(b"half of it")
    assert FloorStore(path).floors == Floors.of([_mark()])
    store.raise_by(Floors.of([_mark(6)]))
    assert FloorStore(path).floors == Floors.of([_mark(6)])
    assert [file.name for file in tmp_path.iterdir()] == ["floors"]


def test_a_recording_is_refused_below_the_floors_too() -> None:
    floors = _appraise(_fetched(LATER, crl_number=5), None).marks
    policy = policy_for(host(TDX_CPU))
    check_recording(_fetched(LATER, crl_number=5), policy, now=LATER, floors=floors)
    with pytest.raises(refusals.EndorsementRollbackError):
        check_recording(_fetched(LATER, crl_number=4), policy, now=LATER, floors=floors)
