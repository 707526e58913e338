"""Entries: one encoding each, and what they come to."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import MalformedEvidenceError, NotInLogError, RevokedError
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.snp_policy import SnpTcb, SnpTcbFloor
from attestation.transparency.entries import (
    ENTRY_SIZE_MAX,
    Allow,
    AmdFloor,
    Entry,
    IntelFloor,
    Revoke,
    What,
    describe,
    encode_entry,
    frame,
    parse_entry,
    unframe,
)
from attestation.transparency.logged import fold
from tests.attestation.transparency.logs import AT, EVERY_KIND, TCB, allow, deny, revoke, value

REFERENCE = ReferenceValues(
    measurements=frozenset({value("image")}), rims=frozenset({value("rim")}), models=frozenset({value("model")})
)


@pytest.mark.parametrize("entry", EVERY_KIND, ids=lambda entry: type(entry).__name__)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert parse_entry(encode_entry(entry)) == entry
    assert describe(entry).isprintable()


GOOD = {"v": 1, "kind": "measurement", "at": AT, "value": bytes(32), "label": "image"}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(GOOD | {"v": 2}, id="another-version"),
        pytest.param(GOOD | {"v": True}, id="a-version-that-equals-one"),
        pytest.param(GOOD | {"kind": "wish"}, id="an-unknown-kind"),
        pytest.param(GOOD | {"kind": "platform"}, id="a-platform-allowed-by-name"),
        pytest.param(GOOD | {"more": 1}, id="an-unknown-field"),
        pytest.param({name: item for name, item in GOOD.items() if name != "at"}, id="no-time"),
        pytest.param(GOOD | {"at": True}, id="a-time-that-is-a-truth"),
        pytest.param(GOOD | {"at": 1 << 63}, id="a-time-without-end"),
        pytest.param(GOOD | {"value": bytes(31)}, id="a-short-value"),
        pytest.param(GOOD | {"label": ""}, id="no-label"),
        pytest.param(GOOD | {"label": "two\nlines"}, id="a-label-of-two-lines"),
        pytest.param(GOOD | {"label": "x" * 201}, id="a-long-label"),
        pytest.param([1, 2], id="no-map"),
        pytest.param({"v": 1, "kind": "revoke", "at": AT, "index": 1 << 16, "reason": "r"}, id="an-index-beyond"),
        pytest.param({"v": 1, "kind": "deny", "at": AT, "what": "x", "value": bytes(32), "reason": "r"}, id="denied-x"),
        pytest.param(
            {"v": 1, "kind": "tcb-floor", "vendor": "amd", "at": AT, "product": "rome", "tcb": [0] * 5}, id="rome"
        ),
        pytest.param(
            {"v": 1, "kind": "tcb-floor", "vendor": "amd", "at": AT, "product": "milan", "tcb": [0, 0, 0, 256, 0]},
            id="a-version-of-two-bytes",
        ),
    ],
)
def test_an_entry_of_another_form_is_refused(document: cbor.Value) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_entry(cbor.encode(document))


def test_an_entry_larger_than_a_kibibyte_is_refused_unread() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_entry(cbor.encode(bytes(ENTRY_SIZE_MAX)))


@given(st.binary(max_size=200))
def test_random_bytes_are_an_entry_or_a_named_refusal(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        assert encode_entry(parse_entry(data)) == data


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_a_file_cut_anywhere_gives_a_beginning_of_its_entries(entries: list[bytes], data: st.DataObject) -> None:
    whole = frame(entries)
    cut = data.draw(st.integers(0, len(whole)))
    found = list(unframe(whole[:cut]))
    assert found == entries[: len(found)]
    assert len(frame(found)) <= cut < len(frame(entries[: len(found) + 1])) or cut == len(whole)


@pytest.mark.parametrize("size", [0, ENTRY_SIZE_MAX + 1, 1 << 31])
def test_a_file_with_an_entry_beyond_the_limits_is_refused(size: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="log entry"):
        list(unframe(frame([b"good"]) + size.to_bytes(4, "big") + b"more"))


def test_the_log_comes_to_what_it_allows_denies_and_demands() -> None:
    values = fold(EVERY_KIND)
    assert values.allowed[What.MEASUREMENT] == {value("image")}
    assert values.allowed[What.MODEL] == frozenset()
    assert values.denied[What.PLATFORM] == {value("host")}
    assert values.intel_evaluation_min == 17
    assert values.amd_floor == SnpTcbFloor(milan=TCB)


def test_a_denial_wins_over_a_permission_after_it_until_it_is_revoked() -> None:
    log: list[Entry] = [allow("image"), deny("image"), allow("image")]
    assert fold(log).allowed[What.MEASUREMENT] == frozenset()
    assert fold([*log, revoke(1)]).allowed[What.MEASUREMENT] == {value("image")}


def test_floors_only_rise() -> None:
    lower = AmdFloor(at=AT, product="milan", tcb=SnpTcb(bootloader=9, tee=0, snp=1, microcode=1))
    values = fold([*EVERY_KIND, IntelFloor(at=AT, evaluation=3), lower])
    assert values.intel_evaluation_min == 17
    assert values.amd_floor.milan == SnpTcb(bootloader=9, tee=0, snp=22, microcode=213)


@pytest.mark.parametrize("index", [1, 2, 5], ids=["already-revoked", "itself", "not-there"])
def test_a_revocation_of_what_does_not_stand_is_refused(index: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="nothing stands"):
        fold([allow("one"), allow("two"), Revoke(at=AT, index=1, reason="r"), Revoke(at=AT, index=index, reason="r")])


def test_a_policy_under_a_log_has_only_what_both_allow_and_the_higher_floors() -> None:
    policy = AppraisalPolicy(
        reference=replace(REFERENCE, measurements=frozenset({value("image"), value("unlogged")})),
        tcb_evaluation_min=20,
        snp_floor=SnpTcbFloor(milan=replace(TCB, snp=10, microcode=255)),
        denied_platforms=frozenset({value("mine")}),
    )
    strict = fold([*EVERY_KIND, allow("chain does not know")]).restrict(policy)
    assert strict.reference == replace(REFERENCE, models=frozenset())
    assert strict.denied_platforms == {value("mine"), value("host")}
    assert strict.tcb_evaluation_min == 20
    assert strict.snp_floor == SnpTcbFloor(milan=replace(TCB, microcode=255))


def test_a_log_does_not_open_a_product_that_the_policy_refuses() -> None:
    assert fold(EVERY_KIND).restrict(AppraisalPolicy(reference=REFERENCE)).snp_floor == SnpTcbFloor()


def test_an_empty_log_allows_nothing() -> None:
    strict = fold([]).restrict(AppraisalPolicy(reference=REFERENCE))
    assert strict.reference == ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())


def test_a_value_that_is_not_in_the_log_or_denied_there_is_refused_by_name() -> None:
    log: list[Entry] = [allow("image"), allow("rim", What.RIM), allow("model", What.MODEL)]
    fold(log).check_reference(REFERENCE)
    with pytest.raises(NotInLogError, match=r"model [0-9a-f]{64} is not in the log"):
        fold(log[:2]).check_reference(REFERENCE)
    with pytest.raises(NotInLogError, match=r"rim [0-9a-f]{64} is denied"):
        fold([*log, deny("rim", What.RIM)]).check_reference(REFERENCE)


@pytest.mark.parametrize("what", [What.PLATFORM, What.MEASUREMENT, What.MODEL])
def test_a_host_that_was_denied_after_it_was_verified_is_refused(what: What) -> None:
    values = fold([Allow(at=AT, what=What.MODEL, value=bytes(32), label="x"), deny("it", what)])
    values.check_not_denied(platform=bytes(32), measurement=bytes(32), models=[bytes(32)])
    with pytest.raises(RevokedError, match=str(what)):
        values.check_not_denied(platform=value("it"), measurement=value("it"), models=[value("it")])
