"""The billing actor as a plain object: what must work although the chain, or a predecessor, is in the way."""

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing import checkpoint
from billing.books import Books
from billing.errors import (
    BadSignatureError,
    ChainUnreachableError,
    InsufficientFundsError,
    JournalBusyError,
    JournalLostError,
    MalformedRecordError,
    NothingToClaimError,
)
from billing.grant import Grant, HostSlice
from billing.journal import Journal
from billing.lease_request import LeaseRequest, sign_lease_request
from billing.money import Nanotons
from billing.payment import Payment, payment_fields
from billing.settlement import SettlementPolicy
from billing.tariff import Tariff
from billing.ton.devnet import running_devnet
from billing.voucher import VOUCHER_SIZE, Voucher, sign_voucher
from cluster.actors import billing
from cluster.actors.billing import BillingActor
from cluster.cashier import Cashier
from cluster.errors import TroubleError
from cluster.lease import lease_id
from tests.billing.ton.world import payees
from tests.client.support import eventually
from tests.cluster.operators import vault_operator

ACCOUNT = b"\x0a" * 32
OPERATOR = Ed25519PrivateKey.from_private_bytes(b"\xab" * 32)
CLIENT = Ed25519PrivateKey.from_private_bytes(b"\xcd" * 32)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Of an operator whose lite-server does not answer."""
    (tmp_path / "policy.yaml").write_text("roots: production\n")
    for name in ("operator.key", "treasury.key", "ticket.key"):
        (tmp_path / name).write_text("ab" * 32)
        (tmp_path / name).chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = base64.b64encode(bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")).decode()
    values = {
        "chain": {"host": "127.0.0.1", "port": port, "public_key": key, "network_id": -777},
        "registry": "0:" + "ab" * 32,
        "policy": "policy.yaml",
        "state": "state",
        "operator_key": "operator.key",
        "treasury_key": "treasury.key",
        "ticket_key": "ticket.key",
        "relay": "127.0.0.1:8443",
    }
    path = tmp_path / "operator.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
async def actors() -> AsyncIterator[list[BillingActor]]:
    started: list[BillingActor] = []
    yield started
    for actor in started:
        await stop(actor)


async def stop(actor: BillingActor) -> None:
    actor._following.cancel()
    actor._watching.cancel()
    actor._cashier.close()


async def start(settings: Path, actors: list[BillingActor]) -> BillingActor:
    """As Ray does it: the constructor is awaited."""
    actor = BillingActor.__new__(BillingActor)
    await actor.__init__(str(settings))
    actors.append(actor)
    return actor


async def test_the_books_are_open_while_the_chain_does_not_answer(settings, actors) -> None:
    actor = await start(settings, actors)
    assert (await actor.ready()).startswith("0:")
    assert await actor.available(ACCOUNT) == 0
    with pytest.raises(ChainUnreachableError):
        await actor.settle()


async def test_the_actor_pays_from_a_vault_and_hands_out_claims(tmp_path, actors) -> None:
    owed, due = payees(2), SettlementPolicy().threshold
    async with running_devnet(tmp_path / "net") as devnet:
        path = await vault_operator(devnet, tmp_path, {owed[0]: due, owed[1]: due - 1})
        actor = await start(path, actors)
        report = await actor.settle()
        assert (report.open, report.reconciliation.difference) == (0, 0)
        await actor.tick()
        proof = await actor.claim(owed[1])
        assert proof.entitled == due - 1
        with pytest.raises(NothingToClaimError):
            await actor.claim(owed[0])
        statement = await actor.statement()
        assert statement.float is not None and statement.float.surplus > 0
        actor._following.cancel()


async def test_claims_wait_for_the_first_look_at_the_chain(settings, actors) -> None:
    actor = await start(settings, actors)
    with pytest.raises(TroubleError, match="in a few seconds"):
        await actor.claim(bytes(33))


async def test_trouble_nobody_foresaw_does_not_end_the_following_of_the_chain(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(billing, "TICK_S", 0.01)
    actor = await start(settings, actors)
    calls = 0

    def disk_full() -> int:
        nonlocal calls
        calls += 1
        raise OSError("no space left on device")

    monkeypatch.setattr(actor._cashier, "release_expired", disk_full)
    async with asyncio.timeout(5):
        while calls < 3:
            await asyncio.sleep(0.01)
    assert not actor._following.done()


async def test_an_actor_that_lost_its_journal_ends_and_starts_anew(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(billing, "TICK_S", 0.01)
    actor = await start(settings, actors)
    ended = asyncio.Event()

    def ends(code: int) -> None:  # instead of os._exit, which would end the tests too
        assert code == 1
        ended.set()
        raise asyncio.CancelledError

    def lost() -> None:
        raise JournalLostError("the database", "another writer has opened it")

    monkeypatch.setattr(billing.os, "_exit", ends)
    monkeypatch.setattr(actor._cashier.books._journal, "check", lost)
    await asyncio.wait_for(ended.wait(), 5)


async def test_an_actor_waits_for_a_database_that_does_not_answer(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(billing, "TICK_S", 0.01)
    monkeypatch.setattr(billing, "LOCK_WAIT_S", 0.0)
    answers = [JournalLostError("the database", "connection refused")] * 3
    cashier = billing.Cashier

    def opened(**options) -> Cashier:
        if answers:
            raise answers.pop()
        return cashier(**options)

    monkeypatch.setattr(billing, "Cashier", opened)
    actor = await asyncio.wait_for(start(settings, actors), 5)
    assert await actor.imbalance() == 0
    assert answers == []


async def test_without_the_chain_no_voucher_is_taken_and_the_watch_goes_on(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(billing, "TICK_S", 0.01)
    actor = await start(settings, actors)
    request = LeaseRequest(
        operator=OPERATOR.public_key().public_bytes_raw(),
        account=CLIENT.public_key().public_bytes_raw(),
        model="m",
        tier="confidential",
        hosts=1,
        budget=Nanotons(5),
        request_id=bytes(16),
        issued_at=int(time.time()),
    )
    grant = Grant(
        lease=lease_id(request),
        account=request.account,
        operator=request.operator,
        model_root=bytes(32),
        tariff=Tariff(prompt_price=1, completion_price=1),
        hosts=(HostSlice(host_id=bytes(8), slice=Nanotons(5), coefficient=1000),),
        not_after=request.issued_at + 600,
    )
    terms = actor._counter._states.terms(request.account, payment(b"\x00" * VOUCHER_SIZE))
    voucher = sign_voucher(Voucher(channel=terms.channel, total=Nanotons(5)), CLIENT)
    order = sign_lease_request(request, CLIENT)
    with pytest.raises(ChainUnreachableError):
        await actor.place_hold(grant, {**order, "payment": payment_fields(payment(voucher))})
    with pytest.raises(BadSignatureError):
        await actor.place_hold(grant, {**order, "payment": payment_fields(payment(voucher[:-64] + bytes(64)))})
    with pytest.raises(MalformedRecordError):
        await actor.place_hold(grant, {**order, "payment": {"voucher": ""}})
    with pytest.raises(InsufficientFundsError):
        await actor.place_hold(grant, order)
    assert await actor.available(request.account) == 0
    assert not actor._watching.done()


def payment(voucher: bytes) -> Payment:
    return Payment(wallet=bytes(32), delay_s=3600, nonce=0, voucher=voucher)


async def test_the_next_actor_starts_from_a_checkpoint(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "RECORDS_MIN", 3)
    state = settings.parent / "state"
    state.mkdir()
    with Books.open(state / "books.sqlite") as books:
        for number in range(4):
            books.post(books.ledger.plan_deposit(str(number), ACCOUNT, 5, now=number))
    first = await start(settings, actors)
    await eventually((state / "books.checkpoint").exists)
    actors.clear()
    await stop(first)
    second = await start(settings, actors)
    assert second._cashier.books._checkpointed == 4
    assert await second.available(ACCOUNT) == 20


async def test_a_new_actor_waits_until_its_predecessor_has_ended(settings, actors) -> None:
    (settings.parent / "state").mkdir()
    predecessor = Journal.open(settings.parent / "state" / "books.sqlite")
    starting = asyncio.create_task(start(settings, actors))
    await asyncio.sleep(0.2)
    assert not starting.done()
    predecessor.close()
    actor = await asyncio.wait_for(starting, 5)
    assert await actor.imbalance() == 0


async def test_two_actors_never_have_the_same_books(settings, actors, monkeypatch) -> None:
    monkeypatch.setattr(billing, "LOCK_WAIT_S", 0.0)
    await start(settings, actors)
    with pytest.raises(JournalBusyError):
        await start(settings, actors)
