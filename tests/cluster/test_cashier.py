import hashlib
import sqlite3
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import BadSignatureError, InsufficientFundsError, JournalBusyError, MalformedRecordError
from billing.grant import Grant, HostSlice, verify_grant
from billing.hold_book import RELEASE_GRACE_S
from billing.journal import Journal
from billing.lease_request import LeaseRequest, sign_lease_request
from billing.money import Nanotons
from billing.receipt import Receipt, parse_receipt, sign_receipt
from billing.review_book import REVIEW_S
from billing.settlement import SettlementPolicy
from billing.statement import Party, Role
from billing.tariff import Usage, price
from billing.verdict import UnitVerdict, sign_verdict
from cluster.address_book import HostKey
from cluster.cashier import POST_MAX, Cashier
from cluster.errors import LeaseRequestError, ReceiptRefusedError
from cluster.lease import LEASE_S, lease_id
from tests.cluster.enclaves import Clock, OpenEnclave
from tests.cluster.fleets import MODEL, NOW, name_bytes

OPERATOR = Ed25519PrivateKey.from_private_bytes(name_bytes("operator", 32))
CLIENT = Ed25519PrivateKey.from_private_bytes(name_bytes("client", 32))
ACCOUNT = CLIENT.public_key().public_bytes_raw()
HOST = OpenEnclave("a")
USAGE = Usage(prompt_tokens=1000, completion_tokens=500)
PRICE = price(USAGE, MODEL.tariff, coefficient=1000)
REQUEST = LeaseRequest(
    operator=OPERATOR.public_key().public_bytes_raw(),
    account=ACCOUNT,
    model=MODEL.name,
    tier="confidential",
    hosts=1,
    budget=Nanotons(10 * PRICE),
    request_id=b"\x0a" * 16,
    issued_at=int(NOW.timestamp()),
)
ORDER = sign_lease_request(REQUEST, CLIENT)
GRANT = Grant(
    lease=lease_id(REQUEST),
    account=ACCOUNT,
    operator=OPERATOR.public_key().public_bytes_raw(),
    model_root=MODEL.root,
    tariff=MODEL.tariff,
    hosts=(HostSlice(host_id=HOST.host_id, slice=Nanotons(10 * PRICE), coefficient=1000),),
    not_after=int(NOW.timestamp()) + LEASE_S,
)


class Admitted:
    """The registry's answers: one admitted host, five percent."""

    def __init__(self) -> None:
        self.ended_at: int | None = None

    async def keys(self, host_ids) -> dict[bytes, HostKey]:
        key = HostKey(host_id=HOST.host_id, receipt=HOST.receipt, payee=HOST.payee, ended_at=self.ended_at)
        return {HOST.host_id: key} if HOST.host_id in host_ids else {}

    async def fee_permille(self) -> int:
        return 50


def receipt(number: int = 1, *, key=HOST.key, **changes) -> bytes:
    values = {
        "request_hash": hashlib.sha256(bytes([number])).digest(),
        "account": ACCOUNT,
        "lease": GRANT.lease,
        "host_id": HOST.host_id,
        "model_root": MODEL.root,
        "usage": USAGE,
        "price": PRICE,
        "response_hash": b"\x05" * 32,
        "transcript": name_bytes(str(number), 48),
        "payee": HOST.payee,
        "issued_at": int(NOW.timestamp()),
    }
    return sign_receipt(Receipt(**(values | changes)), key)


def _full_disk(*_: object) -> int:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admissions() -> Admitted:
    return Admitted()


@pytest.fixture
def start(tmp_path, clock, admissions):
    opened = []

    def start() -> Cashier:
        cashier = Cashier(
            journal=tmp_path / "journal",
            operator_key=OPERATOR,
            admissions=admissions,
            policy=SettlementPolicy(),
            clock=clock,
        )
        opened.append(cashier)
        return cashier

    yield start
    for cashier in opened:
        cashier.close()


@pytest.fixture
def cashier(start) -> Cashier:
    cashier = start()
    cashier.books.post(cashier.books.ledger.plan_deposit("1:aa", ACCOUNT, 20 * PRICE, now=int(NOW.timestamp())))
    return cashier


def test_a_hold_returns_the_grant_signed_by_the_operator(cashier) -> None:
    assert verify_grant(cashier.place_hold(GRANT, ORDER), OPERATOR.public_key().public_bytes_raw()) == GRANT
    assert cashier.books.ledger.available(ACCOUNT) == 10 * PRICE


