"""`chrysalis statement` reads the books of an operator that goes on writing."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from billing.books import Books
from billing.receipt import sign_receipt
from chrysalis.cli import app
from client.receipts import ReceiptStore
from tests.billing.support import ACCOUNT, HOST_KEY, NOW, PAYEES, make_grant, make_receipt, public

PAYEE = "0:" + PAYEES[0][1:].hex()
DAY = datetime.fromtimestamp(NOW, UTC).date().isoformat()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=NOW))
        grant = make_grant(1)
        books.post(books.ledger.plan_hold(grant, now=NOW))
        signed = sign_receipt(make_receipt(grant, 1), HOST_KEY)
        books.post_receipt(signed, receipt_key=public(2), payee=PAYEES[0], fee_permille=50, now=NOW)
        yield books


@pytest.fixture
def run(tmp_path: Path):
    def run(*arguments: str, to: str = DAY) -> Result:
        return CliRunner().invoke(app, ["statement", *arguments, "--books", str(tmp_path / "books"), "--to", to])

    return run


def test_a_statement_is_read_while_the_books_are_written(books: Books, run) -> None:
    described = json.loads(run("show", PAYEE, "--json").stdout)
    assert (described["role"], described["name"], described["closing"]) == ("payee", PAYEE, 13_300)
    assert described["movements"][0]["usage"]["prompt_tokens"] == 10
    books.post(books.ledger.plan_deposit("2", ACCOUNT, 7, now=NOW))
    described = json.loads(run("show", ACCOUNT.hex(), "--json", "--daily").stdout)
    assert (described["opening"], described["closing"], described["aside"]) == (0, 200_007 - 14_000, 106_000)
    assert [(day["kind"], day["count"], day["amount"]) for day in described["days"]] == [
        ("deposit", 2, 200_007),
        ("receipt", 1, -14_000),
    ]


def test_a_statement_is_printed_for_people(books: Books, run) -> None:
    said = run("show", "operator").stdout
    assert "opening 0.000000000 TON" in said
    assert "receipt" in said
    assert "closing 0.000000700 TON" in said
    assert "count" in run("show", "operator", "--daily").stdout


def test_balances_sum_to_the_treasury(books: Books, run) -> None:
    described = json.loads(run("balances", "--json").stdout)
    assert described["treasury_and_claims"] == sum(row["amount"] for row in described["balances"]) == 200_000
    assert PAYEE in run("balances").stdout


def test_a_csv_has_values_only_by_the_users_prices(books: Books, run, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(f"date,currency,price,source\n{DAY},EUR,2.5,exchange\n")
    with_prices = ("show", PAYEE, "--csv", "--prices", str(tmp_path / "prices.csv"))
    [row] = csv.DictReader(io.StringIO(run(*with_prices).stdout))
    assert (row["amount_ton"], row["value"], row["price_source"]) == ("0.000013300", "0.000033", "exchange")
    assert "value" not in run("show", PAYEE, "--csv").stdout
    (tmp_path / "prices.csv").write_text("date,currency,price,source\n2020-01-01,EUR,2.5,exchange\n")
    missing = run(*with_prices)
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert f"no price in EUR of {DAY}" in missing.stderr


def test_the_days_named_are_both_inside(books: Books, run) -> None:
    assert len(json.loads(run("show", PAYEE, "--json", "--from", DAY).stdout)["movements"]) == 1
    later = json.loads(run("show", PAYEE, "--json", "--from", "2027-12-31", to="2027-12-31").stdout)
    assert (later["opening"], later["movements"], later["closing"]) == (13_300, [], 13_300)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("show", "nobody"), 2, "nor a TON address", id="no-party"),
        pytest.param(("show", "operator", "--from", "yesterday"), 2, "not a day", id="no-day"),
        pytest.param(("show", "operator", "--from", "2100-01-01"), 2, "before it begins", id="backwards"),
        pytest.param(("show", "operator", "--json", "--csv"), 2, "one of", id="two-forms"),
        pytest.param(("show", "operator", "--prices", "x"), 2, "--csv", id="prices-for-nothing"),
        pytest.param(("show", "operator", "--settings", "x"), 2, "one of", id="two-books"),
        pytest.param(("show", "operator", "--csv", "--prices", "nowhere"), 1, "nowhere", id="no-price-file"),
    ],
)
def test_what_cannot_be_done_is_said(books: Books, run, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert said in result.stderr


def test_books_that_are_not_there_are_an_error_and_are_not_made(run, tmp_path: Path) -> None:
    result = run("balances")
    assert (result.exit_code, "CorruptJournalError" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_clients_receipts_come_to_are_the_operators_lines(books: Books, run, tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path / "receipts.sqlite")
    signed = sign_receipt(make_receipt(make_grant(1), 1), HOST_KEY)
    store.keep(signed, request_id="r", model="m", receipt_key=public(2), now=datetime.fromtimestamp(NOW, UTC))
    arguments = ["statement", "mine", str(tmp_path / "receipts.sqlite"), "--json", "--to", DAY]
    mine = json.loads(CliRunner().invoke(app, arguments).stdout)
    theirs = json.loads(run("show", ACCOUNT.hex(), "--json").stdout)
    assert mine["name"] == theirs["name"] == ACCOUNT.hex()
    assert mine["movements"] == [m for m in theirs["movements"] if m["kind"] == "receipt"]
    assert (mine["opening"], mine["closing"]) == (0, -14_000)
    later = CliRunner().invoke(app, [*arguments[:-1], "2100-01-01", "--from", "2100-01-01"])
    assert (json.loads(later.stdout)["opening"], json.loads(later.stdout)["movements"]) == (-14_000, [])
    store.close()


def test_receipts_of_two_accounts_or_none_are_no_statement(tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite"
    said = CliRunner().invoke(app, ["statement", "mine", str(path)])
    assert (said.exit_code, "unable to open" in said.stderr, path.exists()) == (1, True, False)
    store = ReceiptStore(path)
    assert CliRunner().invoke(app, ["statement", "mine", str(path)]).exit_code == 1
    for account in (ACCOUNT, public(4)):
        signed = sign_receipt(make_receipt(make_grant(1, account=account), account[0]), HOST_KEY)
        store.keep(signed, request_id="r", model="m", receipt_key=public(2), now=datetime.fromtimestamp(NOW, UTC))
    refused = CliRunner().invoke(app, ["statement", "mine", str(path)])
    assert (refused.exit_code, "of 2" in refused.stderr) == (1, True)
    store.close()
