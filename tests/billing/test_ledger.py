from dataclasses import replace

import pytest

from billing.entries import OPERATOR_FEES, Entry, EntryKind, Posting, client_account, hold_account, payee_account
from billing.errors import (
    EntryConflictError,
    InsufficientFundsError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseOpenError,
    OverdraftError,
    PriceMismatchError,
    ReceiptConflictError,
    ReceiptMismatchError,
    SliceExceededError,
    UnbalancedEntryError,
    UnknownLeaseError,
    UnknownPayoutError,
)
from billing.grant import Grant
from billing.hold_book import RELEASE_GRACE_S
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.records import encode_record, parse_record
from billing.settlement import SettlementPolicy, plan_batches
from tests.billing.support import ACCOUNT, HOST_KEY, HOSTS, NOW, PAYEES, make_grant, make_receipt, public

GRANT = make_grant()


def funded(amount: int = 200_000) -> Ledger:
    ledger = Ledger()
    ledger.apply(ledger.plan_deposit("1:aa", ACCOUNT, amount, now=NOW))
    return ledger


def leased(grant: Grant = GRANT) -> Ledger:
    ledger = funded()
    ledger.apply(ledger.plan_hold(grant, now=NOW))
    return ledger


def plan(ledger: Ledger, receipt: Receipt, fee_permille: int = 50) -> Entry:
    return ledger.plan_receipt(receipt, signed=sign_receipt(receipt, HOST_KEY), fee_permille=fee_permille, now=NOW)


def earning(*receipts: Receipt, grant: Grant = GRANT) -> Ledger:
    ledger = leased(grant)
    for receipt in receipts:
        ledger.apply(plan(ledger, receipt))
    return ledger


def test_a_deposit_is_credited_once() -> None:
    ledger = funded()
    ledger.apply(ledger.plan_deposit("1:aa", ACCOUNT, 200_000, now=NOW + 5))
    assert ledger.available(ACCOUNT) == ledger.treasury() == 200_000


def test_two_equal_deposits_are_two_deposits() -> None:
    ledger = funded()
    ledger.apply(ledger.plan_deposit("2:aa", ACCOUNT, 200_000, now=NOW))
    assert ledger.available(ACCOUNT) == 400_000


def test_a_deposit_id_cannot_name_another_amount() -> None:
    with pytest.raises(EntryConflictError):
        funded().plan_deposit("1:aa", ACCOUNT, 1, now=NOW)


def test_a_hold_takes_the_sum_of_its_slices_from_the_client() -> None:
    ledger = leased()
    assert ledger.available(ACCOUNT) == 80_000
    assert ledger.balance(hold_account(GRANT.lease)) == 120_000


def test_a_client_without_funds_gets_no_hold() -> None:
    with pytest.raises(InsufficientFundsError, match="deposit at least 40000 more"):
        leased().plan_hold(make_grant(1), now=NOW)


def test_a_hold_placed_twice_is_one_hold() -> None:
    ledger = leased()
    ledger.apply(ledger.plan_hold(GRANT, now=NOW + 9999))
    assert ledger.available(ACCOUNT) == 80_000


def test_a_lease_id_cannot_be_reused_for_another_grant() -> None:
    with pytest.raises(EntryConflictError):
        leased().plan_hold(replace(GRANT, hosts=GRANT.hosts[:1]), now=NOW)


def test_a_lease_that_is_over_gets_no_hold() -> None:
    with pytest.raises(LeaseExpiredError):
        funded().plan_hold(GRANT, now=GRANT.not_after)


def test_a_receipt_pays_payee_and_operator_out_of_the_hold() -> None:
    receipt = make_receipt(GRANT)
    ledger = earning(receipt)
    assert receipt.price == 14_000
    assert ledger.balance(payee_account(PAYEES[0])) == 13_300
    assert ledger.balance(OPERATOR_FEES) == 700
    assert ledger.balance(hold_account(GRANT.lease)) == 106_000
    assert ledger.imbalance() == 0


