"""Who gets a certificate and a token, and who does not: the desk alone, over a real registry and real evidence."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.simulate import Fault
from attestation.verdict import Tier
from cluster.certificates import parse_ip
from cluster.errors import JoinLaterError, JoinRefusedError, TroubleError
from cluster.fleet import HostState, Window
from cluster.host_state import MISSES_MAX
from cluster.join_desk import CHALLENGE_RATE, LEAVING, PENDING_S, FoundNode
from cluster.join_messages import CertificateRequest, ChallengeRequest, Order, OrderRequest, join_statement
from tests.cluster.enclaves import OpenEnclave
from tests.cluster.joining import ADDRESS, ELSEWHERE, LOOPBACK, TOKEN, Enclave, Head

NODE = FoundNode(node_id="ab" * 28, labels={})


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return Head(tmp_path)


@pytest.fixture
def enclave(head: Head) -> Enclave:
    return head.add(Enclave("host"))


def asks(head: Head, address: str = ADDRESS, **changes: object) -> bytes:
    request = ChallengeRequest(address=address, time=head.clock(), name="anna", labels={"tee": "tdx"})
    return replace(request, **changes).encode()


def signs(
    head: Head,
    enclave,
    nonce: bytes,
    *,
    key=None,
    names: tuple[str, ...] = (LOOPBACK,),
    pin: bytes | None = None,
    address: str = ADDRESS,
) -> CertificateRequest:
    """A certificate request as a host makes it; with another key, other names, for another cluster or address."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        ips = [x509.IPAddress(parse_ip(name)) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(ips), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    proof = enclave.prove(join_statement(pin or head.pin, nonce, public, address))
    return CertificateRequest(nonce=nonce, csr=csr, proof=proof)


def orders(head: Head, enclave, order: Order, **changes: object) -> bytes:
    request = OrderRequest(host_id=enclave.host_id, time=head.clock())
    if order is Order.BIND:
        request = replace(request, node_name="anna-1", control="/run/chrysalis/control.sock")
    request = replace(request, **changes)
    return replace(request, proof=enclave.prove(request.statement(order, head.pin))).encode()


async def certifies(head: Head, enclave, address: str = ADDRESS) -> None:
    """Up to certificate and token."""
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head, address))
    await head.desk.certify(LOOPBACK, signs(head, enclave, nonce, address=address).encode())


async def joins(head: Head, enclave) -> None:
    """All of it, up to a bound node."""
    await certifies(head, enclave)
    head.nodes.alive["anna-1"] = NODE
    assert await head.desk.order(LOOPBACK, Order.BIND, orders(head, enclave, Order.BIND)) == NODE.node_id


async def refused(code: str, answer) -> str:
    """The reason of a refusal with this code."""
    with pytest.raises(JoinRefusedError) as caught:
        await answer
    assert caught.value.code == code, caught.value
    return str(caught.value)


async def test_a_host_whose_evidence_holds_gets_a_short_certificate_and_the_token(head, enclave) -> None:
    host_id, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    assert host_id == enclave.host_id
    key = ec.generate_private_key(ec.SECP256R1())
    credentials = await head.desk.certify(LOOPBACK, signs(head, enclave, nonce, key=key).encode())
    own, joining = x509.load_pem_x509_certificates(credentials.certificate.encode())
    root = x509.load_pem_x509_certificate((head.tls / "ca.crt").read_bytes())
    own.verify_directly_issued_by(joining)
    joining.verify_directly_issued_by(root)
    assert own.public_key() == key.public_key()
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == [LOOPBACK]
    assert own.not_valid_after_utc - head.clock() <= timedelta(hours=12)
    assert credentials.token == TOKEN and TOKEN not in repr(credentials)
    assert head.state(enclave) is HostState.ACTIVE
    assert head.joined.current(head.clock()).keys() == {LOOPBACK}, "its Ray nodes are watched"


