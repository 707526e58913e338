from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.batch import BatchState
from billing.books import Books
from billing.entries import EntryKind, payee_account
from billing.errors import (
    BadSignatureError,
    InsufficientFundsError,
    JournalBusyError,
    MalformedRecordError,
    ReceiptMismatchError,
    SettlementError,
    WrongBatchStateError,
)
from billing.journal import Journal
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.settlement import Delivered, SettlementPolicy
from tests.billing.support import (
    ACCOUNT,
    HOST_KEY,
    HOSTS,
    NOW,
    PAYEES,
    key,
    make_grant,
    make_receipt,
    public,
)
from tests.billing.test_settlement import PROOF, SENT, SIGNED, TX

GRANT = make_grant()
POLICY = SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(1))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=NOW))
        books.post(books.ledger.plan_hold(GRANT, now=NOW))
        yield books


def post(books: Books, receipt: Receipt, signer: int = 2, payee: int = 0) -> None:
    books.post_receipt(
        sign_receipt(receipt, key(signer)),
        receipt_key=public(2),
        payee=PAYEES[payee],
        fee_permille=50,
        now=NOW,
    )


def reopened(books: Books) -> Books:
    """What another process sees after this one is killed."""
    books.close()
    return Books.open(books._journal._path)


def test_a_receipt_is_paid_only_when_the_attested_key_signed_it(books: Books) -> None:
    with pytest.raises(BadSignatureError):
        post(books, make_receipt(GRANT), signer=9)
    post(books, make_receipt(GRANT))
    assert books.ledger.balance(payee_account(PAYEES[0])) == 13_300


def test_a_receipt_cannot_redirect_the_money_to_another_payee(books: Books) -> None:
    with pytest.raises(ReceiptMismatchError, match="payee"):
        post(books, make_receipt(GRANT, host=1), payee=0)


def test_a_restart_restores_every_balance_lease_and_batch(books: Books) -> None:
    post(books, make_receipt(GRANT))
    (batch,) = books.plan_settlement(POLICY, now=NOW)
    books.advance(batch.id, SIGNED, now=NOW)
    balances = {name: value for name, value in books.ledger.balances().items() if value}
    with reopened(books) as again:
        assert {name: value for name, value in again.ledger.balances().items() if value} == balances
        assert again.batches()[batch.id].state is BatchState.SIGNED
        assert again.ledger.lease(GRANT.lease).spent == {HOSTS[0]: 14_000}
        assert again.ledger.totals() == books.ledger.totals()
        post(again, make_receipt(GRANT))
        assert again.ledger.imbalance() == 0


def test_state_and_money_of_a_batch_move_together(books: Books) -> None:
    post(books, make_receipt(GRANT, 0))
    (batch,) = books.plan_settlement(POLICY, now=NOW)
    assert books.open_batches() == (batch,)
    for event in (SIGNED, SENT, TX):
        books.advance(batch.id, event, now=NOW)
    done = books.advance(batch.id, Delivered(paid=frozenset({0})), now=NOW)
    assert done.state is BatchState.CONFIRMED
    assert books.open_batches() == ()
    assert books.ledger.treasury() == 200_000 - 13_300
    assert books.ledger.balance(f"settling:{batch.id}") == 0


def test_an_expired_batch_is_paid_under_a_new_sequence(books: Books) -> None:
    post(books, make_receipt(GRANT))
    (first,) = books.plan_settlement(POLICY, now=NOW)
    for event in (SIGNED, SENT, PROOF):
        books.advance(first.id, event, now=NOW)
    (second,) = books.plan_settlement(POLICY, now=NOW)
    assert (first.sequence, second.sequence) == (0, 1)
    assert second.payouts[0].amount == first.payouts[0].amount


def test_nobody_is_in_two_batches_at_once(books: Books) -> None:
    post(books, make_receipt(GRANT))
    assert len(books.plan_settlement(POLICY, now=NOW)) == 1
    assert books.plan_settlement(POLICY, now=NOW) == ()


def test_an_event_that_does_not_fit_changes_nothing(books: Books) -> None:
    post(books, make_receipt(GRANT))
    (batch,) = books.plan_settlement(POLICY, now=NOW)
    with pytest.raises(WrongBatchStateError):
        books.advance(batch.id, TX, now=NOW)
    with pytest.raises(SettlementError, match="no batch"):
        books.advance("00000009", TX, now=NOW)
    assert books.batches()[batch.id] == batch


def test_a_refused_entry_is_not_in_the_journal(books: Books) -> None:
    with pytest.raises(InsufficientFundsError):
        books.post(books.ledger.plan_hold(make_grant(1), now=NOW))
    assert len(books._journal) == 2


def test_a_repeated_entry_is_not_written_again(books: Books) -> None:
    books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=NOW))
    assert len(books._journal) == 2


def test_the_journal_alone_shows_the_signed_receipt_behind_every_payment(books: Books) -> None:
    receipt = make_receipt(GRANT)
    entry = books.post_receipt(
        sign_receipt(receipt, HOST_KEY),
        receipt_key=public(2),
        payee=PAYEES[0],
        fee_permille=0,
        now=NOW,
    )
    assert (entry.kind, entry.data) == (EntryKind.RECEIPT, sign_receipt(receipt, HOST_KEY))


def test_two_operators_cannot_share_one_journal(books: Books) -> None:
    with pytest.raises(JournalBusyError):
        Books.open(books._journal._path)


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    for number, payload in enumerate(
        [b"{}", b"[]", b"\xff", b'{"entry": {}}', b'{"batch": {}}', b'{"other": 1}', b"1"]
    ):
        with Journal.open(tmp_path / str(number)) as journal:
            journal.append(payload)
        with pytest.raises(MalformedRecordError):
            Books.open(tmp_path / str(number))


def test_what_is_committed_together_is_written_in_one_transaction(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda journal, *some: written.append(len(some)) or append(journal, *some))
    with books.together():
        for number in range(2):
            post(books, make_receipt(GRANT, number))
    assert written == [2]
    balances = dict(books.ledger.balances())
    with reopened(books) as again:
        assert dict(again.ledger.balances()) == balances


def test_when_writing_together_does_not_come_to_its_end_nothing_happened(books: Books) -> None:
    before = dict(books.ledger.balances())
    with pytest.raises(ZeroDivisionError), books.together():
        post(books, make_receipt(GRANT))
        1 / 0  # noqa: B018
    assert dict(books.ledger.balances()) == before
    post(books, make_receipt(GRANT))
    with reopened(books) as again:
        assert again.ledger.is_paid(make_receipt(GRANT).request_hash)


def test_leases_and_batches_that_ended_leave_no_balance_behind(books: Books) -> None:
    books.post(books.ledger.plan_release(GRANT.lease, now=GRANT.not_after + 1000))
    assert set(books.ledger.balances()) == {f"client:{ACCOUNT.hex()}", "treasury"}
    assert list(books.ledger.releasable(GRANT.not_after + 2000)) == []