def test_a_receipt_posted_twice_pays_once_even_when_the_fee_has_changed() -> None:
    receipt = make_receipt(GRANT)
    ledger = earning(receipt)
    ledger.apply(plan(ledger, receipt, fee_permille=100))
    assert ledger.balance(payee_account(PAYEES[0])) == 13_300


def test_a_request_run_on_two_hosts_is_paid_once() -> None:
    ledger = earning(make_receipt(GRANT, 5, host=0))
    with pytest.raises(ReceiptConflictError):
        plan(ledger, make_receipt(GRANT, 5, host=1))


def test_a_receipt_without_a_hold_earns_nothing() -> None:
    with pytest.raises(UnknownLeaseError):
        plan(funded(), make_receipt(GRANT))


def test_a_receipt_after_the_release_earns_nothing() -> None:
    ledger = leased()
    ledger.apply(ledger.plan_release(GRANT.lease, now=GRANT.not_after + RELEASE_GRACE_S))
    with pytest.raises(LeaseClosedError):
        plan(ledger, make_receipt(GRANT))


def test_a_receipt_with_an_invented_price_is_refused() -> None:
    with pytest.raises(PriceMismatchError, match="asks 14001 nanoton, tariff and usage give 14000"):
        plan(leased(), replace(make_receipt(GRANT), price=Nanotons(14_001)))


def test_a_host_cannot_earn_with_another_hosts_coefficient() -> None:
    with pytest.raises(PriceMismatchError):
        plan(leased(), replace(make_receipt(GRANT, host=0), host_id=HOSTS[1]))


@pytest.mark.parametrize(
    ("field", "value"), [("account", public(9)), ("model_root", b"x" * 32), ("host_id", b"stranger")]
)
def test_a_receipt_that_is_not_of_the_lease_is_refused(field: str, value: bytes) -> None:
    with pytest.raises(ReceiptMismatchError, match=field):
        plan(leased(), replace(make_receipt(GRANT), **{field: value}))


def test_a_host_cannot_earn_beyond_its_slice() -> None:
    ledger = earning(make_receipt(GRANT, 0), make_receipt(GRANT, 1))
    with pytest.raises(SliceExceededError):
        plan(ledger, make_receipt(GRANT, 2))
    ledger.apply(plan(ledger, make_receipt(GRANT, 3, host=2)))


def test_a_hold_does_not_end_before_late_receipts_had_their_time() -> None:
    ledger = leased()
    with pytest.raises(LeaseOpenError):
        ledger.plan_release(GRANT.lease, now=GRANT.not_after + RELEASE_GRACE_S - 1)
    assert list(ledger.releasable(GRANT.not_after)) == []


def test_a_hold_ends_once_and_gives_back_what_was_not_used() -> None:
    ledger = earning(make_receipt(GRANT))
    late = GRANT.not_after + RELEASE_GRACE_S
    assert list(ledger.releasable(late)) == [GRANT.lease]
    for _ in range(2):
        ledger.apply(ledger.plan_release(GRANT.lease, now=late))
    assert ledger.available(ACCOUNT) == 200_000 - 14_000
    assert ledger.balance(hold_account(GRANT.lease)) == 0
    assert list(ledger.releasable(late)) == []


def test_a_lease_nobody_took_cannot_be_released() -> None:
    with pytest.raises(UnknownLeaseError):
        funded().plan_release(b"\0" * 16, now=NOW)


def test_a_batch_moves_what_is_owed_and_its_end_is_booked_once() -> None:
    ledger = earning(make_receipt(GRANT, 0, host=0), make_receipt(GRANT, 1, host=1))
    policy = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(1))
    (batch,) = plan_batches(ledger.payables(), policy, now=NOW, first_sequence=0)
    ledger.apply(ledger.plan_batch(batch, now=NOW))
    assert ledger.payables() == ()
    ledger.apply(ledger.plan_payout(batch, PAYEES[0], now=NOW))
    ledger.apply(ledger.plan_requeue(batch, PAYEES[1], now=NOW))
    assert ledger.balance("settling:00000000") == 0
    assert [p.payee for p in ledger.payables()] == [PAYEES[1]]
    assert ledger.treasury() == 200_000 - 13_300
    assert [(t.payee, t.paid) for t in ledger.totals() if t.paid] == [(PAYEES[0], 13_300)]
    with pytest.raises(UnknownPayoutError):
        ledger.plan_payout(batch, PAYEES[1], now=NOW)
    with pytest.raises(UnknownPayoutError):
        ledger.plan_payout(batch, PAYEES[2], now=NOW)