async def test_a_joined_host_is_bound_to_the_node_it_names_and_stays_when_it_renews(head, enclave) -> None:
    await joins(head, enclave)
    assert head.registry.snapshot().host(enclave.host_id).node_id == NODE.node_id
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode())
    assert head.registry.snapshot().host(enclave.host_id).node_id == NODE.node_id


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Fault.DEBUG_GUEST, "start the guest without debug", id="debug-guest"),
        pytest.param(Fault.FOREIGN_MEASUREMENT, "run an image that the registry contract allows", id="foreign-image"),
        pytest.param(Fault.REPLAYED_QUOTE, "answers another challenge", id="stale-evidence"),
    ],
)
async def test_evidence_that_does_not_hold_is_refused_with_a_remedy_and_nothing_is_open(head, fault, words) -> None:
    liar = head.add(Enclave("liar", faults=(fault,)))
    liar.evidence(b"\1" * 32)  # what a replaying host shows from then on
    assert words in await refused("evidence_refused", head.desk.challenge(LOOPBACK, asks(head)))
    await refused("unknown_challenge", head.desk.certify(LOOPBACK, signs(head, liar, b"\0" * 32).encode()))
    assert head.state(liar) is HostState.REFUSED


async def test_a_host_without_an_enclave_that_answers_is_told_so(head) -> None:
    with pytest.raises(JoinLaterError, match="start it, and open its port") as caught:
        await head.desk.challenge(LOOPBACK, asks(head))
    assert caught.value.code == "enclave_silent"


async def test_a_host_without_a_tee_gets_no_token_where_open_hosts_are_shown(tmp_path) -> None:
    head = Head(tmp_path, required_tier=Tier.OPEN, unsafe_accept_open_hosts=True)
    enclave = OpenEnclave("open")
    head.gate.enclaves[ADDRESS] = enclave
    assert "no TEE" in await refused("no_tee", head.desk.challenge(LOOPBACK, asks(head, labels={})))
    assert head.registry.snapshot().hosts == ()


@pytest.mark.parametrize("minutes", [-10, 10], ids=["behind", "ahead"])
async def test_a_clock_that_is_off_by_ten_minutes_is_refused_before_any_challenge(head, enclave, minutes) -> None:
    time = head.clock() + timedelta(minutes=minutes)
    words = await refused("clock_off", head.desk.challenge(LOOPBACK, asks(head, time=time)))
    assert re.search(r"(599|600|601) s apart.*NTP", words)
    assert head.gate.nonces == []


@pytest.mark.parametrize(
    "labels", [{"tee": "sev-snp"}, {"gpu": "h100"}], ids=["another-tee", "a-gpu-that-is-not-there"]
)
async def test_a_label_that_the_evidence_contradicts_is_refused(head, enclave, labels) -> None:
    await refused("labels_refused", head.desk.challenge(LOOPBACK, asks(head, labels=labels)))
    assert head.registry.snapshot().hosts == ()


async def test_a_node_whose_label_the_evidence_contradicts_is_not_bound(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode())
    head.nodes.alive["anna-1"] = replace(NODE, labels={"tee": "sev-snp"})
    await refused("labels_refused", head.desk.order(LOOPBACK, Order.BIND, orders(head, enclave, Order.BIND)))
    assert head.nodes.bound == {}


async def test_somebody_elses_enclave_is_not_challenged(head, enclave) -> None:
    assert "10.0.0.9" in await refused("wrong_address", head.desk.challenge("10.0.0.9", asks(head)))
    assert head.gate.nonces == []