async def test_statements_are_for_those_who_were_ever_booked(cashier) -> None:
    client, payee = Party(Role.CLIENT, ACCOUNT), Party(Role.PAYEE, HOST.payee)
    assert [cashier.knows(party) for party in (client, payee, Party(Role.OPERATOR))] == [True, False, False]
    cashier.place_hold(GRANT, ORDER)
    await cashier.post([receipt()])
    assert cashier.knows(payee)
    assert not cashier.knows(Party(Role.CLIENT, b"\x09" * 32))


def test_a_client_whose_whole_money_is_held_is_known(start) -> None:
    cashier = start()
    cashier.books.post(cashier.books.ledger.plan_deposit("1:aa", ACCOUNT, 10 * PRICE, now=int(NOW.timestamp())))
    cashier.place_hold(GRANT, ORDER)
    assert cashier.books.ledger.available(ACCOUNT) == 0
    assert cashier.knows(Party(Role.CLIENT, ACCOUNT))


def test_the_same_lease_is_held_once_and_keeps_its_first_grant(cashier) -> None:
    first = cashier.place_hold(GRANT, ORDER)
    other = replace(GRANT, hosts=(HostSlice(host_id=b"\x07" * 8, slice=Nanotons(5), coefficient=1000),))
    assert cashier.place_hold(other, ORDER) == first
    assert cashier.books.ledger.available(ACCOUNT) == 10 * PRICE


def test_a_client_without_funds_gets_no_grant(cashier) -> None:
    with pytest.raises(InsufficientFundsError, match="deposit at least"):
        poor = replace(REQUEST, account=OPERATOR.public_key().public_bytes_raw())
        grant = replace(GRANT, lease=lease_id(poor), account=poor.account)
        cashier.place_hold(grant, sign_lease_request(poor, OPERATOR))


MORE = replace(GRANT.hosts[0], slice=Nanotons(10 * PRICE + 1))
SECOND = replace(GRANT.hosts[0], host_id=b"\x07" * 8, slice=Nanotons(0))


@pytest.mark.parametrize(
    ("grant", "order", "refusal"),
    [
        pytest.param(GRANT, sign_lease_request(REQUEST, OPERATOR), BadSignatureError, id="not-signed-by-the-account"),
        pytest.param(GRANT, {}, MalformedRecordError, id="nothing-signed"),
        pytest.param(replace(GRANT, account=b"\x0b" * 32), ORDER, LeaseRequestError, id="another-account"),
        pytest.param(replace(GRANT, lease=b"\x0b" * 16), ORDER, LeaseRequestError, id="one-order-for-a-second-lease"),
        pytest.param(replace(GRANT, hosts=(MORE,)), ORDER, LeaseRequestError, id="beyond-the-budget"),
        pytest.param(replace(GRANT, hosts=(*GRANT.hosts, SECOND)), ORDER, LeaseRequestError, id="more-hosts"),
        pytest.param(replace(GRANT, not_after=GRANT.not_after + 61), ORDER, LeaseRequestError, id="longer"),
    ],
)
def test_a_broken_gateway_cannot_hold_money_that_no_client_signed_for(cashier, grant, order, refusal) -> None:
    with pytest.raises(refusal):
        cashier.place_hold(grant, order)
    assert cashier.books.ledger.available(ACCOUNT) == 20 * PRICE


async def test_a_receipt_pays_the_owner_and_the_operator(cashier) -> None:
    cashier.place_hold(GRANT, ORDER)
    (posted,) = await cashier.post([receipt()])
    assert posted.accepted
    statement = cashier.statement()
    assert statement.balances[f"payee:{HOST.payee.hex()}"] + statement.balances["operator:fees"] == PRICE
    assert statement.hosts[HOST.host_id].requests == statement.clients[ACCOUNT].requests == 1
    assert statement.imbalance == 0


async def test_a_receipt_posted_twice_is_paid_once(cashier) -> None:
    cashier.place_hold(GRANT, ORDER)
    posted = await cashier.post([receipt(), receipt()])
    posted += await cashier.post([receipt()])
    assert all(one.accepted for one in posted)
    assert cashier.statement().hosts[HOST.host_id].price == PRICE


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        pytest.param(receipt(key=OpenEnclave("b").key), "BadSignatureError", id="signed-by-another-key"),
        pytest.param(receipt(host_id=b"\x09" * 8), "never admitted", id="host-never-admitted"),
        pytest.param(receipt(payee=b"\0" + b"\x01" * 32), "payee", id="another-payee-than-attested"),
        pytest.param(receipt(price=Nanotons(PRICE + 1)), "PriceMismatchError", id="overcharged"),
        pytest.param(receipt(lease=b"\x0c" * 16), "UnknownLeaseError", id="without-a-lease"),
        pytest.param(receipt()[:-1] + b"\0", "BadSignatureError", id="flipped-byte"),
        pytest.param(b"junk", "MalformedRecordError", id="junk"),
    ],
)
async def test_a_forged_receipt_earns_nothing(cashier, forged, reason) -> None:
    cashier.place_hold(GRANT, ORDER)
    before = dict(cashier.books.ledger.balances())
    (posted,) = await cashier.post([forged])
    assert not posted.accepted
    assert reason in posted.reason
    assert dict(cashier.books.ledger.balances()) == before


