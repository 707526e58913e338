"""Vouchers, what may be served against them, and what a client may be asked to sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.bill import Bill, rebuild_bill
from billing.credit import (
    REACTION_S,
    REDEMPTION_MIN,
    Deposit,
    Tab,
    check_asked,
    check_redeemable,
    hold,
    next_total,
    plan_redemption,
    see_deposit,
    settle,
    take_voucher,
)
from billing.errors import (
    BadSignatureError,
    BillingError,
    ChannelMismatchError,
    ChannelRefusesError,
    CreditExceededError,
    MalformedRecordError,
    OverbilledError,
    PriceMismatchError,
    ReceiptConflictError,
    ReceiptMismatchError,
    SliceExceededError,
    StaleDepositError,
    UnknownLeaseError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
)
from billing.money import NANOTONS_MAX, Nanotons
from billing.receipt import encode_receipt, sign_receipt, sign_receipts
from billing.voucher import (
    VOUCHER_SIZE,
    Channel,
    Voucher,
    close_bytes,
    encode_voucher,
    redemption_bytes,
    sign_voucher,
    verify_voucher,
)
from tests.billing.support import ACCOUNT, HOST_KEY, HOSTS, NOW, key, make_grant, make_receipt, public

CLIENT_KEY = key(3)
CHANNEL = Channel(network_id=-777, account=b"\xc4" * 32)
TON = 1_000_000_000
DEPOSIT = Deposit(
    channel=CHANNEL,
    client_key=ACCOUNT,
    redeemed=Nanotons(0),
    payable=Nanotons(10 * TON),
    announced=Nanotons(0),
    due=None,
    delay_s=86_400,
    block=1,
    proved_at=NOW,
)
TAB = Tab(deposit=DEPOSIT)


def voucher(total: int, *, channel: Channel = CHANNEL, signer: int = 3) -> bytes:
    return sign_voucher(Voucher(channel=channel, total=Nanotons(total)), key(signer))


# --- the signed record ------------------------------------------------------------------------------------------------


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.binary(min_size=32, max_size=32), st.integers(0, NANOTONS_MAX))
def test_what_is_signed_is_what_is_read(network_id: int, account: bytes, total: int) -> None:
    record = Voucher(channel=Channel(network_id=network_id, account=account), total=Nanotons(total))
    data = sign_voucher(record, CLIENT_KEY)
    assert len(data) == VOUCHER_SIZE
    assert verify_voucher(data, ACCOUNT) == record


def test_every_flipped_bit_of_a_voucher_is_refused() -> None:
    data = voucher(TON)
    for bit in range(8 * len(data)):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BillingError):
            verify_voucher(bytes(forged), ACCOUNT)


@given(st.binary(min_size=1, max_size=VOUCHER_SIZE + 9))
def test_bytes_that_are_no_voucher_are_refused_by_name(data: bytes) -> None:
    for hostile in (data, voucher(TON)[: len(data)] + data, data[:3] + voucher(TON)):
        with pytest.raises((MalformedRecordError, BadSignatureError)):
            verify_voucher(hostile, ACCOUNT)


def test_a_total_above_all_money_is_refused() -> None:
    body = encode_voucher(Voucher(channel=CHANNEL, total=Nanotons(0)))[:-8] + b"\xff" * 8
    with pytest.raises(MalformedRecordError, match="total"):
        verify_voucher(body + CLIENT_KEY.sign(body), ACCOUNT)


def test_the_three_records_never_read_as_one_another() -> None:
    records = [
        encode_voucher(Voucher(channel=CHANNEL, total=Nanotons(TON))),
        redemption_bytes(CHANNEL, redeemed=Nanotons(0), total=Nanotons(TON), valid_until=NOW),
        close_bytes(CHANNEL, total=Nanotons(TON), valid_until=NOW),
    ]
    for record in records[1:]:
        with pytest.raises(MalformedRecordError):
            verify_voucher(record + CLIENT_KEY.sign(record), ACCOUNT)
    assert not any(a.startswith(b) for a in records for b in records if a is not b)


def test_the_layout_of_a_voucher() -> None:
    data = encode_voucher(Voucher(channel=CHANNEL, total=Nanotons(5)))
    assert data == b"chrysalis/1 voucher" + b"\xff\xff\xfc\xf7" + b"\xc4" * 32 + (5).to_bytes(8, "big")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Channel(network_id=1 << 31, account=bytes(32)),
        lambda: Channel(network_id=-777, account=bytes(31)),
        lambda: Voucher(channel=CHANNEL, total=Nanotons(-1)),
        lambda: close_bytes(CHANNEL, total=Nanotons(1), valid_until=1 << 32),
        lambda: redemption_bytes(CHANNEL, redeemed=Nanotons(-1), total=Nanotons(1), valid_until=1),
        lambda: replace(DEPOSIT, client_key=b"short"),
    ],
)
def test_values_that_cannot_be_are_refused(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


# --- what may be served -----------------------------------------------------------------------------------------------


def test_a_client_is_served_up_to_its_voucher_and_no_further() -> None:
    tab = take_voucher(TAB, voucher(TON))
    for _ in range(4):
        tab = settle(hold(tab, Nanotons(TON // 4), now=NOW), Nanotons(TON // 4), price=Nanotons(TON // 4))
    assert (tab.left, tab.exposure) == (0, 0)
    with pytest.raises(CreditExceededError, match="cover 0 more"):
        hold(tab, Nanotons(1), now=NOW)


def test_without_a_voucher_nothing_is_served_but_the_credit() -> None:
    with pytest.raises(CreditExceededError):
        hold(TAB, Nanotons(1), now=NOW)
    trusted = replace(TAB, credit=Nanotons(100))
    served = settle(hold(trusted, Nanotons(100), now=NOW), Nanotons(100), price=Nanotons(100))
    assert served.exposure == 100
    with pytest.raises(CreditExceededError):
        hold(served, Nanotons(1), now=NOW)


def test_answers_under_way_count_in_full_until_they_end() -> None:
    tab = hold(take_voucher(TAB, voucher(100)), Nanotons(80), now=NOW)
    with pytest.raises(CreditExceededError):
        hold(tab, Nanotons(21), now=NOW)
    assert settle(tab, Nanotons(80), price=Nanotons(30)).left == 70


@pytest.mark.parametrize(("amount", "price"), [(80, 81), (81, 80), (80, -1)])
def test_a_price_above_its_hold_is_refused(amount: int, price: int) -> None:
    tab = hold(take_voucher(TAB, voucher(100)), Nanotons(80), now=NOW)
    with pytest.raises(ValueError, match="within"):
        settle(tab, Nanotons(amount), price=Nanotons(price))


def test_the_same_voucher_again_changes_nothing() -> None:
    tab = take_voucher(TAB, voucher(TON))
    assert take_voucher(tab, voucher(TON)) is tab


VOUCHERS = [
    pytest.param(voucher(2 * TON, signer=4), BadSignatureError, id="by-another-key"),
    pytest.param(voucher(2 * TON, channel=replace(CHANNEL, network_id=-239)), ChannelMismatchError, id="other-network"),
    pytest.param(
        voucher(2 * TON, channel=replace(CHANNEL, account=bytes(32))), ChannelMismatchError, id="other-channel"
    ),
    pytest.param(voucher(TON - 1), VoucherNotLaterError, id="an-older-one"),
    pytest.param(voucher(10 * TON + 1), VoucherNotCoveredError, id="above-the-deposit"),
    pytest.param(b"", MalformedRecordError, id="nothing"),
]


@pytest.mark.parametrize(("data", "error"), VOUCHERS)
def test_a_voucher_is_refused(data: bytes, error: type[BillingError]) -> None:
    tab = take_voucher(TAB, voucher(TON))
    with pytest.raises(error):
        take_voucher(tab, data)


def test_a_voucher_that_was_redeemed_before_is_worth_nothing() -> None:
    """The operator's own books were lost, the contract's counter was not."""
    fresh = replace(TAB, deposit=replace(DEPOSIT, redeemed=Nanotons(TON)))
    with pytest.raises(VoucherNotLaterError):
        take_voucher(fresh, voucher(TON))


def test_money_the_client_announced_to_take_covers_nothing() -> None:
    leaving = replace(DEPOSIT, announced=Nanotons(9 * TON), due=NOW + 86_400, block=2)
    tab = see_deposit(take_voucher(TAB, voucher(5 * TON)), leaving)
    assert tab.left == TON
    with pytest.raises(VoucherNotCoveredError):
        take_voucher(tab, voucher(6 * TON))
    assert plan_redemption(tab, threshold=Nanotons(100 * TON)) == 5 * TON  # at once, however small
    assert plan_redemption(replace(tab, deposit=DEPOSIT), threshold=Nanotons(100 * TON)) is None


def test_a_deposit_proved_too_long_ago_covers_nothing() -> None:
    """The client may have announced right after the proof, and taken the money when the delay was over."""
    tab = take_voucher(TAB, voucher(TON))
    last = NOW + DEPOSIT.delay_s - REACTION_S
    assert hold(tab, Nanotons(1), now=last - 1).held == 1
    with pytest.raises(StaleDepositError):
        hold(tab, Nanotons(1), now=last)


def test_an_older_state_of_the_channel_is_not_believed_over_a_newer_one() -> None:
    older = replace(DEPOSIT, payable=Nanotons(100 * TON), block=0)
    assert see_deposit(TAB, older) is TAB
    with pytest.raises(ChannelMismatchError):
        see_deposit(TAB, replace(DEPOSIT, channel=replace(CHANNEL, account=bytes(32))))


def test_the_next_voucher_covers_what_is_spent_held_and_asked() -> None:
    tab = hold(take_voucher(TAB, voucher(100)), Nanotons(60), now=NOW)
    assert next_total(tab, Nanotons(40)) is None
    assert next_total(tab, Nanotons(50)) == 110
    assert next_total(replace(tab, credit=Nanotons(5)), Nanotons(50)) == 105
    with pytest.raises(VoucherNotCoveredError, match="deposit at least"):
        next_total(tab, Nanotons(10 * TON))


@given(
    st.lists(st.tuples(st.sampled_from(["sign", "serve", "fail"]), st.integers(1, 500)), max_size=30),
    st.integers(0, 99),
)
def test_exposure_never_exceeds_the_credit(steps: list[tuple[str, int]], credit: int) -> None:
    tab = replace(TAB, credit=Nanotons(credit), deposit=replace(DEPOSIT, payable=Nanotons(3000)))
    for kind, amount in steps:
        try:
            if kind == "sign":
                total = next_total(tab, Nanotons(amount))
                tab = take_voucher(tab, voucher(total)) if total else tab
            else:
                price = Nanotons(amount if kind == "serve" else 0)
                tab = settle(hold(tab, Nanotons(amount), now=NOW), Nanotons(amount), price=price)
        except (CreditExceededError, VoucherNotCoveredError):
            continue
        assert tab.exposure <= credit
        assert tab.spent <= tab.deposit.covered


@pytest.mark.parametrize(
    ("signed", "redeemed", "payable", "due"),
    [
        pytest.param(REDEMPTION_MIN, 0, 10 * TON, REDEMPTION_MIN, id="the-least"),
        pytest.param(REDEMPTION_MIN - 1, 0, 10 * TON, None, id="below-the-least"),
        pytest.param(5 * TON, 2 * TON, 10 * TON, 3 * TON, id="the-difference"),
        pytest.param(5 * TON, 2 * TON, TON, TON, id="what-there-is"),
        pytest.param(5 * TON, 5 * TON, TON, None, id="redeemed"),
    ],
)
def test_what_a_redemption_brings(signed: int, redeemed: int, payable: int, due: int | None) -> None:
    deposit = replace(DEPOSIT, redeemed=Nanotons(redeemed), payable=Nanotons(payable))
    tab = replace(TAB, deposit=deposit, voucher=voucher(signed), signed=Nanotons(signed))
    assert plan_redemption(tab, threshold=Nanotons(0)) == due
    if due is None:
        with pytest.raises(ChannelRefusesError):
            check_redeemable(deposit, voucher(signed))
    else:
        assert check_redeemable(deposit, voucher(signed)).total == signed


# --- the bill ---------------------------------------------------------------------------------------------------------

GRANT = make_grant(slices=(400_000,) * 3)
RECEIPTS = [make_receipt(GRANT, number, host=number % 3) for number in range(9)]
SIGNED = [sign_receipt(receipt, HOST_KEY) for receipt in RECEIPTS]
KEYS = {host: public(2) for host in HOSTS}


def bill(*receipts: bytes, account: bytes = ACCOUNT, slices: tuple[int, ...] = (400_000,) * 3) -> Bill:
    return rebuild_bill(account, receipts, grants=[make_grant(slices=slices)], keys=KEYS)


@given(st.permutations(range(9)), st.lists(st.integers(0, 8), max_size=9))
def test_both_sides_rebuild_the_same_bill_whatever_the_order(order: list[int], repeated: list[int]) -> None:
    batched = sign_receipts([encode_receipt(receipt) for receipt in RECEIPTS], HOST_KEY)  # signed another way
    mine, theirs = bill(*SIGNED), bill(*(batched[i] for i in order), *(SIGNED[i] for i in repeated))
    assert (mine.total, mine.root()) == (theirs.total, theirs.root())
    assert mine.total == sum(receipt.price for receipt in RECEIPTS)


def test_what_one_side_lacks_is_named() -> None:
    mine, theirs = bill(*SIGNED[:7]), bill(*SIGNED[2:])
    assert mine.missing(theirs) == tuple(sorted(receipt.request_hash for receipt in RECEIPTS[7:]))
    assert mine.root() != theirs.root()
    assert bill().total == 0
    assert bill().root() != rebuild_bill(public(4), [], grants=[], keys={}).root()


CHEATS = [
    pytest.param({"account": public(4)}, ReceiptMismatchError, id="of-another-account"),
    pytest.param({"lease": b"x" * 16}, UnknownLeaseError, id="of-a-lease-nobody-granted"),
    pytest.param({"host_id": b"x" * 8}, ReceiptMismatchError, id="of-a-host-without-a-key"),
    pytest.param({"model_root": b"x" * 32}, ReceiptMismatchError, id="of-another-model"),
    pytest.param({"price": Nanotons(RECEIPTS[0].price + 1)}, PriceMismatchError, id="of-a-higher-price"),
]


@pytest.mark.parametrize(("change", "error"), CHEATS)
def test_a_bill_with_a_receipt_is_refused(change: dict[str, object], error: type[BillingError]) -> None:
    with pytest.raises(error):
        bill(*SIGNED[1:], sign_receipt(replace(RECEIPTS[0], **change), HOST_KEY))


def test_a_bill_with_a_forged_or_second_receipt_or_beyond_a_slice_is_refused() -> None:
    with pytest.raises(BadSignatureError):
        bill(sign_receipt(RECEIPTS[0], key(9)))
    with pytest.raises(ReceiptConflictError):
        bill(SIGNED[0], sign_receipt(replace(RECEIPTS[0], issued_at=NOW + 1), HOST_KEY))
    with pytest.raises(SliceExceededError):
        bill(*SIGNED, slices=(RECEIPTS[0].price * 3 - 1, 400_000, 400_000))


def test_a_client_signs_what_its_receipts_and_its_advance_come_to_and_no_more() -> None:
    own = bill(*SIGNED)
    assert check_asked(Nanotons(own.total + 100), own.total, advance=Nanotons(100)) == own.total + 100
    with pytest.raises(OverbilledError):
        check_asked(Nanotons(own.total + 101), own.total, advance=Nanotons(100))