async def test_a_stolen_nonce_is_worth_nothing_from_another_address(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await refused("unknown_challenge", head.desk.certify("10.0.0.9", signs(head, enclave, nonce).encode()))


async def test_a_certificate_request_is_taken_once(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    body = signs(head, enclave, nonce).encode()
    await head.desk.certify(LOOPBACK, body)
    await refused("unknown_challenge", head.desk.certify(LOOPBACK, body))
    _, newer = await head.desk.challenge(LOOPBACK, asks(head))
    old_proof = replace(CertificateRequest.parse(body), nonce=newer).encode()
    await refused("proof_refused", head.desk.certify(LOOPBACK, old_proof))


async def test_who_passes_a_challenge_on_to_an_enclave_cannot_prove_a_key_and_is_not_in(head, enclave) -> None:
    """The evidence is genuine; its control socket is out of the attacker's reach."""
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await refused("proof_refused", head.desk.certify(LOOPBACK, signs(head, OpenEnclave("mine"), nonce).encode()))
    assert head.registry.snapshot().hosts == ()


async def test_a_proof_for_another_key_or_another_cluster_is_refused(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    mine, theirs = signs(head, enclave, nonce), signs(head, OpenEnclave("x"), nonce)
    await refused("proof_refused", head.desk.certify(LOOPBACK, replace(mine, csr=theirs.csr).encode()))
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    elsewhere = signs(head, enclave, nonce, pin=b"\1" * 32)
    await refused("proof_refused", head.desk.certify(LOOPBACK, elsewhere.encode()))


@pytest.mark.parametrize("names", [("10.0.0.1",), (LOOPBACK, "10.0.0.1"), ()], ids=["the-heads", "one-more", "none"])
async def test_a_certificate_request_for_another_address_is_refused(head, enclave, names) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await refused("wrong_address", head.desk.certify(LOOPBACK, signs(head, enclave, nonce, names=names).encode()))


@pytest.mark.parametrize("csr", [b"\x30\x03\x02\x01\x00", b"not der"], ids=["other-der", "noise"])
async def test_what_is_no_certificate_request_is_refused(head, enclave, csr) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    body = replace(signs(head, enclave, nonce), csr=csr).encode()
    await refused("malformed_request", head.desk.certify(LOOPBACK, body))


async def test_a_key_of_another_kind_and_a_request_that_its_key_did_not_sign_are_refused(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await refused("malformed_request", head.desk.certify(LOOPBACK, signs(head, enclave, nonce, key=key).encode()))
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    request = signs(head, enclave, nonce)
    altered = replace(request, csr=request.csr[:-1] + bytes([request.csr[-1] ^ 1]))
    await refused("proof_refused", head.desk.certify(LOOPBACK, altered.encode()))


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "not-bound-yet"])
async def test_who_passes_challenges_on_from_a_second_address_is_refused_and_the_host_is_undisturbed(
    head, bound
) -> None:
    """Its evidence is genuine. What the enclave signs for its own join names its own address."""
    enclave = head.add(Enclave("first"), ELSEWHERE)
    await (joins(head, enclave) if bound else certifies(head, enclave))
    for signer, address in ((enclave, ADDRESS), (OpenEnclave("thief"), ELSEWHERE)):
        _, nonce = await head.desk.challenge(LOOPBACK, asks(head, ELSEWHERE))
        proof = signs(head, signer, nonce, address=address)
        await refused("proof_refused", head.desk.certify(LOOPBACK, proof.encode()))
    await head.registry.round()
    assert [(host.address, host.state) for host in head.registry.snapshot().hosts] == [(ADDRESS, HostState.ACTIVE)]
    assert head.routes.hosts == {enclave.host_id: ADDRESS}


async def test_who_passes_challenges_on_first_does_not_keep_the_host_out(head) -> None:
    enclave = head.add(Enclave("first"), ELSEWHERE)
    await head.desk.challenge(LOOPBACK, asks(head, ELSEWHERE))
    await joins(head, enclave)
    assert head.routes.hosts == {enclave.host_id: ADDRESS}


async def test_who_passes_challenges_on_to_a_silent_host_does_not_get_its_route(head) -> None:
    enclave = head.add(Enclave("first"), ELSEWHERE)
    await joins(head, enclave)
    del head.gate.enclaves[ADDRESS]
    for _ in range(MISSES_MAX):
        await head.registry.round()
    assert head.state(enclave) is HostState.SUSPENDED
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head, ELSEWHERE))
    await refused("proof_refused", head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode()))
    assert head.routes.hosts == {} and head.state(enclave, ELSEWHERE) is None
    head.gate.enclaves[ADDRESS] = enclave
    await head.registry.round()
    await head.registry.settled()
    assert head.routes.hosts == {enclave.host_id: ADDRESS}


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "not-bound-yet"])
async def test_an_enclave_that_signs_for_a_second_address_puts_both_into_quarantine(head, bound) -> None:
    """Copied keys, or an owner who runs it twice. Neither gets traffic or orders until the operator releases one."""
    enclave = head.add(Enclave("twice"), ELSEWHERE)
    await (joins(head, enclave) if bound else certifies(head, enclave))
    words = await refused("host_refused", certifies(head, enclave, ELSEWHERE))
    assert ADDRESS in words and ELSEWHERE in words and "signed for both" in words
    for at in (ADDRESS, ELSEWHERE):
        assert head.state(enclave, at) is HostState.QUARANTINED
        await refused("host_refused", certifies(head, enclave, at))
    assert all("signed for both" in host.reason for host in head.registry.snapshot().hosts)
    await refused("unknown_host", head.desk.order(LOOPBACK, Order.BIND, orders(head, enclave, Order.BIND)))
    await head.registry.round()
    assert head.routes.hosts == {}
    await head.registry.release(enclave.host_id, "the other one is off", address=ADDRESS)
    await head.registry.settled()
    await joins(head, enclave)
    assert head.routes.hosts == {enclave.host_id: ADDRESS}


