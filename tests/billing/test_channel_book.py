"""Random lives of payment channels in the books: claims, credits and treasury always agree."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.channel_book import AgreedClose
from billing.checkpoint import Checkpoint, decode_checkpoint
from billing.entries import TREASURY, Entry, channel_account
from billing.errors import EntryConflictError, MalformedRecordError, OverdraftError, VoucherNotLaterError
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.payment import PAYMENT_SIZE, Payment, decode_payment, encode_payment
from billing.voucher import VOUCHER_SIZE
from tests.billing.support import NOW, inside, make_grant, public

CLIENT = public(3)
CHANNELS = [b"\x01" * 32, b"\x02" * 32]
PAYMENT = Payment(wallet=bytes(32), delay_s=3600, nonce=0, voucher=bytes(VOUCHER_SIZE))


def close_at(total: int, valid_until: int = NOW) -> AgreedClose:
    return AgreedClose(
        total=Nanotons(total), valid_until=valid_until, client_signature=bytes(64), operator_signature=bytes(64)
    )


class ChannelMachine(RuleBasedStateMachine):
    """Two channels of one client; the model keeps what the contracts hold and what reached the treasury."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.entries: list[Entry] = []
        self.signed = dict.fromkeys(CHANNELS, 0)
        self.redeemed = dict.fromkeys(CHANNELS, 0)  # on the chain
        self.arrived = 0
        self.held = 0
        self.closed: set[bytes] = set()  # on the chain: neither voucher nor redemption can follow
        self.count = 0

    def apply(self, entry: Entry) -> None:
        self.entries.append(entry)
        for _ in range(2):
            self.ledger.apply(entry)

    @rule()
    def restart_from_a_checkpoint(self) -> None:
        kept = Checkpoint(seq=len(self.entries), checksum=bytes(32), ledger=self.ledger, batches={})
        self.ledger = decode_checkpoint(kept.encode()).ledger

    @rule(channel=st.sampled_from(CHANNELS), more=st.integers(1, 1000))
    def voucher(self, channel: bytes, more: int) -> None:
        if channel in self.closed:
            return
        self.signed[channel] += more
        total = Nanotons(self.signed[channel])
        self.apply(self.ledger.channels.plan_voucher(channel, CLIENT, PAYMENT, total, now=NOW))

    @rule(channel=st.sampled_from(CHANNELS), less=st.integers(0, 1000))
    def old_voucher(self, channel: bytes, less: int) -> None:
        total = Nanotons(max(self.signed[channel] - less, 0))
        with pytest.raises(VoucherNotLaterError):
            self.ledger.channels.plan_voucher(channel, CLIENT, PAYMENT, total, now=NOW)

    @precondition(lambda self: self.ledger.available(CLIENT))
    @rule(data=st.data())
    def spend(self, data: st.DataObject) -> None:
        amount = data.draw(st.integers(1, self.ledger.available(CLIENT)))
        self.count += 1
        self.held += amount
        self.apply(self.ledger.plan_hold(make_grant(self.count, account=CLIENT, slices=(amount, 0, 0)), now=NOW))

    @rule(channel=st.sampled_from(CHANNELS), data=st.data())
    def redeem(self, channel: bytes, data: st.DataObject) -> None:
        """The contract pays any part of the latest voucher, less a fee, also of one given up since."""
        exhausted = self.redeemed[channel] == self.signed[channel]
        if channel in self.closed or self.ledger.channels.get(channel) is None or exhausted:
            return
        before = self.redeemed[channel]
        self.redeemed[channel] = data.draw(st.integers(before + 1, self.signed[channel]))
        arrived = self.redeemed[channel] - before - data.draw(st.integers(0, self.redeemed[channel] - before))
        self.count += 1
        self.arrived += arrived
        plan = self.ledger.channels.plan_redemption
        entry = plan(str(self.count), channel, self.redeemed[channel], arrived, now=NOW)
        self.apply(entry)
        assert plan(str(self.count), channel, self.redeemed[channel], arrived, now=NOW) is entry

    @rule(channel=st.sampled_from(CHANNELS), data=st.data())
    def close(self, channel: bytes, data: st.DataObject) -> None:
        known = self.ledger.channels.get(channel)
        if known is None:
            return
        total = data.draw(st.integers(known.redeemed, known.promised))
        self.count += 1
        entry = self.ledger.channels.plan_close(channel, close_at(total, self.count), now=NOW)
        if known.promised - total > self.ledger.available(CLIENT):
            with pytest.raises(OverdraftError):
                self.ledger.apply(entry)
            return
        self.apply(entry)

    @rule(channel=st.sampled_from(CHANNELS))
    def lose(self, channel: bytes) -> None:
        known = self.ledger.channels.get(channel)
        if known is None or not known.claim:
            return
        self.closed.add(channel)
        self.apply(self.ledger.channels.plan_loss(channel, self.ledger.available(CLIENT), now=NOW))
        assert known.claim == 0

    @invariant()
    def the_books_balance(self) -> None:
        assert self.ledger.imbalance() == 0
        assert -self.ledger.balance(TREASURY) == self.arrived

    @invariant()
    def every_claim_is_an_asset_and_never_negative(self) -> None:
        for channel in CHANNELS:
            known = self.ledger.channels.get(channel)
            claim = known.claim if known else 0
            assert self.ledger.balance(channel_account(channel)) == -claim <= 0
            if known:
                assert known.redeemed == self.redeemed[channel] <= known.promised <= known.signed

    @invariant()
    def a_client_never_has_more_than_it_signed(self) -> None:
        assert 0 <= self.ledger.available(CLIENT) + self.held <= sum(self.signed.values())

    def teardown(self) -> None:
        again = Ledger.replay(self.entries)
        assert inside(again) == inside(self.ledger)


ChannelMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestChannels = ChannelMachine.TestCase


def test_another_voucher_of_the_same_total_is_a_conflict() -> None:
    ledger = Ledger()
    plan = ledger.channels.plan_voucher
    first = plan(CHANNELS[0], CLIENT, PAYMENT, Nanotons(5), now=NOW)
    other = plan(CHANNELS[0], public(4), PAYMENT, Nanotons(5), now=NOW)
    ledger.apply(first)
    with pytest.raises(EntryConflictError):
        ledger.apply(other)


def test_a_close_above_all_vouchers_is_a_mistake() -> None:
    ledger = Ledger()
    ledger.apply(ledger.channels.plan_voucher(CHANNELS[0], CLIENT, PAYMENT, Nanotons(5), now=NOW))
    with pytest.raises(ValueError, match="more than vouchers did"):
        ledger.channels.plan_close(CHANNELS[0], close_at(6), now=NOW)


def test_a_payment_is_read_back_and_nothing_else_is() -> None:
    payment = Payment(wallet=b"\x07" * 32, delay_s=86_400, nonce=(1 << 64) - 1, voucher=b"\x08" * VOUCHER_SIZE)
    data = encode_payment(payment)
    assert len(data) == PAYMENT_SIZE
    assert decode_payment(data) == payment
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(MalformedRecordError):
            decode_payment(wrong)
