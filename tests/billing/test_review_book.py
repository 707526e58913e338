"""Receipts of open hosts wait for a verdict: what it may refuse, what it may not, and that money moves once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.books import Books
from billing.entries import OPERATOR_FEES, Entry, EntryKind, client_account, hold_account, payee_account
from billing.errors import (
    BadSignatureError,
    MalformedRecordError,
    ReceiptConflictError,
    SliceExceededError,
    UnknownReviewError,
    VerdictConflictError,
    VerdictLateError,
    VerdictRefusedError,
)
from billing.hold_book import RELEASE_GRACE_S
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.review_book import REVIEW_S
from billing.verdict import (
    COPIES_MAX,
    QUORUM,
    RESULTS_MAX,
    VERDICT_SIZE_MAX,
    UnitVerdict,
    encode_verdict,
    sign_verdict,
    verify_verdict,
)
from tests.billing.support import (
    ACCOUNT,
    HOST_KEY,
    NOW,
    OPEN_PAYEES,
    OPERATOR,
    key,
    make_grant,
    make_open_grant,
    make_open_receipt,
    make_verdict,
    public,
)

DEPOSIT = 1_000_000
FEE = 50
GRANT = make_open_grant()
PRICE = make_open_receipt(GRANT, 0, 0).price


class World:
    """A ledger with one open lease, and its journal."""

    def __init__(self) -> None:
        self.ledger, self.entries = Ledger(), list[Entry]()
        self.apply(self.ledger.plan_deposit("first", ACCOUNT, DEPOSIT, now=NOW))
        self.apply(self.ledger.plan_hold(GRANT, now=NOW))

    def apply(self, *entries: Entry) -> None:
        for entry in entries:
            if not self.ledger.has(entry):
                self.entries.append(entry)
            self.ledger.apply(entry)

    def post(self, *receipts: Receipt, now: int = NOW) -> None:
        for receipt in receipts:
            signed = sign_receipt(receipt, HOST_KEY)
            entry = self.ledger.plan_receipt(receipt, signed=signed, fee_permille=FEE, now=now)
            self.apply(entry, *self.ledger.reviews.plan_late(entry, now=now))

    def judge(self, verdict: UnitVerdict, *, now: int = NOW) -> None:
        signer = key(3) if verdict.account == ACCOUNT else key(4)
        self.apply(*self.ledger.plan_verdict(verdict, sign_verdict(verdict, signer), now=now))

    def earned(self, number: int) -> int:
        return self.ledger.earned(OPEN_PAYEES[number])

    def check(self) -> None:
        assert self.ledger.imbalance() == 0
        again = Ledger.replay(self.entries)
        assert dict(again.balances()) == dict(self.ledger.balances())
        assert list(again.reviews.open()) == list(self.ledger.reviews.open())


@pytest.fixture
def world():
    world = World()
    yield world
    world.check()


def copies(*hosts: int, first: int = 0) -> list[Receipt]:
    return [make_open_receipt(GRANT, first + number, host) for number, host in enumerate(hosts)]


def test_a_receipt_of_an_open_lease_earns_nothing_before_its_verdict(world: World) -> None:
    (receipt,) = copies(0)
    world.post(receipt, receipt)
    assert (world.earned(0), world.ledger.is_paid(receipt.request_hash)) == (0, False)
    assert world.ledger.balance(hold_account(GRANT.lease)) == GRANT.amount - receipt.price
    assert [review.price for review in world.ledger.reviews.open()] == [receipt.price]


def test_a_receipt_of_an_attested_lease_is_paid_at_once(world: World) -> None:
    grant = make_grant(5)
    receipt = replace(make_open_receipt(GRANT, 1, 0), lease=grant.lease, host_id=grant.hosts[0].host_id)
    world.apply(world.ledger.plan_hold(grant, now=NOW))
    world.post(receipt)
    assert world.ledger.is_paid(receipt.request_hash)
    with pytest.raises(ReceiptConflictError):  # and never again under an open lease
        world.post(make_open_receipt(GRANT, 1, 0))


def test_a_verdict_pays_who_agrees_and_gives_the_client_the_rest_back(world: World) -> None:
    first, second, liar = copies(0, 1, 2)
    world.post(first, second, liar)
    before = world.ledger.available(ACCOUNT)
    for _ in range(2):
        world.judge(make_verdict(1, [first, second], [liar]))
    fee = PRICE * FEE // 1000
    assert [world.earned(number) for number in range(3)] == [PRICE - fee, PRICE - fee, 0]
    assert world.ledger.balance(OPERATOR_FEES) == 2 * fee
    assert world.ledger.available(ACCOUNT) == before + PRICE
    world.post(first, liar)  # acknowledged to its host, and changes nothing
    assert world.ledger.available(ACCOUNT) == before + PRICE


def test_a_lone_copy_is_credited_without_others(world: World) -> None:
    (receipt,) = copies(3)
    world.post(receipt)
    world.judge(make_verdict(1, [receipt]))
    assert world.earned(3) > 0


@pytest.mark.parametrize(
    "credited",
    [pytest.param([], id="nobody"), pytest.param([0], id="one"), pytest.param([0, 2], id="the-refused-owner")],
)
def test_a_client_cannot_refuse_what_it_pays_no_quorum_of_others_for(world: World, credited: list[int]) -> None:
    paid, refused = copies(*credited), make_open_receipt(GRANT, 9, 2)
    world.post(*paid, refused)
    with pytest.raises(VerdictRefusedError):
        world.judge(make_verdict(1, paid, [refused]))


def test_two_hosts_of_one_owner_are_no_quorum(world: World) -> None:
    same = [make_open_receipt(GRANT, number, number, payee=0) for number in (0, 1)]
    refused = make_open_receipt(GRANT, 9, 2)
    world.post(*same, refused)
    with pytest.raises(VerdictRefusedError, match="1 other payees"):
        world.judge(make_verdict(1, same, [refused]))


def test_one_verdict_refuses_one_copy_of_an_owner_at_most(world: World) -> None:
    right = copies(0, 1)
    wrong = [make_open_receipt(GRANT, 5, 2), make_open_receipt(GRANT, 6, 2)]
    world.post(*right, *wrong)
    with pytest.raises(VerdictRefusedError, match="several copies of one payee"):
        world.judge(make_verdict(1, right, wrong))
    late = [make_open_receipt(GRANT, 7, 3), make_open_receipt(GRANT, 8, 3)]
    world.judge(make_verdict(1, right, late))
    world.post(*late)
    assert world.earned(3) == PRICE - PRICE * FEE // 1000  # the first was refused, the second is paid


def test_a_unit_fails_after_results_of_six_owners_and_not_of_five(world: World) -> None:
    all_six = copies(*range(RESULTS_MAX))
    world.post(*all_six)
    with pytest.raises(VerdictRefusedError, match="these are of 5"):
        world.judge(make_verdict(1, [], all_six[:5]))
    before = world.ledger.available(ACCOUNT)
    world.judge(make_verdict(1, [], all_six))
    assert world.ledger.available(ACCOUNT) == before + 6 * PRICE
    assert sum(world.earned(number) for number in range(6)) == 0


def test_a_failed_unit_needs_all_its_receipts(world: World) -> None:
    world.post(*copies(0, 1, 2, 3, 4))
    with pytest.raises(UnknownReviewError):
        world.judge(make_verdict(1, [], copies(*range(6))))


def test_a_verdict_is_final(world: World) -> None:
    first, second, third = copies(0, 1, 2)
    world.post(first, second, third)
    world.judge(make_verdict(1, [first, second], [third]))
    for other in (make_verdict(1, [first, second, third]), make_verdict(2, [third]), make_verdict(3, [first])):
        with pytest.raises(VerdictConflictError):
            world.judge(other)


def test_nobody_judges_for_another_account_or_across_models(world: World) -> None:
    first, second = copies(0, 1)
    world.post(first, second)
    with pytest.raises(VerdictRefusedError, match="another account"):
        world.judge(make_verdict(1, [first], account=public(4)))
    other = replace(make_open_grant(8), model_root=b"x" * 32)
    world.apply(world.ledger.plan_hold(other, now=NOW))
    foreign = replace(make_open_receipt(other, 7, 2), model_root=b"x" * 32)
    world.post(foreign)
    with pytest.raises(VerdictRefusedError, match="different models"):
        world.judge(make_verdict(1, [first, second], [foreign]))


def test_a_credited_copy_has_to_be_known(world: World) -> None:
    with pytest.raises(UnknownReviewError):
        world.judge(make_verdict(1, copies(0)))


def test_a_receipt_that_comes_after_the_verdict_follows_it(world: World) -> None:
    first, second, late = copies(0, 1, 2)
    same_owner = make_open_receipt(GRANT, 8, 0)
    world.post(first, second)
    world.judge(make_verdict(1, [first, second], [late, same_owner]))
    before = world.ledger.available(ACCOUNT)
    world.post(late)
    assert (world.earned(2), world.ledger.available(ACCOUNT)) == (0, before + PRICE)
    world.post(same_owner)  # only one other owner was credited beside this one: that is no quorum
    assert world.earned(0) == 2 * (PRICE - PRICE * FEE // 1000)
    assert list(world.ledger.reviews.open()) == []


def test_a_silent_client_starves_nobody(world: World) -> None:
    first, second, third = copies(0, 1, 2)
    world.post(first)
    world.post(second, third, now=NOW + 100)
    assert world.ledger.plan_review_ends(now=NOW + REVIEW_S - 1) == ()
    world.apply(*world.ledger.plan_review_ends(now=NOW + REVIEW_S))
    assert (world.earned(0) > 0, world.earned(1)) == (True, 0)
    with pytest.raises(VerdictLateError):
        world.judge(make_verdict(1, [second, third], [first]), now=NOW + REVIEW_S)
    world.judge(make_verdict(2, [first, second]), now=NOW + REVIEW_S)  # what was paid may be credited
    assert world.earned(1) > 0


def test_money_in_review_outlives_its_hold_and_its_slice_stays_used(world: World) -> None:
    receipts = [make_open_receipt(GRANT, number, 0) for number in range(3)]
    world.post(*receipts[:2])
    fat = make_open_receipt(GRANT, 4, 0, prompt=40_000 * 1000 // 200)
    with pytest.raises(SliceExceededError):
        world.post(fat)
    end = GRANT.not_after + RELEASE_GRACE_S
    world.apply(world.ledger.plan_release(GRANT.lease, now=end))
    assert world.ledger.available(ACCOUNT) == DEPOSIT - 2 * PRICE
    world.judge(make_verdict(1, receipts[:1]), now=end)
    world.judge(make_verdict(2, receipts[1:2]), now=end)
    assert world.ledger.balance(payee_account(OPEN_PAYEES[0])) == world.earned(0) > 0


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)), st.data())
def test_whatever_comes_first_the_money_ends_in_the_same_places(order: list[int], data: st.DataObject) -> None:
    """Receipts of refused copies before or after the verdict, the verdict once or twice: one outcome."""
    right, wrong = copies(0, 1, 2), copies(3, 4, 5, first=3)
    receipts = right + wrong
    verdict = make_verdict(1, right, wrong)
    world = World()
    world.post(*right)
    at = data.draw(st.integers(0, 6))
    for number, which in enumerate([*order, 0]):
        if number == at or data.draw(st.booleans()):
            world.judge(verdict)
        world.post(receipts[which])
    world.judge(verdict)
    world.check()
    assert [world.earned(number) > 0 for number in range(6)] == [True] * 3 + [False] * 3
    held = world.ledger.balance(hold_account(GRANT.lease))
    assert world.ledger.available(ACCOUNT) + held == DEPOSIT - 3 * PRICE
    assert sum(entry.kind is EntryKind.REFUSAL for entry in world.entries) == 3


def test_the_books_survive_a_restart_between_review_and_verdict(tmp_path) -> None:
    receipts = copies(0, 1, 2)
    verdict = make_verdict(1, receipts[:2], receipts[2:])
    signed = sign_verdict(verdict, key(3))
    path = tmp_path / "books.sqlite"
    with Books.open(path) as books:
        books.post(books.ledger.plan_deposit("first", ACCOUNT, DEPOSIT, now=NOW))
        books.post(books.ledger.plan_hold(GRANT, now=NOW))
        for receipt in receipts[:2]:
            _post(books, receipt)
    with Books.open(path) as books:
        assert len(books.post_verdict(verdict, signed, now=NOW)) == 3
    with Books.open(path) as books:
        assert len(books.post_verdict(verdict, signed, now=NOW + 5)) == 1  # it is there, and nothing happens
        _post(books, receipts[2])
        assert books.ledger.earned(OPEN_PAYEES[2]) == 0
        _post(books, receipts[2])
        before = dict(books.ledger.balances())
    with Books.open(path) as books:
        assert dict(books.ledger.balances()) == before
        assert books.ledger.balance(client_account(ACCOUNT)) == DEPOSIT - GRANT.amount + PRICE


def _post(books: Books, receipt: Receipt) -> None:
    books.post_receipt(
        sign_receipt(receipt, HOST_KEY), receipt_key=public(2), payee=receipt.payee, fee_permille=FEE, now=NOW
    )


def test_a_verdict_for_other_books_or_signed_by_another_is_refused() -> None:
    verdict = make_verdict(1, copies(0))
    signed = sign_verdict(verdict, key(3))
    assert verify_verdict(signed, public(1)) == verdict
    with pytest.raises(MalformedRecordError, match="another operator"):
        verify_verdict(signed, public(9))
    with pytest.raises(BadSignatureError):
        verify_verdict(encode_verdict(verdict) + OPERATOR.sign(encode_verdict(verdict)), public(1))
    with pytest.raises(ValueError, match="signing key"):
        sign_verdict(verdict, OPERATOR)


def test_a_verdict_has_one_spelling_and_a_limit() -> None:
    hashes = tuple(bytes([number]) * 32 for number in range(COPIES_MAX + 1))
    verdict = make_verdict(1, copies(0))
    assert len(sign_verdict(replace(verdict, credited=hashes[:-1]), key(3))) == VERDICT_SIZE_MAX
    for wrong in (
        {"credited": hashes},
        {"credited": ()},
        {"credited": (hashes[1], hashes[0])},
        {"credited": (hashes[0], hashes[0])},
        {"refused": verdict.credited},
        {"unit": b"x"},
    ):
        with pytest.raises(ValueError):
            replace(verdict, **wrong)
    assert QUORUM < RESULTS_MAX <= COPIES_MAX
    assert Nanotons(PRICE) == PRICE