async def test_a_host_that_moved_joins_at_its_new_address_by_its_enclaves_word(head) -> None:
    enclave = head.add(Enclave("moves"), ELSEWHERE)
    await joins(head, enclave)
    del head.gate.enclaves[ADDRESS]
    for _ in range(MISSES_MAX):
        await head.registry.round()
    await certifies(head, enclave, ELSEWHERE)
    assert head.routes.hosts == {enclave.host_id: ELSEWHERE}


async def test_a_host_that_is_banned_after_its_challenge_gets_nothing(head, enclave) -> None:
    await joins(head, enclave)
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await head.registry.expel(enclave.host_id, "too slow")
    await refused("host_refused", head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode()))
    await refused("host_refused", head.desk.challenge(LOOPBACK, asks(head)))


async def test_a_host_that_does_not_come_back_in_time_is_not_in(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    head.clock.ahead += timedelta(seconds=PENDING_S + 1)
    await refused("unknown_challenge", head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode()))
    await head.registry.round()
    assert head.registry.snapshot().hosts == () and head.routes.hosts == {}


async def test_terms_that_change_after_a_challenge_ask_for_another_one(head, enclave) -> None:
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    terms = head.registry.terms
    await head.registry.update_terms(replace(terms, reference=replace(terms.reference, measurements=frozenset())))
    with pytest.raises(JoinLaterError, match="another challenge"):
        await head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode())
    await refused("evidence_refused", head.desk.challenge(LOOPBACK, asks(head)))


