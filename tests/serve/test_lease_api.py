import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.verdict import Tier
from billing.channel_book import AgreedClose
from billing.claim_proof import ClaimProof, format_address, prove_claim
from billing.entitlements import Entitlements
from billing.errors import (
    ChainUnreachableError,
    ChannelEndingError,
    ChannelMismatchError,
    ChannelRefusesError,
    ChannelTermsError,
    InsufficientFundsError,
    MissingEntitlementsError,
    UnknownReviewError,
    VerdictConflictError,
    VerdictLateError,
    VerdictRefusedError,
    VoucherNeededError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
    WrongContractError,
)
from billing.grant import Grant, sign_grant, verify_grant
from billing.lease_request import LeaseRequest, sign_lease_request, verify_lease_request
from billing.money import Nanotons
from billing.payment import CloseOrder, Payment, close_order_fields, payment_fields
from billing.ton.channel_office import ChannelPolicy
from billing.verdict import UnitVerdict, sign_verdict
from billing.voucher import VOUCHER_SIZE
from cluster.errors import ReceiptRefusedError, TroubleError
from cluster.host_state import Refused, joining, step
from cluster.lease import check_ordered
from cluster.model import HostHints
from cluster.rate_limit import Rate
from cluster.ticket import check_ticket
from serve_apps import lease_api
from serve_apps.lease_api import BODY_SIZE_MAX, build_app, describe_payment
from tests.cluster.fleets import MODEL, NOW, active, fleet, name_bytes
from tests.serve.asgi import Answer, Web

OPERATOR = Ed25519PrivateKey.from_private_bytes(name_bytes("operator", 32))
OPERATOR_KEY = OPERATOR.public_key().public_bytes_raw()
CLIENT = Ed25519PrivateKey.from_private_bytes(name_bytes("client", 32))
HOSTS = (active("a"), active("b"), active("c", tier=Tier.OPEN))
SECONDS = int(NOW.timestamp())
PAYEE = b"\x00" + b"p" * 32
CLAIMS = Entitlements(amounts={PAYEE: 5, b"\x00" + b"q" * 32: 6})


class Desk:
    """A desk whose books know one rule: enough money or not."""

    def __init__(self) -> None:
        self.fleet = replace(fleet(*HOSTS), operator=OPERATOR_KEY)
        self.relay = "http://127.0.0.1:8443"
        self.ticket_key = b"\x0f" * 32
        self.trouble: Exception | None = None
        self.policy = ChannelPolicy(delay_min_s=7200)
        self.holds: dict[bytes, Grant] = {}
        self.judged: list[tuple[bytes, tuple[bytes, ...]]] = []

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        if self.trouble:
            raise self.trouble
        check_ordered(grant, verify_lease_request(order, operator=OPERATOR_KEY))
        return sign_grant(self.holds.setdefault(grant.lease, grant), OPERATOR)

    async def judge(self, verdict: bytes, receipts: Sequence[bytes]) -> None:
        if self.trouble:
            raise self.trouble
        self.judged.append((verdict, tuple(receipts)))

    async def claim(self, payee: bytes) -> ClaimProof:
        if self.trouble:
            raise self.trouble
        return prove_claim(CLAIMS, payee, network_id=-777, vault=b"\x00" + b"v" * 32, seqno=7)

    async def close_channel(self, order: CloseOrder) -> AgreedClose:
        if self.trouble:
            raise self.trouble
        return AgreedClose(
            total=order.total,
            valid_until=order.valid_until,
            client_signature=order.signature,
            operator_signature=b"\x02" * 64,
        )

    async def payment_terms(self) -> dict[str, object]:
        return describe_payment("0:ab", self.policy)


def order(*, key: Ed25519PrivateKey = CLIENT, **changes) -> dict[str, str | int]:
    values = {
        "operator": OPERATOR_KEY,
        "account": CLIENT.public_key().public_bytes_raw(),
        "model": MODEL.name,
        "tier": "confidential",
        "hosts": 2,
        "budget": Nanotons(1_000_000),
        "request_id": b"\x03" * 16,
        "issued_at": SECONDS,
    }
    return sign_lease_request(LeaseRequest(**(values | changes)), key)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def web(desk) -> Web:
    return Web(build_app(desk, clock=lambda: NOW))


def check_error(answer: Answer, status: int, code: str) -> str:
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


async def test_a_lease_has_a_genuine_grant_and_a_ticket_for_each_candidate(web, desk) -> None:
    answer = (await web.post("/v1/leases", order())).json()
    grant = verify_grant(base64.b64decode(answer["grant"]), OPERATOR_KEY)
    assert grant.amount == 1_000_000
    assert answer["relay"] == desk.relay
    assert [c["host_id"] for c in answer["candidates"]] == [part.host_id.hex() for part in grant.hosts]
    for candidate in answer["candidates"]:
        ticket = check_ticket(desk.ticket_key, candidate["ticket"], now=SECONDS)
        assert (ticket.host_id.hex(), ticket.lease, ticket.account) == (
            candidate["host_id"],
            grant.lease,
            grant.account,
        )
        assert ticket.expires == grant.not_after


