"""POST /v1/statements over an operator's books: who gets which statement, and who gets none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.books import Books
from billing.errors import NoStatementError
from billing.receipt import sign_receipt
from billing.statement import Party, Role
from billing.statement_check import check_statement
from billing.statement_lines import parse_statement
from billing.ton.cells import payee_of
from billing.ton.channel_office import ChannelPolicy
from billing.ton.statement_request import StatementRequest, sign_statement_request, verify_statement_request
from billing.ton.wallet import Wallet
from cluster.errors import TroubleError
from serve_apps import gateway
from serve_apps.lease_api import build_app
from tests.billing.support import ACCOUNT, HOST_KEY, HOSTS, NOW, key, make_grant, make_receipt, public
from tests.cluster.fleets import fleet
from tests.serve.asgi import Web
from tests.serve.statement_desk import StatementDesk

OWNER, CLIENT = key(5), key(3)
PAYEE = payee_of(Wallet(public_key=public(5), network_id=-777).address)


def ask(signer: Ed25519PrivateKey = CLIENT, **changes) -> dict[str, object]:
    values = {"operator": public(1), "role": Role.CLIENT, "key": ACCOUNT, "start": 0, "end": NOW + 9, "issued_at": NOW}
    return sign_statement_request(StatementRequest(**(values | changes)), signer)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    grant = make_grant(1)
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=NOW))
        books.post(books.ledger.plan_hold(grant, now=NOW))
        signed = sign_receipt(replace(make_receipt(grant, 1), payee=PAYEE), HOST_KEY)
        books.post_receipt(signed, receipt_key=public(2), payee=PAYEE, fee_permille=50, now=NOW)
        desk = StatementDesk(tmp_path / "books", public(1))
        yield Web(build_app(desk, clock=lambda: datetime.fromtimestamp(NOW, UTC)))


async def test_a_client_gets_its_statement_while_the_books_are_open(web: Web) -> None:
    answer = await web.post("/v1/statements", ask())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/jsonl")
    request = verify_statement_request(ask(), operator=public(1))
    checked = check_statement(
        parse_statement(answer.body), request.party(-777), start=0, end=NOW + 9, keys=dict.fromkeys(HOSTS, public(2))
    )
    assert (checked.statement.closing, checked.verified) == (186_000, 1)


async def test_an_owner_gets_the_statement_of_its_wallet(web: Web) -> None:
    answer = await web.post("/v1/statements", ask(OWNER, role=Role.PAYEE, key=public(5)))
    found = parse_statement(answer.body)
    assert (found.party.name, found.closing, len(found.movements)) == (PAYEE, 13_300, 1)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(lambda: ask(OWNER), 401, "invalid_signature", id="signed-by-another"),
        pytest.param(lambda: ask(operator=public(8)), 401, "invalid_signature", id="for-another-operator"),
        pytest.param(lambda: ask() | {"end": NOW + 8}, 401, "invalid_signature", id="another-period"),
        pytest.param(lambda: ask() | {"role": "payee"}, 401, "invalid_signature", id="another-role"),
        pytest.param(lambda: ask(issued_at=NOW - 61), 401, "stale_request", id="old"),
        pytest.param(lambda: ask(issued_at=NOW + 61), 401, "stale_request", id="of-tomorrow"),
        pytest.param(lambda: ask() | {"role": "operator"}, 400, "malformed_request", id="the-operators"),
        pytest.param(lambda: ask() | {"role": ["client"]}, 400, "malformed_request", id="role-no-text"),
        pytest.param(lambda: ask() | {"start": -1}, 400, "malformed_request", id="negative"),
        pytest.param(lambda: ask() | {"start": NOW + 99}, 400, "malformed_request", id="backwards"),
        pytest.param(lambda: ask() | {"key": "zz"}, 400, "malformed_request", id="no-key"),
        pytest.param(lambda: ask() | {"more": 1}, 400, "malformed_request", id="unknown-field"),
    ],
)
async def test_nobody_gets_the_statement_of_another(web: Web, body, status, code) -> None:
    answer = await web.post("/v1/statements", body())
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)


@pytest.fixture
def ray_desk(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gateway.RayDesk:
    """The gateway's own desk over the same books; what it asks the billing actor is answered here."""

    async def ask_billing(method: str, party: Party) -> bool:
        assert method == "knows"
        return party.name in {ACCOUNT, PAYEE}

    monkeypatch.setattr(gateway, "_ask_billing", ask_billing)
    return gateway.RayDesk(
        fleet=fleet(),
        relay="http://127.0.0.1:1",
        ticket_key=bytes(32),
        channels=ChannelPolicy(),
        books=tmp_path / "books",
        network_id=-777,
    )


async def test_the_gateway_reads_the_books_beside_their_writer_one_statement_at_a_time(ray_desk) -> None:
    asked = [ray_desk.statement(Party(Role.CLIENT, ACCOUNT), start=0, end=NOW + 9) for _ in range(2)]
    first, second = await asyncio.gather(*asked, return_exceptions=True)
    assert (first.closing, type(second)) == (186_000, TroubleError)
    again = await ray_desk.statement(Party(Role.PAYEE, PAYEE), start=0, end=NOW + 9)
    assert again.closing == 13_300


async def test_a_stranger_makes_the_gateway_read_nothing(ray_desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "read_statement", lambda *_, **__: pytest.fail("the books were read"))
    with pytest.raises(NoStatementError, match="nothing was deposited"):
        await ray_desk.statement(Party(Role.CLIENT, public(9)), start=0, end=NOW)