def test_a_payout_nobody_owes_is_refused() -> None:
    ledger = earning(make_receipt(GRANT))
    policy = SettlementPolicy(threshold=Nanotons(1))
    (batch,) = plan_batches(ledger.payables(), policy, now=NOW, first_sequence=0)
    greedy = replace(batch, payouts=(replace(batch.payouts[0], amount=Nanotons(13_301)),))
    with pytest.raises(InsufficientFundsError):
        ledger.plan_batch(greedy, now=NOW)


def test_a_requeued_payout_keeps_its_age() -> None:
    ledger = earning(make_receipt(GRANT))
    (batch,) = plan_batches(ledger.payables(), SettlementPolicy(threshold=Nanotons(1)), now=NOW, first_sequence=0)
    ledger.apply(ledger.plan_batch(batch, now=NOW + 50))
    ledger.apply(ledger.plan_requeue(batch, PAYEES[0], now=NOW + 99))
    assert ledger.payables()[0].since == NOW


def test_a_claim_is_booked_once_and_counts_as_paid() -> None:
    ledger = earning(make_receipt(GRANT))
    owed, treasury = ledger.balance(payee_account(PAYEES[0])), ledger.treasury()
    for _ in range(2):
        ledger.apply(ledger.plan_claim("7:bb", PAYEES[0], owed, now=NOW))
    assert (ledger.balance(payee_account(PAYEES[0])), ledger.treasury()) == (0, treasury - owed)
    assert [(t.payee, t.earned, t.paid) for t in ledger.totals()] == [(PAYEES[0], owed, owed)]
    assert ledger.payables() == ()
    assert ledger.imbalance() == 0


def test_a_claim_of_more_than_is_owed_stops_the_books() -> None:
    ledger = earning(make_receipt(GRANT))
    owed = ledger.balance(payee_account(PAYEES[0]))
    with pytest.raises(OverdraftError):
        ledger.apply(ledger.plan_claim("7:bb", PAYEES[0], owed + 1, now=NOW))


def test_chain_fees_come_out_of_the_treasury() -> None:
    ledger = funded()
    ledger.apply(ledger.plan_funding("0:bb", 1_000, now=NOW))
    ledger.apply(ledger.plan_fee("3:cc", 400, now=NOW))
    assert ledger.treasury() == 200_600
    assert ledger.imbalance() == 0


def test_money_is_neither_made_nor_lost_by_an_entry() -> None:
    with pytest.raises(UnbalancedEntryError):
        Entry(id="x", kind=EntryKind.FEE, postings=(Posting(account="treasury", amount=1),), at=NOW)


def test_an_overdraft_is_refused_and_changes_nothing() -> None:
    ledger = funded()
    source, target = client_account(ACCOUNT), client_account(public(9))
    parts = (Posting(account=source, amount=-200_001), Posting(account=target, amount=200_001))
    with pytest.raises(OverdraftError):
        ledger.apply(Entry(id="theft", kind=EntryKind.DEPOSIT, postings=parts, at=NOW))
    assert ledger.available(ACCOUNT) == 200_000


def test_an_entry_survives_its_encoding() -> None:
    entry = plan(leased(), make_receipt(GRANT))
    assert parse_record(encode_record(entry)) == entry


@pytest.mark.parametrize("permille", [-1, 1001])
def test_an_operators_share_is_at_most_all(permille: int) -> None:
    with pytest.raises(ValueError, match="permille"):
        plan(leased(), make_receipt(GRANT), fee_permille=permille)