async def test_two_hosts_cannot_both_be_paid_for_one_request(cashier) -> None:
    cashier.place_hold(GRANT, ORDER)
    posted = await cashier.post([receipt(), receipt(response_hash=b"\x06" * 32)])
    assert [one.accepted for one in posted] == [True, False]
    assert "ReceiptConflictError" in posted[1].reason


async def test_a_bad_receipt_does_not_hold_up_the_good_ones(cashier) -> None:
    cashier.place_hold(GRANT, ORDER)
    posted = await cashier.post([b"junk", receipt(2)])
    assert [one.accepted for one in posted] == [False, True]


async def test_too_many_receipts_at_once_are_refused(cashier) -> None:
    with pytest.raises(ReceiptRefusedError, match="send fewer"):
        await cashier.post([b""] * (POST_MAX + 1))


async def test_an_expired_lease_gives_the_rest_back(cashier, clock) -> None:
    cashier.place_hold(GRANT, ORDER)
    await cashier.post([receipt()])
    assert cashier.release_expired() == 0
    clock.forward(600 + RELEASE_GRACE_S)
    assert cashier.release_expired() == 1
    assert cashier.books.ledger.available(ACCOUNT) == 19 * PRICE


async def test_after_a_restart_hosts_get_the_time_to_post_before_holds_are_released(cashier, start, clock) -> None:
    cashier.place_hold(GRANT, ORDER)
    cashier.close()
    clock.forward(3600)  # nobody could post meanwhile
    again = start()
    assert again.release_expired() == 0
    (posted,) = await again.post([receipt()])
    assert posted.accepted
    clock.forward(RELEASE_GRACE_S)
    assert again.release_expired() == 1
    assert again.books.ledger.available(ACCOUNT) == 19 * PRICE


async def test_a_receipt_after_its_hold_was_released_is_refused(cashier, clock) -> None:
    cashier.place_hold(GRANT, ORDER)
    clock.forward(600 + RELEASE_GRACE_S)
    cashier.release_expired()
    (posted,) = await cashier.post([receipt()])
    assert not posted.accepted
    assert "LeaseClosedError" in posted.reason


async def test_a_host_that_was_refused_is_paid_for_what_it_did_before(cashier, admissions, clock) -> None:
    cashier.place_hold(GRANT, ORDER)
    admissions.ended_at = int(NOW.timestamp()) + 10
    clock.forward(11)
    (posted,) = await cashier.post([receipt()])
    assert posted.accepted


async def test_a_receipt_signed_after_its_host_was_refused_earns_nothing(cashier, admissions) -> None:
    cashier.place_hold(GRANT, ORDER)
    admissions.ended_at = int(NOW.timestamp()) - 1
    (posted,) = await cashier.post([receipt()])
    assert not posted.accepted
    assert "was refused" in posted.reason


async def test_a_refused_host_cannot_date_receipts_back_for_long(cashier, admissions, clock) -> None:
    cashier.place_hold(GRANT, ORDER)
    admissions.ended_at = int(NOW.timestamp())
    clock.forward(RELEASE_GRACE_S + 1)
    (posted,) = await cashier.post([receipt()])
    assert not posted.accepted
    assert cashier.statement().hosts == {}


async def test_when_the_disk_refuses_a_batch_of_receipts_none_of_them_was_posted(cashier, monkeypatch) -> None:
    cashier.place_hold(GRANT, ORDER)
    before = cashier.statement()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", _full_disk)
        with pytest.raises(sqlite3.OperationalError):
            await cashier.post([receipt(1), receipt(2)])
    assert cashier.statement() == before
    assert all(posted.accepted for posted in await cashier.post([receipt(1), receipt(2)]))
    assert cashier.statement().hosts[HOST.host_id].requests == 2


async def test_receipts_of_one_call_cannot_together_exceed_a_slice(cashier) -> None:
    cashier.place_hold(GRANT, ORDER)
    posted = await cashier.post([receipt(number) for number in range(12)])
    assert [one.accepted for one in posted] == [True] * 10 + [False] * 2
    assert "SliceExceededError" in posted[10].reason


