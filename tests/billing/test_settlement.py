from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.batch import EXPIRY_MARGIN_S, Anchor, Batch, BatchState, Payout, PayoutState, SignedMessage
from billing.errors import PrematureExpiryError, WrongBatchStateError
from billing.money import Nanotons
from billing.records import encode_record, parse_record
from billing.settlement import (
    Accepted,
    Delivered,
    Event,
    Find,
    Inspect,
    NotProcessed,
    Payable,
    Send,
    Sent,
    SettlementPolicy,
    Sign,
    Signed,
    next_actions,
    plan_batches,
    step,
)
from tests.billing.support import NOW

TIMEOUT = 300
MESSAGE = SignedMessage(
    query_id=0, created_at=NOW, timeout_s=TIMEOUT, boc=b"boc", message_hash=b"m" * 32, after_lt=1000
)
DEAD = MESSAGE.dead_at + 1
PROOF = NotProcessed(chain_time=DEAD, read_from_lt=1000)
TX = Accepted(transaction=b"t" * 32)


def payee(number: int) -> bytes:
    return b"\0" + sha256(b"%d" % number).digest()


def payable(number: int, amount: int, since: int = NOW) -> Payable:
    return Payable(payee=payee(number), amount=Nanotons(amount), since=since)


def planned() -> Batch:
    payouts = tuple(Payout(payee=payee(i), amount=Nanotons(10 + i)) for i in range(3))
    return Batch(sequence=0, payouts=payouts, planned_at=NOW)


def after(*events: Event) -> Batch:
    batch = planned()
    for event in events:
        batch = step(batch, event)
    return batch


SIGNED, SENT = Signed(message=MESSAGE), Sent(at=NOW)


def test_payees_over_the_threshold_are_paid() -> None:
    policy = SettlementPolicy(threshold=Nanotons(100), dust=Nanotons(10), max_age_s=50)
    (batch,) = plan_batches([payable(1, 100), payable(2, 99)], policy, now=NOW, first_sequence=4)
    assert [p.payee for p in batch.payouts] == [payee(1)]
    assert batch.id == "00000004"


def test_payees_that_waited_long_enough_are_paid_unless_it_is_dust() -> None:
    policy = SettlementPolicy(threshold=Nanotons(100), dust=Nanotons(10), max_age_s=50)
    (batch,) = plan_batches(
        [payable(1, 10, NOW - 50), payable(2, 9, NOW - 5000), payable(3, 10, NOW - 49)],
        policy,
        now=NOW,
        first_sequence=0,
    )
    assert [p.payee for p in batch.payouts] == [payee(1)]


@given(st.lists(st.integers(0, 1000), max_size=300), st.integers(1, 128))
def test_every_due_payee_is_in_exactly_one_batch(amounts: list[int], most: int) -> None:
    policy = SettlementPolicy(threshold=Nanotons(500), batch_max=most)
    payables = [payable(i, amount) for i, amount in enumerate(amounts)]
    batches = plan_batches(payables, policy, now=NOW, first_sequence=0)
    paid = [(p.payee, p.amount) for batch in batches for p in batch.payouts]
    assert sorted(paid) == sorted((p.payee, p.amount) for p in payables if p.amount >= 500)
    assert all(len(batch.payouts) <= most for batch in batches)


def test_an_anchor_travels_with_the_first_batch_or_alone() -> None:
    anchor = Anchor(epoch=3, root=b"r" * 32)
    (alone,) = plan_batches([], SettlementPolicy(), now=NOW, first_sequence=0, anchor=anchor)
    assert (alone.anchor, alone.payouts) == (anchor, ())
    policy = SettlementPolicy(threshold=Nanotons(1), batch_max=1)
    first, second = plan_batches([payable(1, 5), payable(2, 5)], policy, now=NOW, first_sequence=0, anchor=anchor)
    assert (first.anchor, second.anchor) == (anchor, None)
    assert plan_batches([], SettlementPolicy(), now=NOW, first_sequence=0) == ()


def test_a_batch_that_goes_well_pays_everybody() -> None:
    batch = after(SIGNED, SENT, TX, Delivered(paid=frozenset({0, 1, 2})))
    assert batch.state is BatchState.CONFIRMED
    assert {p.state for p in batch.payouts} == {PayoutState.PAID}


def test_a_payout_the_chain_skipped_is_requeued() -> None:
    batch = after(SIGNED, SENT, TX, Delivered(paid=frozenset({0, 2})))
    assert [p.state for p in batch.payouts] == [PayoutState.PAID, PayoutState.REQUEUED, PayoutState.PAID]


def test_a_batch_proved_dead_is_requeued_whole() -> None:
    batch = after(SIGNED, SENT, PROOF)
    assert batch.state is BatchState.EXPIRED
    assert {p.state for p in batch.payouts} == {PayoutState.REQUEUED}


@pytest.mark.parametrize("chain_time", [NOW, NOW + TIMEOUT, NOW + TIMEOUT + EXPIRY_MARGIN_S])
def test_a_message_that_may_still_run_is_not_given_up(chain_time: int) -> None:
    with pytest.raises(PrematureExpiryError, match="could pay twice"):
        step(after(SIGNED, SENT), replace(PROOF, chain_time=chain_time))


