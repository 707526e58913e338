"""Statements agree with the ledger, whatever happened and wherever a period is cut."""

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.batch import Batch
from billing.entries import TREASURY, Entry, EntryKind, Posting, client_account, payee_account
from billing.errors import MalformedRecordError, MissingPriceError, PriceFileError
from billing.ledger import Ledger
from billing.money import NANOTONS_PER_TON, Nanotons
from billing.payment import Payment
from billing.price_file import parse_prices
from billing.receipt import sign_receipt
from billing.settlement import Accepted, Delivered, Sent, SettlementPolicy, Signed, plan_batches, step
from billing.statement import Party, Role, balances, daily_totals, make_statement
from billing.statement_csv import statement_csv
from billing.tariff import Usage
from billing.voucher import VOUCHER_SIZE
from tests.billing.support import ACCOUNT, HOST_KEY, NOW, PAYEES, THOUGHTFUL, make_grant, make_receipt
from tests.billing.test_settlement import MESSAGE

DAY = 86_400
CLIENT, PAYEE, OPERATOR = Party(Role.CLIENT, ACCOUNT), Party(Role.PAYEE, PAYEES[0]), Party(Role.OPERATOR)
POLICY = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(1), max_age_s=1)


class Life:
    """A ledger and its entries, an hour between any two."""

    def __init__(self) -> None:
        self.ledger, self.entries, self.now = Ledger(), [], NOW

    def post(self, entry: Entry) -> Entry:
        self.ledger.apply(entry)
        self.entries.append(entry)
        self.now += 3600
        return entry

    def receipt(self, grant, number: int, **usage: int) -> Entry:
        receipt = make_receipt(grant, number, **usage)
        signed = sign_receipt(receipt, HOST_KEY)
        return self.post(self.ledger.plan_receipt(receipt, signed=signed, fee_permille=50, now=self.now))

    def settle(self, sequence: int, *, payee: bytes) -> Batch:
        """Pay `payee`, and nobody else of the batch."""
        (batch,) = plan_batches(self.ledger.payables(), POLICY, now=self.now + 10**6, first_sequence=sequence)
        self.post(self.ledger.plan_batch(batch, now=self.now))
        paid = frozenset(number for number, payout in enumerate(batch.payouts) if payout.payee == payee)
        after = step(step(batch, Signed(message=MESSAGE)), Sent(at=self.now))
        after = step(step(after, Accepted(transaction=b"t" * 32)), Delivered(paid=paid))
        for number, payout in enumerate(after.payouts):
            plan = self.ledger.plan_payout if number in paid else self.ledger.plan_requeue
            self.post(plan(batch, payout.payee, now=self.now))
        return batch


@pytest.fixture(scope="module")
def life() -> Life:
    life = Life()
    life.post(life.ledger.plan_funding("1", 500, now=life.now))
    life.post(life.ledger.plan_deposit("1", ACCOUNT, 300_000, now=life.now))
    first = make_grant(1, not_after=life.now + DAY, tariff=THOUGHTFUL)
    life.post(life.ledger.plan_hold(first, now=life.now))
    life.receipt(first, 1, cached=4, reasoning=5)
    life.receipt(first, 2, host=1)
    life.settle(0, payee=PAYEES[0])
    life.post(life.ledger.plan_fee("1", 100, now=life.now))
    life.receipt(first, 3)
    life.now = NOW + 3 * DAY
    life.post(life.ledger.plan_release(first.lease, now=life.now))
    second = make_grant(2, not_after=life.now + DAY)
    life.post(life.ledger.plan_hold(second, now=life.now))
    life.receipt(second, 4)
    life.post(life.ledger.plan_claim("c", PAYEES[0], 1_000, now=life.now))
    return life


def test_holds_releases_and_batches_are_no_movements(life: Life) -> None:
    statement = make_statement(life.entries, CLIENT, start=0, end=life.now)
    assert [(m.kind, m.amount) for m in statement.movements] == [
        (EntryKind.DEPOSIT, 300_000),
        *((EntryKind.RECEIPT, -price) for price in (14_900, 21_000, 14_000, 14_000)),
    ]
    ledger = life.ledger
    held = sum(amount for account, amount in ledger.balances().items() if account.startswith("hold:"))
    assert statement.closing == ledger.balance(client_account(ACCOUNT)) + held
    assert statement.aside == held > 0