def test_nothing_is_held_for_a_grant_that_this_operator_cannot_sign(cashier) -> None:
    with pytest.raises(ValueError, match="signing key"):
        cashier.place_hold(replace(GRANT, operator=b"\x01" * 32), ORDER)
    assert cashier.books.ledger.available(ACCOUNT) == 20 * PRICE


async def test_a_restart_rebuilds_books_and_tallies_from_the_journal(cashier, start) -> None:
    cashier.place_hold(GRANT, ORDER)
    await cashier.post([receipt(1), receipt(2)])
    before = cashier.statement()
    cashier.close()
    again = start()
    assert again.statement() == replace(before, refused=0)
    (posted,) = await again.post([receipt(1)])
    assert posted.accepted
    assert again.statement().hosts == before.hosts


def test_a_second_cashier_on_the_same_journal_is_refused(cashier, start) -> None:
    with pytest.raises(JournalBusyError):
        start()


OPEN_REQUEST = replace(REQUEST, tier="open", request_id=b"\x0b" * 16)
OPEN_GRANT = replace(GRANT, lease=lease_id(OPEN_REQUEST), review=True)


def unit_verdict(*receipts: bytes, unit: int = 1, **changes) -> bytes:
    values = {
        "operator": OPERATOR.public_key().public_bytes_raw(),
        "account": ACCOUNT,
        "unit": unit.to_bytes(16, "big"),
        "issued_at": int(NOW.timestamp()),
        "credited": tuple(sorted(parse_receipt(signed).request_hash for signed in receipts)),
        "refused": (),
    }
    return sign_verdict(UnitVerdict(**(values | changes)), CLIENT)


@pytest.fixture
def open_cashier(cashier) -> Cashier:
    cashier.place_hold(OPEN_GRANT, sign_lease_request(OPEN_REQUEST, CLIENT))
    return cashier


async def test_a_verdict_brings_its_receipts_and_each_is_counted_once(open_cashier, start) -> None:
    first = receipt(1, lease=OPEN_GRANT.lease)
    assert [posted.accepted for posted in await open_cashier.post([first, first])] == [True, True]
    assert (open_cashier.statement().in_review, open_cashier.statement().hosts) == (PRICE, {})
    second = receipt(2, lease=OPEN_GRANT.lease)
    for _ in range(2):
        await open_cashier.judge(unit_verdict(first), [first])
        await open_cashier.judge(unit_verdict(second, unit=2), [second])
    statement = open_cashier.statement()
    assert (statement.in_review, statement.imbalance, statement.hosts[HOST.host_id].requests) == (0, 0, 2)
    assert statement.payees[0].earned == 2 * (PRICE - PRICE * 50 // 1000)
    open_cashier.close()
    assert start().statement().hosts == statement.hosts


async def test_a_verdict_with_receipts_that_do_not_hold_or_do_not_belong_is_refused(open_cashier) -> None:
    good = receipt(1, lease=OPEN_GRANT.lease)
    with pytest.raises(ReceiptRefusedError, match="no copy that the verdict names"):
        await open_cashier.judge(unit_verdict(good), [receipt(2, lease=OPEN_GRANT.lease)])
    forged = receipt(1, lease=OPEN_GRANT.lease, key=CLIENT)
    with pytest.raises(ReceiptRefusedError, match="is refused: BadSignatureError"):
        await open_cashier.judge(unit_verdict(good), [forged])
    with pytest.raises(MalformedRecordError):
        await open_cashier.judge(unit_verdict(good, operator=b"\x01" * 32), [good])
    assert open_cashier.statement().in_review == 0


async def test_a_receipt_that_earns_nothing_does_not_take_the_others_their_verdict(open_cashier) -> None:
    """A host that signs beyond its slice gives its client a receipt that the books refuse."""
    good = receipt(1, lease=OPEN_GRANT.lease)
    greedy = receipt(2, lease=OPEN_GRANT.lease, host_id=b"stranger")
    with pytest.raises(ReceiptRefusedError, match="never admitted"):
        await open_cashier.judge(unit_verdict(good, greedy), [good, greedy])
    alone = unit_verdict(good, unit=2)
    await open_cashier.judge(alone, [good])
    assert open_cashier.statement().hosts[HOST.host_id].requests == 1


async def test_receipts_without_a_verdict_are_paid_a_day_later_and_not_just_after_a_start(open_cashier, clock) -> None:
    await open_cashier.post([receipt(1, lease=OPEN_GRANT.lease)])
    assert open_cashier.end_reviews() == 0
    clock.forward(REVIEW_S)
    assert open_cashier.end_reviews() == 1
    assert open_cashier.statement().hosts[HOST.host_id].requests == 1
    assert open_cashier.end_reviews() == 0
