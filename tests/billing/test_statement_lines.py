"""A statement on the wire and what it proves: cut, spoilt or wrong ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.bill import Bill, Difference
from billing.booked import read_statement
from billing.books import Books
from billing.entries import EntryKind
from billing.errors import BadSignatureError, BillingError, MalformedRecordError, StatementTooLongError
from billing.receipt import encode_receipt, sign_receipt, sign_receipts
from billing.statement import Movement, Party, Role, Statement
from billing.statement_check import check_statement
from billing.statement_lines import encode_statement, parse_statement
from billing.verdict import sign_verdict
from tests.billing.support import (
    ACCOUNT,
    HOST_KEY,
    HOSTS,
    NOW,
    OPEN_HOSTS,
    OPEN_PAYEES,
    PAYEES,
    key,
    make_grant,
    make_open_grant,
    make_open_receipt,
    make_receipt,
    make_verdict,
    public,
)

CLIENT, PAYEE = Party(Role.CLIENT, ACCOUNT), Party(Role.PAYEE, PAYEES[0])
GRANT = make_grant(1, slices=(100_000,) * 3)
PERIOD = {"start": 0, "end": NOW + 1000}
KEYS = {host: public(2) for host in HOSTS}


def statement(folder: Path, party: Party = CLIENT, receipts: int = 3, **period: int) -> Statement:
    """The party's, out of books with a deposit, a lease and receipts of it."""
    with Books.open(folder / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=NOW))
        grant = GRANT
        books.post(books.ledger.plan_hold(grant, now=NOW))
        for number in range(receipts):
            signed = sign_receipt(make_receipt(grant, number), HOST_KEY)
            books.post_receipt(signed, receipt_key=public(2), payee=PAYEES[0], fee_permille=50, now=NOW)
    return read_statement(folder / "books", party, **(PERIOD | period))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Statement:
    return statement(tmp_path_factory.mktemp("books"))


@pytest.fixture(scope="module")
def wire(sent: Statement) -> bytes:
    return b"".join(encode_statement(sent))


def check(found: Statement, party: Party = CLIENT, **more):
    return check_statement(found, party, **(PERIOD | {"keys": KEYS} | more))


def test_what_was_sent_is_what_is_read_and_every_receipt_holds(sent: Statement, wire: bytes) -> None:
    assert parse_statement(wire) == sent
    checked = check(parse_statement(wire))
    assert (len(checked.receipts), checked.verified, checked.unknown_hosts) == (3, 3, ())
    assert sent.closing == 500_000 - sum(receipt.price for receipt in checked.receipts.values())


def test_a_payees_statement_holds_by_its_enclaves_key(tmp_path: Path) -> None:
    found = parse_statement(b"".join(encode_statement(statement(tmp_path, PAYEE))))
    assert check(found, PAYEE, keys={}, candidates=[public(9), public(2)]).verified == 3
    unknown = check(found, PAYEE, keys={}, candidates=[public(9)])
    assert (unknown.verified, unknown.unknown_hosts) == (0, tuple({r.host_id for r in unknown.receipts.values()}))


def test_a_statement_that_breaks_off_anywhere_is_none(wire: bytes) -> None:
    for end in range(0, len(wire), 7):
        with pytest.raises(MalformedRecordError):
            parse_statement(wire[:end])


def test_a_line_that_is_left_out_is_noticed(wire: bytes) -> None:
    lines = wire.splitlines(keepends=True)
    for left_out in range(len(lines)):
        with pytest.raises(MalformedRecordError):
            parse_statement(b"".join(lines[:left_out] + lines[left_out + 1 :]))


@given(st.data())
def test_bytes_of_a_stranger_raise_nothing_but_billings_errors(wire: bytes, data: st.DataObject) -> None:
    spoilt = bytearray(wire)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(parse_statement(bytes(spoilt)))
    except BillingError:
        return


@pytest.mark.parametrize(
    "line",
    [b"[]", b"7", b'{"at":1}', b'{"at":-1,"kind":"deposit","reference":"1","amount":1}', b"{" * 5000, b'{"at":"x"}'],
)
def test_a_line_that_is_no_movement_is_refused(wire: bytes, line: bytes) -> None:
    lines = wire.splitlines()
    with pytest.raises(MalformedRecordError):
        parse_statement(b"\n".join([lines[0], line, lines[-1], b""]))


def changed(sent: Statement, number: int, **fields) -> Statement:
    movements = list(sent.movements)
    movements[number] = replace(movements[number], **fields)
    return replace(sent, movements=tuple(movements))