def test_a_payee_sees_price_fee_and_what_it_was_paid(life: Life) -> None:
    statement = make_statement(life.entries, PAYEE, start=0, end=life.now)
    first, payout, *rest = statement.movements
    assert (first.kind, first.price, first.amount) == (EntryKind.RECEIPT, 14_900, 14_900 - 745)
    assert first.usage == Usage(prompt_tokens=10, completion_tokens=20, cached_tokens=4, reasoning_tokens=5)
    assert (payout.kind, payout.amount) == (EntryKind.PAYOUT, -14_155)
    assert [m.kind for m in rest] == [EntryKind.RECEIPT, EntryKind.RECEIPT, EntryKind.CLAIM]
    assert statement.closing == life.ledger.balance(payee_account(PAYEES[0]))


def test_the_operator_sees_fees_capital_and_what_the_chain_took(life: Life) -> None:
    statement = make_statement(life.entries, OPERATOR, start=0, end=life.now)
    sums = {total.kind: total.amount for total in daily_totals(replace(statement, movements=statement.movements[:4]))}
    assert sums == {EntryKind.FUNDING: 500, EntryKind.RECEIPT: 745 + 1050, EntryKind.FEE: -100}


@given(cuts=st.lists(st.integers(NOW - DAY, NOW + 5 * DAY), min_size=1, max_size=4))
def test_periods_join_without_gap_or_overlap(life: Life, cuts: list[int]) -> None:
    for party in (CLIENT, PAYEE, OPERATOR):
        whole = make_statement(life.entries, party, start=0, end=NOW + 9 * DAY)
        edges = [0, *sorted(cuts), NOW + 9 * DAY]
        parts = [make_statement(life.entries, party, start=a, end=b) for a, b in pairwise(edges)]
        assert [part.opening for part in parts] == [0, *(part.closing for part in parts[:-1])]
        assert sum((part.movements for part in parts), ()) == whole.movements
        assert (parts[-1].closing, parts[-1].aside) == (whole.closing, whole.aside)


@given(st.integers(0, 30))
def test_the_balances_of_all_are_the_treasury_at_any_time(life: Life, count: int) -> None:
    entries = life.entries[:count]
    shares = balances(entries, end=NOW + 9 * DAY)
    assert sum(share.amount for share in shares.values()) == Ledger.replay(entries).treasury()
    for party, share in shares.items():
        statement = make_statement(entries, party, start=0, end=NOW + 9 * DAY)
        assert (statement.closing, statement.aside) == (share.amount, share.aside)


def test_money_on_its_way_is_still_its_payees(life: Life) -> None:
    at = next(number for number, entry in enumerate(life.entries) if entry.kind is EntryKind.BATCH)
    shares = balances(life.entries[: at + 1], end=NOW + 9 * DAY)
    for payee in PAYEES[:2]:
        share = shares[Party(Role.PAYEE, payee)]
        assert share.aside == share.amount > 0


def test_money_of_nobody_known_is_not_passed_over() -> None:
    strange = (Posting(account="jar:1", amount=5), Posting(account=TREASURY, amount=-5))
    with pytest.raises(MalformedRecordError, match="jar:1"):
        balances([Entry(id="x", kind=EntryKind.DEPOSIT, postings=strange, at=NOW)], end=NOW + 1)


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="before it begins"):
        make_statement([], OPERATOR, start=5, end=4)


def test_vouchers_credit_their_client_and_a_lost_channel_is_the_operators_loss() -> None:
    life, channel = Life(), b"\x01" * 32
    channels = life.ledger.channels
    payment = Payment(wallet=bytes(32), delay_s=3600, nonce=0, voucher=bytes(VOUCHER_SIZE))
    life.post(channels.plan_voucher(channel, ACCOUNT, payment, Nanotons(1000), now=life.now))
    life.post(channels.plan_redemption("1", channel, 400, 390, now=life.now))
    life.post(life.ledger.plan_hold(make_grant(1, slices=(900, 0, 0), not_after=life.now + DAY), now=life.now))
    shares = balances(life.entries, end=NOW + DAY)
    assert {party.role: share.amount for party, share in shares.items()} == {Role.CLIENT: 1000, Role.OPERATOR: -10}
    assert sum(share.amount for share in shares.values()) == life.ledger.treasury() + 600
    life.post(channels.plan_loss(channel, life.ledger.available(ACCOUNT), now=life.now))
    shares = balances(life.entries, end=NOW + DAY)
    assert {party.role: share.amount for party, share in shares.items()} == {Role.CLIENT: 900, Role.OPERATOR: -510}
    statement = make_statement(life.entries, CLIENT, start=0, end=NOW + DAY)
    assert [(m.kind, m.amount) for m in statement.movements] == [(EntryKind.VOUCHER, 1000), (EntryKind.LOSS, -100)]


