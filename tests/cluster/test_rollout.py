from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, RolloutError
from cluster.model_book import ModelBook
from cluster.model_settings import ModelSettings, parse_models
from cluster.rollout import (
    RETIRE_S,
    Versions,
    begin,
    encode_versions,
    parse_versions,
    postpone,
    replicas_wanted,
    roll_back,
    step,
)
from tests.cluster.fleets import MODEL, NOW, active, fleet

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
FIRST = Versions(name="m", root=A)
LATER = NOW + timedelta(seconds=RETIRE_S)


def retiring():
    return step(begin(FIRST, B), {A: 3, B: 1}, now=NOW)


def test_leases_change_only_when_the_first_hosts_serve_the_new_root() -> None:
    begun = begin(FIRST, B, first=2)
    assert step(begun, {A: 3, B: 1}, now=NOW) == begun
    after = step(begun, {A: 3, B: 2}, now=NOW)
    assert (after.root, after.outgoing, after.incoming, after.before) == (B, A, None, A)


def test_the_old_root_stays_until_its_leases_ended() -> None:
    assert step(retiring(), {}, now=LATER - timedelta(seconds=1)).live == {A, B}
    assert step(retiring(), {}, now=LATER).live == {B}


def test_while_gateways_do_not_know_of_the_change_the_old_root_stays() -> None:
    later = postpone(retiring(), now=LATER)
    assert step(later, {}, now=LATER + timedelta(seconds=RETIRE_S - 1)).live == {A, B}
    assert postpone(FIRST, now=NOW) == FIRST


def test_rolling_back_while_the_old_root_retires_is_immediate_and_keeps_both() -> None:
    back = roll_back(retiring())
    assert back.live == {A, B}
    after = step(back, {A: 3, B: 1}, now=NOW)
    assert (after.root, after.outgoing) == (A, B)


def test_a_roll_back_that_is_taken_back_keeps_the_root_that_still_has_leases() -> None:
    again = roll_back(roll_back(retiring()))
    assert (again.root, again.outgoing, again.retire_at) == (B, A, LATER)


def test_rolling_back_before_the_switch_drops_the_new_root() -> None:
    assert roll_back(begin(FIRST, B)) == FIRST


def test_after_retirement_rolling_back_loads_the_old_root_first() -> None:
    back = roll_back(step(retiring(), {}, now=LATER))
    assert (back.root, back.incoming) == (B, A)


@pytest.mark.parametrize(
    ("versions", "root"),
    [
        pytest.param(FIRST, A, id="serves-already"),
        pytest.param(begin(FIRST, B), C, id="another-under-way"),
        pytest.param(retiring(), C, id="the-one-before-retires"),
    ],
)
def test_a_roll_out_that_cannot_begin_says_why(versions, root) -> None:
    with pytest.raises(RolloutError, match="model 'm': "):
        begin(versions, root)


def test_there_is_nothing_before_the_first_root() -> None:
    with pytest.raises(RolloutError, match="no root before"):
        roll_back(FIRST)


def test_asked_twice_a_roll_out_begins_once() -> None:
    assert begin(begin(FIRST, B), B) == begin(FIRST, B)


def test_the_old_root_gives_way_where_there_is_no_room_for_the_new_one_but_never_wholly() -> None:
    assert replicas_wanted(begin(FIRST, B), 3, {A: 3}, {}) == {A: 3, B: 1}
    assert replicas_wanted(begin(FIRST, B), 3, {A: 3}, {B: 1}) == {A: 2, B: 1}
    assert replicas_wanted(begin(FIRST, B), 1, {A: 1}, {B: 1}) == {A: 1, B: 1}
    assert replicas_wanted(retiring(), 3, {A: 2, B: 1}, {B: 2}) == {A: 1, B: 3}


@given(st.lists(st.tuples(st.sampled_from("bcr"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 900))))
def test_leases_are_always_for_a_root_that_serves_and_the_one_before_stays_as_long(orders) -> None:
    versions, now, left = FIRST, NOW, {}  # when leases were for another root than this for the first time
    for order, serving_b, serving_c, seconds in orders:
        try:
            versions = roll_back(versions) if order == "r" else begin(versions, B if order == "b" else C, first=2)
        except RolloutError:
            continue
        serving = {A: 2, B: serving_b, C: serving_c}
        after = step(versions, serving, now=now)
        if after.root != versions.root:
            assert serving[after.root] >= versions.first
            left[versions.root] = now
        versions = after
        for root, at in left.items():
            if root != versions.root and (now - at).total_seconds() < RETIRE_S:
                assert root in versions.live
        now += timedelta(seconds=seconds)


@pytest.mark.parametrize("versions", [FIRST, begin(FIRST, B, first=4), retiring()])
def test_the_book_gives_back_what_was_saved(tmp_path, versions) -> None:
    book = ModelBook(tmp_path / "models.json")
    assert book.load() == {}
    book.save({"m": versions})
    assert book.load() == {"m": versions}
    assert parse_versions(encode_versions(versions)) == versions


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "m"}]', '{"name": {}}'])
def test_a_damaged_book_is_an_error_and_not_an_empty_one(tmp_path, text) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    if text == "{}":
        assert ModelBook(path).load() == {}
        return
    with pytest.raises(ConfigError, match="roll out anew"):
        ModelBook(path).load()


def test_settings_of_models_are_read_strictly() -> None:
    settings = parse_models({"m": {"min": 2, "max": 5, "gpus": 4, "tier": "open", "retire_after_s": 60, "spare_s": 9}})[
        "m"
    ]
    assert (settings.limits.replicas_min, settings.limits.replicas_max, settings.gpus) == (2, 5, 4)
    assert settings.spare_s == 9
    assert settings.requirement(A).tier == "open"
    assert parse_models({"m": {}}) == {"m": ModelSettings()}
    for wrong in (
        7,
        {"m": 1},
        {"m": {"most": 1}},
        {"m": {"min": True}},
        {"m": {"min": 3, "max": 2}},
        {"m": {"tier": 1}},
    ):
        with pytest.raises(ConfigError):
            parse_models(wrong)
    with pytest.raises(ConfigError, match="requests are lost"):
        parse_models({"m": {"retire_after_s": 5}})


def test_a_name_means_the_preferred_of_its_roots() -> None:
    newer = replace(MODEL, root=B)
    both = replace(fleet(active("a")), models=(MODEL, newer))
    assert both.model(MODEL.name) == MODEL
    assert replace(both, preferred=frozenset({B})).model(MODEL.name) == newer
    assert replace(both, preferred=frozenset({B})).model(MODEL.root.hex()) == MODEL