def test_receipts_that_do_not_bear_their_movements_out_are_refused(sent: Statement) -> None:
    first, second = (movement for movement in sent.movements[1:3])
    forged = sign_receipt(make_receipt(GRANT, 1), key(9))
    foreign = sign_receipt(make_receipt(make_grant(1, account=public(4)), 1), HOST_KEY)
    for wrong in (
        changed(sent, 1, amount=first.amount - 1),
        changed(sent, 1, at=NOW + 5000),
        changed(sent, 2, reference=first.reference),
        changed(sent, 2, signed=first.signed, reference=first.reference, amount=first.amount),
        changed(sent, 2, signed=foreign),
        replace(sent, party=Party(Role.CLIENT, public(4))),
        replace(sent, start=1),
    ):
        with pytest.raises(BillingError):
            check(wrong)
    with pytest.raises(BadSignatureError):
        check(changed(sent, 2, signed=forged, amount=second.amount))


def test_receipts_that_share_a_signature_are_checked_too(tmp_path: Path) -> None:
    grant = GRANT
    signed = sign_receipts([encode_receipt(make_receipt(grant, number)) for number in range(3)], HOST_KEY)
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=NOW))
        books.post(books.ledger.plan_hold(grant, now=NOW))
        for one in signed:
            books.post_receipt(one, receipt_key=public(2), payee=PAYEES[0], fee_permille=50, now=NOW)
    sent = read_statement(tmp_path / "books", CLIENT, **PERIOD)
    assert check(parse_statement(b"".join(encode_statement(sent)))).verified == 3


def test_both_bills_are_compared_request_by_request(sent: Statement) -> None:
    checked = check(sent)
    own = dict(checked.receipts)
    assert checked.compare(Bill(account=ACCOUNT, receipts=own)) == ()
    cut, _ = own.popitem()
    extra = make_receipt(GRANT, 77)
    own[extra.request_hash] = extra
    later = replace(make_receipt(GRANT, 78), issued_at=PERIOD["end"])
    own[later.request_hash] = later
    findings = {each.request_hash: each for each in checked.compare(Bill(account=ACCOUNT, receipts=own))}
    assert {name: each.difference for name, each in findings.items()} == {
        cut: Difference.MISSING_HERE,
        extra.request_hash: Difference.MISSING_THERE,
    }
    assert sum(each.amount for each in findings.values()) == checked.receipts[cut].price - extra.price


def test_a_statement_longer_than_an_answer_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.booked.MOVEMENTS_MAX", 3)
    with pytest.raises(StatementTooLongError):
        statement(tmp_path)
    assert json.loads(next(encode_statement(read_statement(tmp_path / "books", CLIENT, start=0, end=1))))


def test_reviewed_credited_and_refused_amounts_stand_in_the_statements_of_both(tmp_path: Path) -> None:
    grant = make_open_grant(3)
    first, second, liar, waits = (make_open_receipt(grant, number, number) for number in range(4))
    price = first.price
    verdict = make_verdict(1, [first, second], [liar])
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=NOW))
        books.post(books.ledger.plan_hold(grant, now=NOW))
        for receipt in (first, second, liar, waits):
            signed = sign_receipt(receipt, HOST_KEY)
            books.post_receipt(signed, receipt_key=public(2), payee=receipt.payee, fee_permille=50, now=NOW)
        books.post_verdict(verdict, sign_verdict(verdict, key(3)), now=NOW + 1)
    mine, honest, lied = (
        parse_statement(b"".join(encode_statement(read_statement(tmp_path / "books", party, **PERIOD))))
        for party in (CLIENT, Party(Role.PAYEE, OPEN_PAYEES[0]), Party(Role.PAYEE, OPEN_PAYEES[2]))
    )
    kinds = EntryKind.REVIEW, EntryKind.RECEIPT, EntryKind.REFUSAL
    assert [mine.priced(kind) for kind in kinds] == [4 * price, 2 * price, price]
    assert (mine.closing, mine.aside) == (500_000 - 2 * price, grant.amount - 3 * price)
    assert [honest.priced(kind) for kind in kinds] == [price, price, 0]
    assert [lied.priced(kind) for kind in kinds] == [price, 0, price]
    assert (honest.closing, lied.closing) == (price - price * 50 // 1000, 0)
    checked = check_statement(mine, CLIENT, **PERIOD, keys=dict.fromkeys(OPEN_HOSTS, public(2)))
    assert set(checked.receipts) == {first.request_hash, second.request_hash}
    kept = Bill(account=ACCOUNT, receipts={one.request_hash: one for one in (first, second, waits)})
    assert checked.compare(kept) == ()


@pytest.mark.parametrize("change", [{"price": -1}, {"price": None}, {"price": "1"}, {"receipt": ""}])
def test_a_review_says_its_price_and_nothing_else(change: dict[str, object]) -> None:
    movement = Movement(at=NOW, kind=EntryKind.REVIEW, reference="review:00", amount=0, price=5)
    whole = Statement(party=CLIENT, start=0, end=NOW + 1, opening=0, movements=(movement,), aside=0)
    head, line, tail = b"".join(encode_statement(whole)).splitlines(keepends=True)
    assert parse_statement(head + line + tail) == whole
    fields = {name: value for name, value in (json.loads(line) | change).items() if value is not None}
    with pytest.raises(MalformedRecordError):
        parse_statement(head + json.dumps(fields).encode() + b"\n" + tail)