async def test_a_registry_that_does_not_answer_gives_no_certificate_and_the_host_asks_again(
    head, enclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        raise TroubleError("the registry does not answer")

    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    with monkeypatch.context() as away:
        away.setattr(head.desk._members, "take_in", silent)
        with pytest.raises(TroubleError):
            await head.desk.certify(LOOPBACK, signs(head, enclave, nonce).encode())
    assert head.state(enclave) is None
    await joins(head, enclave)


async def test_a_host_that_is_in_stays_when_its_renewal_fails(head, enclave) -> None:
    await joins(head, enclave)
    _, nonce = await head.desk.challenge(LOOPBACK, asks(head))
    await refused("proof_refused", head.desk.certify(LOOPBACK, signs(head, OpenEnclave("x"), nonce).encode()))
    assert head.state(enclave) is HostState.ACTIVE


async def test_a_host_drains_comes_back_and_leaves_by_its_own_word(head, enclave) -> None:
    await joins(head, enclave)
    await head.desk.order(LOOPBACK, Order.DRAIN, orders(head, enclave, Order.DRAIN))
    assert head.state(enclave) is HostState.DRAINING
    assert head.registry.snapshot().host(enclave.host_id).window.reason == LEAVING
    await joins(head, enclave)
    assert head.state(enclave) is HostState.ACTIVE
    await head.desk.order(LOOPBACK, Order.LEAVE, orders(head, enclave, Order.LEAVE))
    assert (head.state(enclave), head.nodes.bound) == (HostState.GONE, {})
    await head.registry.restore()
    assert head.state(enclave) is HostState.GONE, "the address book has forgotten it"


async def test_maintenance_of_the_operator_is_not_ended_by_a_host_that_joins_again(head, enclave) -> None:
    await joins(head, enclave)
    window = Window(start=head.clock(), end=None, reason="new fans", forced=True)
    await head.registry.plan(enclave.host_id, window)
    await joins(head, enclave)
    assert head.state(enclave) is HostState.DRAINING


async def test_an_order_of_somebody_else_is_refused(head, enclave) -> None:
    await joins(head, enclave)
    leave = orders(head, enclave, Order.LEAVE)
    forged = json.loads(leave) | {"proof": OpenEnclave("x").prove(b"\0" * 32).hex()}
    await refused("proof_refused", head.desk.order(LOOPBACK, Order.LEAVE, json.dumps(forged).encode()))
    await refused("proof_refused", head.desk.order(LOOPBACK, Order.LEAVE, orders(head, enclave, Order.DRAIN)))
    await refused("wrong_address", head.desk.order("10.0.0.9", Order.LEAVE, leave))
    head.clock.ahead += timedelta(minutes=10)
    await refused("clock_off", head.desk.order(LOOPBACK, Order.LEAVE, leave))
    assert head.state(enclave) is HostState.ACTIVE
    await refused("unknown_host", head.desk.order(LOOPBACK, Order.LEAVE, orders(head, Enclave("x"), Order.LEAVE)))


async def test_a_host_is_told_its_standing_also_when_it_is_out_and_nobody_else_is(head, enclave) -> None:
    await joins(head, enclave)
    asked = orders(head, enclave, Order.STANDING)
    assert await head.desk.standing(LOOPBACK, asked) == ("active", "its evidence holds")
    await refused("unknown_host", head.desk.standing("10.0.0.9", asked))
    await refused("proof_refused", head.desk.standing(LOOPBACK, orders(head, enclave, Order.LEAVE)))
    forged = json.loads(asked) | {"proof": OpenEnclave("x").prove(b"\0" * 32).hex()}
    await refused("proof_refused", head.desk.standing(LOOPBACK, json.dumps(forged).encode()))
    await head.registry.expel(enclave.host_id, "spam")
    assert await head.desk.standing(LOOPBACK, orders(head, enclave, Order.STANDING)) == ("banned", "spam")
    head.clock.ahead += timedelta(minutes=10)
    await refused("clock_off", head.desk.standing(LOOPBACK, asked))
    await refused("unknown_host", head.desk.standing(LOOPBACK, orders(head, Enclave("x"), Order.STANDING)))


async def test_a_node_that_is_not_alive_yet_is_waited_for(head, enclave) -> None:
    await certifies(head, enclave)
    with pytest.raises(JoinLaterError) as caught:
        await head.desk.order(LOOPBACK, Order.BIND, orders(head, enclave, Order.BIND))
    assert caught.value.code == "node_not_alive"


async def test_a_flood_of_challenges_from_one_address_is_limited_and_others_are_not(head, enclave) -> None:
    for _ in range(CHALLENGE_RATE.burst):
        await head.desk.challenge(LOOPBACK, asks(head))
    with pytest.raises(JoinLaterError) as caught:
        await head.desk.challenge(LOOPBACK, asks(head))
    assert caught.value.code == "rate_limited"
    assert len(head.gate.nonces) == CHALLENGE_RATE.burst
    await refused("wrong_address", head.desk.challenge("10.0.0.9", asks(head)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b"[" * 20_000,
        json.dumps({"address": "head:1", "time": 1, "name": "a", "labels": {}}).encode(),
        json.dumps({"address": "127.0.0.1:9443", "time": 1.5, "name": "a", "labels": {}}).encode(),
        json.dumps({"address": "127.0.0.1:9443", "time": 1 << 40, "name": "a", "labels": {}}).encode(),
        json.dumps({"address": "127.0.0.1:9443", "time": 1, "name": "a\nb", "labels": {}}).encode(),
        json.dumps({"address": "127.0.0.1:9443", "time": 1, "name": "a", "labels": {"tee": "a,b=c"}}).encode(),
        json.dumps({"address": "127.0.0.1:9443", "time": 1, "name": "a", "labels": [], "more": 1}).encode(),
    ],
)
async def test_what_is_not_in_the_protocol_is_refused(head, enclave, body) -> None:
    await refused("malformed_request", head.desk.challenge(LOOPBACK, body))
    await refused("malformed_request", head.desk.certify(LOOPBACK, body))
    await refused("malformed_request", head.desk.order(LOOPBACK, Order.BIND, body))


async def test_all_addresses_of_one_ipv6_network_share_one_rate(head) -> None:
    for number in range(CHALLENGE_RATE.burst):
        await refused("wrong_address", head.desk.challenge(f"fd00::{number + 1:x}", asks(head)))
    with pytest.raises(JoinLaterError):
        await head.desk.challenge("fd00::ffff", asks(head))
    await refused("wrong_address", head.desk.challenge("fd00:0:0:1::1", asks(head)))
