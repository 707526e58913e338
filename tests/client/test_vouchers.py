"""What a client has promised: on disk before it is sent, never twice, never less."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from billing.money import Nanotons
from billing.voucher import Channel, Voucher, verify_voucher
from client.vouchers import HOLD_END_S, Account, VoucherStore

KEY = Ed25519PrivateKey.from_private_bytes(b"\x51" * 32)
CHANNEL = Channel(network_id=-777, account=b"\x01" * 32)
OTHER = Channel(network_id=-777, account=b"\x02" * 32)
NOW = 1_800_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoucherStore]:
    store = VoucherStore(tmp_path / "vouchers.sqlite")
    yield store
    store.close()


def sign(store: VoucherStore, total: int, channel: Channel = CHANNEL) -> bytes:
    return store.sign(Voucher(channel=channel, total=Nanotons(total)), KEY)


def account(store: VoucherStore, *, now: int = NOW, spent: int = 0) -> Account:
    return store.account(CHANNEL, spent=lambda _: spent, now=now)


def test_a_voucher_is_kept_before_anybody_sees_it_and_found_again(store: VoucherStore, tmp_path: Path) -> None:
    signed = sign(store, 7)
    again = VoucherStore(tmp_path / "vouchers.sqlite")
    assert again.latest(CHANNEL) == signed
    assert verify_voucher(signed, KEY.public_key().public_bytes_raw()).total == 7
    again.close()


def test_a_voucher_that_cannot_be_kept_is_not_given_out(store: VoucherStore) -> None:
    store._database.execute("PRAGMA query_only = ON")  # as a full disk does: it refuses every write
    with pytest.raises(sqlite3.OperationalError):
        sign(store, 7)
    store._database.execute("PRAGMA query_only = OFF")
    assert store.latest(CHANNEL) is None


def test_two_programs_over_one_file_never_sign_two_vouchers_of_one_total(store: VoucherStore, tmp_path: Path) -> None:
    other = VoucherStore(tmp_path / "vouchers.sqlite")
    assert sign(store, 7) == sign(other, 7)
    sign(other, 9)
    with pytest.raises(ValueError, match="of 9 was signed before"):
        sign(store, 8)
    assert sign(store, 9) == store.latest(CHANNEL)
    other.close()


def test_channels_are_apart(store: VoucherStore) -> None:
    sign(store, 9)
    sign(store, 3, OTHER)
    assert account(store).promised == 9
    assert store.account(OTHER, spent=lambda _: 0, now=NOW).promised == 3


def test_a_lease_counts_whole_until_it_has_ended_and_then_by_its_receipts(store: VoucherStore) -> None:
    store.ask(b"r" * 16, CHANNEL, Nanotons(100), ends_at=NOW + 9000)
    assert (account(store).held, account(store).unanswered) == (0, 100)
    store.grant(b"r" * 16, b"l" * 16, Nanotons(90), ends_at=NOW + 600)
    assert (account(store).held, account(store).unanswered) == (90, 0)
    assert account(store).held_until == NOW + 600 + HOLD_END_S
    assert account(store, now=NOW + 600 + HOLD_END_S - 1, spent=40).held == 90
    ended = account(store, now=NOW + 600 + HOLD_END_S, spent=40)
    assert (ended.held, ended.billed, ended.owed) == (0, 40, 40)
    assert account(store, now=NOW + 9000, spent=99).billed == 40, "a lease is counted once"


def test_an_operator_that_never_answers_justifies_one_lease_and_no_more(store: VoucherStore) -> None:
    for number in range(5):
        store.ask(bytes([number]) * 16, CHANNEL, Nanotons(100 + number), ends_at=NOW + 9000)
    assert account(store).unanswered == 104


def test_a_refused_lease_holds_nothing(store: VoucherStore) -> None:
    store.ask(b"r" * 16, CHANNEL, Nanotons(100), ends_at=NOW + 9000)
    store.drop(b"r" * 16)
    assert account(store).unanswered == 0


def test_a_lease_nobody_answered_for_costs_nothing_in_the_end(store: VoucherStore) -> None:
    store.ask(b"r" * 16, CHANNEL, Nanotons(100), ends_at=NOW)
    ended = account(store, now=NOW + HOLD_END_S, spent=77)
    assert (ended.unanswered, ended.billed) == (0, 0)


amounts = st.integers(0, 1 << 40).map(Nanotons)


@given(promised=amounts, billed=amounts, held=amounts, unanswered=amounts, budget=amounts)
def test_what_is_signed_is_what_is_owed_and_the_budget_and_never_less_than_before(
    promised: Nanotons, billed: Nanotons, held: Nanotons, unanswered: Nanotons, budget: Nanotons
) -> None:
    reach = Account(promised=promised, billed=billed, held=held, unanswered=unanswered).reach(budget)
    assert reach >= promised
    assert reach in {promised, billed + held + budget}
    assert reach >= billed + held + budget