async def test_the_same_request_twice_gets_one_lease(web, desk) -> None:
    first = (await web.post("/v1/leases", order())).json()
    desk.fleet = replace(fleet(*HOSTS, active("d")), operator=OPERATOR_KEY)
    second = (await web.post("/v1/leases", order())).json()
    assert first["grant"] == second["grant"]
    assert len(desk.holds) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(order() | {"budget": 2_000_000}, 401, "invalid_signature", id="altered-after-signing"),
        pytest.param(order() | {"signature": "00" * 64}, 401, "invalid_signature", id="forged-signature"),
        pytest.param(order(operator=b"\x09" * 32), 401, "invalid_signature", id="signed-for-another-operator"),
        pytest.param(order(issued_at=SECONDS - 61), 401, "stale_request", id="replayed-later"),
        pytest.param(order(issued_at=SECONDS + 61), 401, "stale_request", id="dated-ahead"),
        pytest.param(order(model="gpt-9"), 404, "model_not_found", id="unknown-model"),
        pytest.param(order(tier="secret"), 400, "invalid_lease_request", id="unknown-tier"),
        pytest.param(order(budget=Nanotons(1)), 400, "invalid_lease_request", id="budget-too-small"),
        pytest.param(order() | {"extra": 1}, 400, "malformed_request", id="unknown-field"),
        pytest.param({}, 400, "malformed_request", id="no-fields"),
        pytest.param([], 400, "malformed_request", id="not-an-object"),
        pytest.param(order() | {"hosts": 4}, 400, "malformed_request", id="too-many-hosts"),
        pytest.param(order() | {"budget": -1}, 400, "malformed_request", id="negative-budget"),
    ],
)
async def test_a_bad_request_is_refused_and_holds_nothing(web, desk, body, status, code) -> None:
    check_error(await web.post("/v1/leases", body), status, code)
    assert desk.holds == {}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"", 400, "malformed_request", id="empty"),
        pytest.param(b"{", 400, "malformed_request", id="cut"),
        pytest.param(b"\xff\xfe", 400, "malformed_request", id="not-text"),
        pytest.param(b"[" * 8000, 400, "malformed_request", id="nested-deeply"),
        pytest.param(b" " * (BODY_SIZE_MAX + 1), 413, "request_too_large", id="huge"),
    ],
)
async def test_a_body_that_is_no_request_is_refused(web, body, status, code) -> None:
    check_error(await web.ask("POST", "/v1/leases", body), status, code)


async def test_a_client_without_funds_is_told_how_much_to_deposit(web, desk) -> None:
    desk.trouble = InsufficientFundsError("client:ab", 5, 100)
    assert "deposit at least 95" in check_error(await web.post("/v1/leases", order()), 402, "insufficient_funds")


async def test_billing_in_trouble_asks_to_try_again(web, desk) -> None:
    desk.trouble = TroubleError("billing restarts")
    answer = await web.post("/v1/leases", order())
    check_error(answer, 503, "try_again")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        pytest.param(ChannelTermsError("none"), 402, "voucher_refused", id="terms"),
        pytest.param(ChannelEndingError("0:ab", "closed"), 402, "voucher_refused", id="closed"),
        pytest.param(ChannelMismatchError("a", "b"), 402, "voucher_refused", id="another-channel"),
        pytest.param(VoucherNotLaterError(1, 2), 402, "voucher_refused", id="not-later"),
        pytest.param(VoucherNotCoveredError(2, 1), 402, "voucher_refused", id="not-covered"),
        pytest.param(WrongContractError("0:ab", "absent"), 402, "voucher_refused", id="not-opened"),
        pytest.param(ChainUnreachableError("a", "b"), 503, "try_again", id="chain-away"),
    ],
)
async def test_each_refusal_of_a_voucher_has_its_code(web, desk, trouble, status, code) -> None:
    desk.trouble = trouble
    assert check_error(await web.post("/v1/leases", order()), status, code) == str(trouble)


async def test_a_client_that_was_served_up_to_its_voucher_is_told_what_to_sign(web, desk) -> None:
    desk.trouble = VoucherNeededError(1234, 1000)
    answer = await web.post("/v1/leases", order())
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["voucher_total"]) == (402, "voucher_needed", 1234)
    assert "at least 1234 in all" in error["message"]