def test_a_message_looked_for_in_half_the_history_is_not_given_up() -> None:
    with pytest.raises(PrematureExpiryError, match="history"):
        step(after(SIGNED, SENT), replace(PROOF, read_from_lt=1001))


def test_a_message_that_is_void_is_given_up_before_its_time() -> None:
    void = replace(PROOF, chain_time=0, void=True)
    for events in ([SIGNED], [SIGNED, SENT]):
        given_up = step(after(*events), void)
        assert (given_up.state, {p.state for p in given_up.payouts}) == (BatchState.EXPIRED, {PayoutState.REQUEUED})


def test_a_batch_that_was_never_signed_is_given_up_at_any_time() -> None:
    assert step(planned(), replace(PROOF, void=True)).state is BatchState.EXPIRED


def test_a_void_message_is_looked_for_in_the_whole_history_too() -> None:
    """Once executed it is void as well."""
    with pytest.raises(PrematureExpiryError, match="history"):
        step(after(SIGNED, SENT), replace(PROOF, read_from_lt=1001, void=True))
    with pytest.raises(WrongBatchStateError):
        step(after(SIGNED, SENT, TX), replace(PROOF, void=True))


def test_a_batch_is_signed_once() -> None:
    other = replace(MESSAGE, created_at=NOW + 10_000, boc=b"other")
    for events in ([SIGNED], [SIGNED, SENT], [SIGNED, SENT, TX], [SIGNED, SENT, PROOF]):
        with pytest.raises(WrongBatchStateError):
            step(after(*events), Signed(message=other))


@pytest.mark.parametrize(
    ("events", "event"),
    [
        pytest.param([], SENT, id="sent-before-signed"),
        pytest.param([], TX, id="accepted-before-signed"),
        pytest.param([], PROOF, id="expired-before-signed"),
        pytest.param([SIGNED, SENT], Delivered(paid=frozenset()), id="delivered-before-accepted"),
        pytest.param([SIGNED, SENT, TX], PROOF, id="expired-after-accepted"),
        pytest.param([SIGNED, SENT, TX], Accepted(transaction=b"u" * 32), id="accepted-twice"),
        pytest.param([SIGNED, SENT, PROOF], TX, id="accepted-after-expired"),
        pytest.param([SIGNED, SENT, PROOF], SENT, id="sent-after-expired"),
        pytest.param(
            [SIGNED, TX, Delivered(paid=frozenset({0}))], Delivered(paid=frozenset({1})), id="delivered-differently"
        ),
    ],
)
def test_an_event_out_of_order_is_refused(events: list[Event], event: Event) -> None:
    with pytest.raises(WrongBatchStateError):
        step(after(*events), event)


@pytest.mark.parametrize(
    "events",
    [
        [SIGNED],
        [SIGNED, SENT],
        [SIGNED, SENT, TX],
        [SIGNED, SENT, TX, Delivered(paid=frozenset({1}))],
        [SIGNED, SENT, PROOF],
    ],
)
def test_an_event_told_twice_is_told_once(events: list[Event]) -> None:
    assert after(*events, events[-1]) == after(*events)


def test_a_payout_that_does_not_exist_cannot_be_delivered() -> None:
    with pytest.raises(ValueError, match="not all below 3"):
        step(after(SIGNED, SENT, TX), Delivered(paid=frozenset({3})))


def test_the_shell_is_told_what_to_do_in_every_state() -> None:
    find, send = Find(message=MESSAGE), Send(boc=b"boc")
    assert next_actions(planned(), now=NOW) == (Sign(batch=planned()),)
    assert next_actions(after(SIGNED), now=NOW) == (find, send)
    assert next_actions(after(SIGNED, SENT), now=NOW + 1) == (find,)
    assert next_actions(after(SIGNED, SENT), now=NOW + 10) == (find, send)
    accepted = after(SIGNED, SENT, TX)
    assert next_actions(accepted, now=NOW) == (Inspect(batch=accepted),)
    assert next_actions(after(SIGNED, SENT, PROOF), now=NOW) == ()


def test_nothing_is_sent_once_the_message_is_past_its_life() -> None:
    for events in ([SIGNED], [SIGNED, SENT]):
        assert next_actions(after(*events), now=NOW + TIMEOUT) == (Find(message=MESSAGE),)


@pytest.mark.parametrize("events", [[], [SIGNED], [SIGNED, SENT], [SIGNED, SENT, TX], [SIGNED, SENT, PROOF]])
def test_a_batch_survives_its_encoding(events: list[Event]) -> None:
    batch = replace(after(*events), anchor=Anchor(epoch=1, root=b"r" * 32))
    assert parse_record(encode_record(batch)) == batch


def test_a_batch_pays_each_payee_once() -> None:
    payout = Payout(payee=payee(1), amount=Nanotons(1))
    with pytest.raises(ValueError, match="once"):
        Batch(sequence=0, payouts=(payout, payout), planned_at=NOW)
    with pytest.raises(ValueError, match="payouts"):
        Batch(sequence=0, payouts=(), planned_at=NOW)
    with pytest.raises(ValueError, match="more than 0"):
        Payout(payee=payee(1), amount=Nanotons(0))
