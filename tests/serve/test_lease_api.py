import base64
from collections.abc import Mapping
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.verdict import Tier
from billing.claim_proof import ClaimProof, format_address, prove_claim
from billing.entitlements import Entitlements
from billing.errors import InsufficientFundsError, MissingEntitlementsError
from billing.grant import Grant, sign_grant, verify_grant
from billing.lease_request import LeaseRequest, sign_lease_request, verify_lease_request
from billing.money import Nanotons
from cluster.errors import TroubleError
from cluster.host_state import Refused, joining, step
from cluster.lease import check_ordered
from cluster.model import HostHints
from cluster.ticket import check_ticket
from serve_apps.lease_api import BODY_SIZE_MAX, build_app
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
        self.holds: dict[bytes, Grant] = {}

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        if self.trouble:
            raise self.trouble
        check_ordered(grant, verify_lease_request(order, operator=OPERATOR_KEY))
        return sign_grant(self.holds.setdefault(grant.lease, grant), OPERATOR)

    async def claim(self, payee: bytes) -> ClaimProof:
        if self.trouble:
            raise self.trouble
        return prove_claim(CLAIMS, payee, network_id=-777, vault=b"\x00" + b"v" * 32, seqno=7)


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


async def test_no_eligible_host_says_why_for_each(web, desk) -> None:
    desk.fleet = replace(fleet(active("c", tier=Tier.OPEN)), operator=OPERATOR_KEY)
    message = check_error(await web.post("/v1/leases", order()), 503, "no_eligible_host")
    assert "c: tier: it is open, confidential is required" in message


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