CLOSE = CloseOrder(
    account=CLIENT.public_key().public_bytes_raw(),
    payment=Payment(wallet=bytes(32), delay_s=3600, nonce=(1 << 64) - 1, voucher=bytes(VOUCHER_SIZE)),
    total=Nanotons(5),
    valid_until=SECONDS + 60,
    signature=b"\x01" * 64,
)


async def test_a_channel_is_closed_by_the_clients_order(web, desk) -> None:
    answer = await web.post("/v1/channels/close", close_order_fields(CLOSE))
    assert (answer.status, answer.json()) == (
        200,
        {
            "total": 5,
            "valid_until": SECONDS + 60,
            "client_signature": "01" * 64,
            "operator_signature": "02" * 64,
        },
    )
    desk.trouble = ChannelRefusesError("leases are held")
    check_error(await web.post("/v1/channels/close", close_order_fields(CLOSE)), 402, "voucher_refused")


@pytest.mark.parametrize(
    "changes",
    [
        {"total": -1},
        {"total": 1 << 63},
        {"total": "5"},
        {"total": True},
        {"valid_until": 1 << 32},
        {"account": "AB" * 32},
        {"signature": "01" * 63},
        {"payment": None},
        {"payment": {**payment_fields(CLOSE.payment), "nonce": 7}},
        {"payment": {**payment_fields(CLOSE.payment), "nonce": str(1 << 64)}},
        {"payment": {**payment_fields(CLOSE.payment), "delay_s": 1.5}},
        {"payment": {**payment_fields(CLOSE.payment), "more": 1}},
        {"payment": {**payment_fields(CLOSE.payment), "voucher": "00" * (VOUCHER_SIZE + 1)}},
        {"more": 1},
    ],
    ids=str,
)
async def test_a_close_order_that_is_none_is_refused(web, changes) -> None:
    answer = await web.post("/v1/channels/close", close_order_fields(CLOSE) | changes)
    check_error(answer, 400, "malformed_request")


async def test_how_leases_may_be_paid(web, desk) -> None:
    assert (await web.get("/v1/payment")).json() == {"treasury": "0:ab", "channel": {"delay_min_s": 7200}}
    desk.policy = ChannelPolicy(accept=False)
    assert (await web.get("/v1/payment")).json() == {"treasury": "0:ab", "channel": None}


async def test_no_eligible_host_says_why_for_each(web, desk) -> None:
    desk.fleet = replace(fleet(active("c", tier=Tier.OPEN)), operator=OPERATOR_KEY)
    message = check_error(await web.post("/v1/leases", order()), 503, "no_eligible_host")
    assert "c: tier: it is open, confidential is required" in message


async def test_an_operator_that_governance_closed_says_so(web, desk) -> None:
    desk.fleet = replace(desk.fleet, closed="the registry says that it is closing")
    message = check_error(await web.post("/v1/leases", order()), 403, "operator_closed")
    assert "it is closing" in message
    assert desk.holds == {}


async def test_models_are_listed_with_prices(web) -> None:
    (model,) = (await web.get("/v1/models")).json()["data"]
    assert (model["id"], model["root"]) == (MODEL.name, MODEL.root.hex())
    assert model["tariff"] == {
        part: getattr(MODEL.tariff, f"{part}_price") for part in ("prompt", "cached", "completion", "reasoning")
    }


async def test_hosts_are_listed_with_what_they_proved_or_why_they_were_refused(web, desk) -> None:
    refused, _ = step(
        joining("127.0.0.1:7", HostHints(name="debug"), now=NOW),
        Refused(error="GuestPolicyError", reason="debug guest", checks=(), at=NOW),
    )
    desk.fleet = replace(fleet(*HOSTS, refused), operator=OPERATOR_KEY)
    hosts = {host["name"]: host for host in (await web.get("/v1/hosts")).json()["data"]}
    assert (hosts["a"]["tier"], hosts["a"]["tee"], hosts["a"]["state"]) == ("confidential", "tdx", "active")
    assert (hosts["debug"]["state"], hosts["debug"]["reason"], hosts["debug"]["error"]) == (
        "refused",
        "debug guest",
        "GuestPolicyError",
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "not_found"), ("DELETE", "/v1/leases", 405, "method_not_allowed")],
)
async def test_another_path_or_method_has_the_same_error_shape(web, method, path, status, code) -> None:
    check_error(await web.ask(method, path), status, code)


async def test_a_payee_gets_its_leaf_and_its_path(web) -> None:
    answer = await web.get(f"/v1/claims/{format_address(PAYEE)}")
    proof = ClaimProof.parse(answer.body.decode())
    assert (answer.status, proof.payee, proof.entitled, proof.root) == (200, PAYEE, 5, CLAIMS.root)


async def test_a_payee_with_nothing_to_claim_is_told_so(web) -> None:
    check_error(await web.get("/v1/claims/0:" + "ab" * 32), 404, "nothing_to_claim")