# --- csv and prices ---------------------------------------------------------------------------------------------------

DAYS = [datetime.fromtimestamp(NOW + days * DAY, UTC).date() for days in range(4)]
PRICES = "date,currency,price,source\n" + "".join(
    f'{day},EUR,{2 + number}.125,"exchange, close"\n{day},USD,3,exchange\n' for number, day in enumerate(DAYS)
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_without_prices_a_csv_has_no_value(life: Life) -> None:
    statement = make_statement(life.entries, CLIENT, start=0, end=life.now)
    found = rows(statement_csv(statement))
    assert not {"currency", "ton_price", "price_source", "value"} & found[0].keys()
    assert sum(Decimal(row["amount_ton"]) for row in found) * NANOTONS_PER_TON == statement.closing
    assert found[1] == {
        "time_utc": f"{datetime.fromtimestamp(statement.movements[1].at, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "kind": "receipt",
        "reference": statement.movements[1].reference,
        "amount_ton": "-0.000014900",
        "price_ton": "0.000014900",
        "prompt_tokens": "10",
        "cached_tokens": "4",
        "completion_tokens": "20",
        "reasoning_tokens": "5",
    }


@pytest.mark.parametrize("daily", [False, True])
def test_with_prices_each_line_names_price_and_source(life: Life, daily: bool) -> None:
    statement = make_statement(life.entries, CLIENT, start=0, end=life.now)
    found = rows(statement_csv(statement, parse_prices(PRICES, currency="EUR"), daily=daily))
    deposit = found[0]
    assert (deposit["currency"], deposit["ton_price"], deposit["price_source"]) == ("EUR", "2.125", "exchange, close")
    assert deposit["value"] == "0.000638"  # 0.0003 TON at 2.125 is 0.0006375: half to even
    assert found[-1]["ton_price"] == "5.125"
    assert len(found) == (3 if daily else 5)


def test_a_day_without_a_price_is_named_and_not_guessed(life: Life) -> None:
    statement = make_statement(life.entries, CLIENT, start=0, end=life.now)
    table = parse_prices("\n".join(PRICES.splitlines()[:3]), currency="EUR")
    with pytest.raises(MissingPriceError, match=str(DAYS[3])):
        statement_csv(statement, table)


@given(st.integers(-(10**18), 10**18), st.decimals("0", "999999", places=9))
def test_a_value_is_the_exact_one_rounded_once(amount: int, price: Decimal) -> None:
    table = parse_prices(f"date,currency,price,source\n2026-01-31,EUR,{price:f},x")
    exact = amount * int(price * 10**9)  # of 10^-18 EUR
    assert abs(int(table.value(amount, date(2026, 1, 31)) * 10**6) * 10**12 - exact) * 2 <= 10**12


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "header", id="empty"),
        pytest.param("day,currency,price,source\n", "header", id="other-header"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,1\n", "4 fields", id="short-line"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,1,x,y\n", "4 fields", id="long-line"),
        pytest.param("date,currency,price,source\n2026-01-32,EUR,1,x\n", "not a date", id="no-such-day"),
        pytest.param("date,currency,price,source\n2026-01-31,eur,1,x\n", "currency code", id="no-currency"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,1e3,x\n", "in decimal", id="exponent"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,-1,x\n", "in decimal", id="negative"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,nan,x\n", "in decimal", id="not-a-number"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,1, \n", "source", id="no-source"),
        pytest.param("date,currency,price,source\n2026-01-31,EUR,1,=cmd()\n", "source", id="formula"),
        pytest.param("date,currency,price,source\n" + "2026-01-31,EUR,1,x\n" * 2, "second price", id="twice"),
        pytest.param(PRICES, "EUR, USD", id="two-currencies-and-none-chosen"),
        pytest.param('date,currency,price,source\n"2026-01-31', "line", id="open-quote"),
    ],
)
def test_a_file_that_is_no_file_of_prices_is_refused(text: str, why: str) -> None:
    with pytest.raises(PriceFileError, match=why):
        parse_prices(text)
