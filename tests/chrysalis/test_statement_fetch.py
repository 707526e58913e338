"""`chrysalis statement fetch`: over HTTP from an operator's books, checked, and compared with the client's own file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn

from billing.books import Books
from billing.receipt import sign_receipt
from billing.ton.cells import payee_of
from client.receipts import ReceiptStore
from serve_apps.lease_api import build_app
from tests.billing.support import HOST_KEY, make_grant, make_receipt
from tests.billing.support import public as numbered
from tests.billing.ton.world import CLIENT_KEY
from tests.chrysalis.conftest import OPERATOR_KEY, Desk, public
from tests.serve.statement_desk import StatementDesk

ACCOUNT = public(CLIENT_KEY)


@contextlib.contextmanager
def served(desk: StatementDesk) -> Iterator[str]:
    """The gateway's statements over HTTP, from a thread; the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        server = uvicorn.Server(uvicorn.Config(build_app(desk), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def gateway(desk: Desk, tmp_path: Path) -> Iterator[str]:
    """Two receipts of the payer's account in the operator's books; they earn for the payer's own wallet."""
    now = int(datetime.now(UTC).timestamp())
    grant = make_grant(1, account=ACCOUNT, slices=(100_000,) * 3, not_after=now + 600)
    payee = payee_of(desk.net.wallet(CLIENT_KEY).address)
    store = ReceiptStore(tmp_path / "receipts.sqlite")
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 500_000, now=now))
        books.post(books.ledger.plan_hold(grant, now=now))
        for number in (1, 2):
            signed = sign_receipt(replace(make_receipt(grant, number), payee=payee, issued_at=now), HOST_KEY)
            books.post_receipt(signed, receipt_key=numbered(2), payee=payee, fee_permille=50, now=now)
            store.keep(signed, request_id=str(number), model="m", receipt_key=numbered(2), now=datetime.now(UTC))
        store.close()
        with served(StatementDesk(tmp_path / "books", public(OPERATOR_KEY))) as url:
            yield url


def test_a_client_compares_the_operators_bill_with_its_own(desk: Desk, payer: Path, gateway: str) -> None:
    own = ("--gateway", gateway, "--key", payer, "--receipts", desk.path("receipts.sqlite"))
    found = desk.done("statement", "fetch", *own)
    assert (found["closing"], found["checked"]) == (472_000, {"receipts": 2, "verified": 2, "unknown_hosts": []})
    assert found["differences"] == []
    store = ReceiptStore(desk.path("receipts.sqlite"))
    store._database.execute("DELETE FROM receipts WHERE request_id = '2'")  # an answer that was cut: no receipt came
    store._database.commit()
    store.close()
    lacks = desk.run("statement", "fetch", *own, "--json")
    assert lacks.exit_code == 4
    assert [(row["difference"], row["amount"]) for row in json.loads(lacks.stdout)["differences"]] == [
        ("missing here", 14_000)
    ]
    words = desk.run("statement", "fetch", *own)
    assert "1 differences from your own receipts" in words.stdout


def test_an_owner_checks_its_earnings_by_its_enclaves_key(desk: Desk, payer: Path, gateway: str) -> None:
    own = ("--gateway", gateway, "--key", payer, "--payee")
    found = desk.done("statement", "fetch", *own, "--receipt-key", numbered(2).hex())
    assert (found["role"], found["closing"], found["checked"]["verified"]) == ("payee", 26_600, 2)
    unknown = desk.done("statement", "fetch", *own)
    assert (unknown["checked"]["verified"], len(unknown["checked"]["unknown_hosts"])) == (0, 1)


def test_a_lying_operator_is_caught(desk: Desk, payer: Path, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = StatementDesk.statement

    async def dearer(self, party, *, start, end):
        found = await honest(self, party, start=start, end=end)
        last = found.movements[-1]
        return replace(found, movements=(*found.movements[:-1], replace(last, amount=last.amount - 1)))

    monkeypatch.setattr(StatementDesk, "statement", dearer)
    result = desk.run("statement", "fetch", "--gateway", gateway, "--key", payer)
    assert (result.exit_code, "StatementMismatchError" in result.stderr, result.stdout) == (1, True, "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("--gateway", "http://127.0.0.1:1"), 2, "ChainUnreachableError", id="gateway-gone"),
        pytest.param(("--receipts", "nowhere"), 2, "receipts", id="no-receipts"),
        pytest.param(("--payee", "--receipts", "x"), 2, "--receipt-key", id="owner-with-receipts"),
        pytest.param(("--operator", "9"), 1, "UnknownOperatorError", id="no-operator"),
        pytest.param(("--receipt-key", "ab"), 2, "64 hex digits", id="no-key"),
    ],
)
def test_what_cannot_be_fetched_is_said(desk: Desk, payer: Path, words, code, said) -> None:
    result = desk.run("statement", "fetch", "--key", payer, *words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