@pytest.mark.parametrize("payee", ["x", "0:ab", "5:" + "ab" * 32, "0:" + "zz" * 32, "0:" + "ab" * 4000])
async def test_a_claim_of_no_address_is_refused(web, payee) -> None:
    check_error(await web.get(f"/v1/claims/{payee}"), 400, "malformed_request")


async def test_claims_that_cannot_be_proved_now_say_why(web, desk) -> None:
    desk.trouble = MissingEntitlementsError("ab", "/somewhere")
    check_error(await web.get(f"/v1/claims/{format_address(PAYEE)}"), 409, "claim_refused")
    desk.trouble = TroubleError("not yet")
    check_error(await web.get(f"/v1/claims/{format_address(PAYEE)}"), 503, "try_again")


def verdict_body(
    number: int = 1, receipts: int = 2, *, key: Ed25519PrivateKey = CLIENT, operator: bytes = OPERATOR_KEY
):
    verdict = UnitVerdict(
        operator=operator,
        account=key.public_key().public_bytes_raw(),
        unit=number.to_bytes(16, "big"),
        issued_at=SECONDS,
        credited=(b"\x01" * 32, b"\x02" * 32),
        refused=(),
    )
    encoded = [base64.b64encode(b"receipt").decode()] * receipts
    return {"verdict": base64.b64encode(sign_verdict(verdict, key)).decode(), "receipts": encoded}


async def test_a_verdict_reaches_the_books_with_its_receipts_as_often_as_it_is_sent(web, desk) -> None:
    for _ in range(2):
        answer = (await web.post("/v1/verdicts", verdict_body())).json()
        assert answer == {"unit": "00" * 15 + "01", "copies": 2}
    (first, second) = desk.judged
    assert first == second
    assert first[1] == (b"receipt", b"receipt")


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "!"},
        {"verdict": 3},
        {"verdict": ""},
        {"receipts": None},
        {"receipts": ["!"]},
        {"receipts": ["AAAA"] * 9},
        {"more": 1},
    ],
    ids=str,
)
async def test_a_verdict_that_is_none_is_refused(web, desk, change) -> None:
    check_error(await web.post("/v1/verdicts", verdict_body() | change), 400, "malformed_request")
    assert desk.judged == []


async def test_a_verdict_for_other_books_or_altered_is_refused(web, desk) -> None:
    check_error(await web.post("/v1/verdicts", verdict_body(operator=b"\x07" * 32)), 400, "malformed_request")
    body = verdict_body()
    body["verdict"] = base64.b64encode(base64.b64decode(body["verdict"])[:-1] + b"\x00").decode()
    check_error(await web.post("/v1/verdicts", body), 401, "invalid_signature")
    assert desk.judged == []


async def test_one_account_cannot_flood_the_books_with_verdicts_and_others_go_on(web, desk, monkeypatch) -> None:
    monkeypatch.setattr(lease_api, "VERDICT_RATE", Rate(burst=3, period_s=1.0))
    web = Web(build_app(desk, clock=lambda: NOW))
    for number in range(3):
        assert (await web.post("/v1/verdicts", verdict_body(number))).status == 200
    answer = await web.post("/v1/verdicts", verdict_body(9))
    assert "again in" in check_error(answer, 429, "rate_limited")
    other = Ed25519PrivateKey.from_private_bytes(name_bytes("other", 32))
    assert (await web.post("/v1/verdicts", verdict_body(key=other))).status == 200


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        (VerdictConflictError("u"), 409, "verdict_conflict"),
        (VerdictLateError("r"), 409, "verdict_late"),
        (VerdictRefusedError("u", "why"), 409, "verdict_refused"),
        (UnknownReviewError("r"), 409, "verdict_refused"),
        (ReceiptRefusedError("why"), 409, "verdict_refused"),
        (TroubleError("later"), 503, "try_again"),
    ],
)
async def test_what_the_books_say_of_a_verdict_has_its_code(web, desk, trouble, status, code) -> None:
    desk.trouble = trouble
    check_error(await web.post("/v1/verdicts", verdict_body()), status, code)


async def test_an_open_lease_has_open_candidates_and_a_sealed_one_never(web, desk) -> None:
    desk.fleet = replace(fleet(*HOSTS, active("d", tier=Tier.OPEN)), operator=OPERATOR_KEY)
    opened = (await web.post("/v1/leases", order(tier="open", hosts=6))).json()
    assert {candidate["tier"] for candidate in opened["candidates"]} == {"open"}
    assert verify_grant(base64.b64decode(opened["grant"]), OPERATOR_KEY).review
    sealed = (await web.post("/v1/leases", order(hosts=3))).json()
    assert "open" not in {candidate["tier"] for candidate in sealed["candidates"]}
    assert not verify_grant(base64.b64decode(sealed["grant"]), OPERATOR_KEY).review
