"""Whatever the two parties and a thief do, in any order: nobody gets what is not theirs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.errors import BillingError
from billing.money import Nanotons
from billing.ton.channel import (
    RENT_RESERVE,
    ChannelStatus,
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
    finish_body,
)
from tests.contracts.channel_world import CLIENT, CLIENT_KEY, DELAY, OPERATOR_KEY, THIEF_KEY, ChannelInVm, paid_to
from tests.contracts.harness import STRANGER, TON, TREASURY, Outcome

amounts = st.sampled_from([1, TON // 100, TON // 3, TON, 2 * TON, 7 * TON])
whos = st.sampled_from([CLIENT, TREASURY, STRANGER])
keys = st.sampled_from([CLIENT_KEY, OPERATOR_KEY, THIEF_KEY])
steps = st.one_of(
    st.tuples(st.just("top-up"), whos, amounts),
    st.tuples(st.just("redeem"), amounts),
    st.tuples(st.just("replay"), st.integers(0, 3)),
    st.tuples(st.just("forge"), keys, keys, amounts),
    st.tuples(st.just("forge-close"), keys, keys, amounts),
    st.tuples(st.just("announce"), whos, amounts),
    st.tuples(st.just("announce-close"), whos),
    st.tuples(st.just("cancel"), whos),
    st.tuples(st.just("finish"), whos),
    st.tuples(st.just("wait"), st.sampled_from([3600, DELAY])),
    st.tuples(st.just("close"), amounts),
)
RENT_A_STEP = 60_000  # nanotons at most for the longest wait, a day


class Play:
    """One channel, everything that was signed, and where all money went."""

    def __init__(self) -> None:
        self.channel = ChannelInVm(deposit=3 * TON)
        self.put_in = 3 * TON
        self.taken_out: dict[object, int] = {CLIENT: 0, TREASURY: 0, STRANGER: 0}
        self.fees = 0
        self.signed = 0  # the highest voucher, or what both agreed
        self.sent: list[bytes] = []

    def step(self, kind: str, *args: object) -> None:
        before = self.channel.state()
        held = before.balance
        outcome = self._do(kind, *args)
        after = self.channel.state()
        assert after.redeemed >= before.redeemed
        assert after.redeemed <= self.signed
        if before.status is ChannelStatus.CLOSED:
            assert (after.status, after.redeemed) == (ChannelStatus.CLOSED, before.redeemed)
        if after.redeemed > before.redeemed and after.status is not ChannelStatus.CLOSED:
            spent = held - after.balance - (after.redeemed - before.redeemed)
            assert 0 <= spent <= RENT_A_STEP  # a redemption costs the deposit nothing else
        if outcome is not None:
            self._account(outcome)
        if kind in {"forge", "forge-close"}:
            assert (after.redeemed, after.status) == (before.redeemed, before.status)

    def _do(self, kind: str, *args: object) -> Outcome | None:
        channel = self.channel
        match kind, *args:
            case "wait", int(seconds):
                channel.now += seconds
                return None
            case "top-up", who, int(amount):
                return self._internal(channel.send(who, value=amount), amount)
            case "redeem", int(amount):
                self.signed = max(self.signed, channel.state().redeemed + amount)
                return self._external(channel.redemption(self.signed))
            case "replay", int(index):
                return self._external(self.sent[index % len(self.sent)]) if self.sent else None
            case "forge", client, operator, int(amount):
                if (client, operator) == (CLIENT_KEY, OPERATOR_KEY):
                    return None
                total = channel.state().redeemed + amount
                return self._external(channel.redemption(total, client_key=client, operator_key=operator), keep=False)
            case "forge-close", client, operator, int(amount):
                if (client, operator) == (CLIENT_KEY, OPERATOR_KEY):
                    return None
                total = channel.state().redeemed + amount
                return self._external(channel.agreement(total, client_key=client, operator_key=operator), keep=False)
            case "close", int(amount):
                total = channel.state().redeemed + amount
                if total > channel.state().redeemed + channel.state().payable:
                    return None
                self.signed = max(self.signed, total)
                return self._external(channel.agreement(total))
            case "announce", who, int(amount):
                return self._order(who, announce_withdrawal_body(Nanotons(amount)))
            case _, who:
                bodies = {"announce-close": announce_close_body, "cancel": cancel_body, "finish": finish_body}
                return self._order(who, bodies[kind]())
        raise AssertionError(kind)

    def _order(self, who: object, body: object) -> Outcome:
        return self._internal(self.channel.send(who, body, value=TON // 100), TON // 100)

    def _internal(self, outcome: Outcome, value: int) -> Outcome:
        self.put_in += value
        return outcome

    def _external(self, boc: bytes, *, keep: bool = True) -> Outcome | None:
        if keep:
            self.sent.append(boc)
        try:
            return self.channel.external(boc)
        except BillingError:  # refused by the code, or no money to import it
            return None

    def _account(self, outcome: Outcome) -> None:
        assert outcome.action_code == 0
        for who in self.taken_out:
            self.taken_out[who] += paid_to(outcome, who)  # bounces too: what one sent, one gets back
        self.fees += outcome.transaction.cost


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=3, max_size=14))
def test_nobody_gets_what_is_not_theirs(moves: list[tuple[object, ...]]) -> None:
    play = Play()
    for move in moves:
        play.step(*move)
    out = sum(play.taken_out.values())
    assert out + play.fees + play.channel.account().balance <= play.put_in
    play.step("redeem", 1)  # the operator redeems all that is signed, as far as it goes
    _check_end(play)


def _check_end(play: Play) -> None:
    """The client leaves: it has all that no voucher took, and nothing stays behind."""
    play.step("announce-close", CLIENT)
    play.step("wait", DELAY)
    before = play.channel.account().balance
    if play.channel.state().status is not ChannelStatus.CLOSED:
        assert before >= RENT_RESERVE - 20 * RENT_A_STEP
    play.step("finish", CLIENT)
    state = play.channel.state()
    assert (state.status, state.balance) == (ChannelStatus.CLOSED, 0)
    assert state.redeemed <= play.signed
    out = sum(play.taken_out.values())
    rent = play.put_in - out - play.fees
    assert 0 <= rent <= 20 * RENT_A_STEP
