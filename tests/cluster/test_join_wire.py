"""Joining over real HTTPS on loopback: what the host believes, and what strangers can do to the service."""

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.certificates import JOINING_CERTIFICATE, JOINING_KEY, Authority, read_pin, write_certificates
from cluster.errors import ConfigError, HeadUnreachableError, JoinLaterError, JoinRefusedError
from cluster.join_client import DEFAULT_PORT, JoinClient, parse_head, parse_pin
from cluster.join_messages import BODY_MAX
from cluster.join_server import CONNECTIONS_PER_PEER_MAX, JoinServer
from tests.cluster.joining import ADDRESS, LOOPBACK, TOKEN, Enclave, EnclaveSocket, Head

LABELS = {"tee": "tdx"}


@pytest.fixture
async def head(tmp_path: Path):
    head = Head(tmp_path)
    await head.start()
    yield head
    await head.stop()


@pytest.fixture
def enclave(head: Head) -> Enclave:
    return head.add(Enclave("host"))


def client(head: Head, enclave: Enclave, *, pin: bytes | None = None, clock=None) -> JoinClient:
    socket = EnclaveSocket(enclave)
    return JoinClient(parse_head(head.address), pin or head.pin, socket, clock=clock or head.clock)


def blind() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def raw(head: Head, data: bytes) -> bytes:
    """What the service answers to these bytes, until it closes."""
    host, _, port = head.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=blind())
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(1 << 16), 10)
    finally:
        writer.transport.abort()


async def test_a_host_gets_certificate_and_token_over_tls_that_it_pinned(head, enclave) -> None:
    async with client(head, enclave) as host:
        host_id, nonce = await host.challenge(ADDRESS, "anna", LABELS)
        grant = await host.certify(ADDRESS, host_id, nonce)
    assert (grant.host_id, grant.credentials.token) == (enclave.host_id, TOKEN)
    assert grant.credentials.settings == {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    assert TOKEN not in repr(grant) and "PRIVATE" not in repr(grant)


async def test_the_certificate_it_gets_is_believed_by_machines_that_know_the_clusters_ca_only(
    head, enclave, tmp_path
) -> None:
    """As Ray's TLS does: both ends show a certificate, and trust ca.crt."""
    async with client(head, enclave) as host:
        grant = await host.certify(ADDRESS, *await host.challenge(ADDRESS, "anna", LABELS))
    (tmp_path / "node.key").write_bytes(grant.key)
    (tmp_path / "node.crt").write_text(grant.credentials.certificate)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(head.own / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(head.own / "node.crt", head.own / "node.key")
    member = ssl.create_default_context(cafile=str(head.own / "ca.crt"))
    member.load_cert_chain(tmp_path / "node.crt", tmp_path / "node.key")
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(reader, writer) -> None:
        heard.set_result(await reader.read(5))
        writer.close()

    async with await asyncio.start_server(hear, LOOPBACK, 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(LOOPBACK, port, ssl=member, server_hostname=LOOPBACK)
        writer.write(b"hello")
        assert await asyncio.wait_for(heard, 10) == b"hello"
        writer.close()


@pytest.mark.parametrize("hours_ago", [13, 0], ids=["ended", "in-time"])
async def test_the_certificate_of_a_host_is_worth_nothing_after_its_end(head, tmp_path, hours_ago) -> None:
    """As Ray's servers check it."""
    joining = Authority.load(head.joining, JOINING_CERTIFICATE, JOINING_KEY)
    key = ec.generate_private_key(ec.SECP256R1())
    began = datetime.now(UTC) - timedelta(hours=hours_ago)
    own = joining.sign(key.public_key(), LOOPBACK, now=began, life=timedelta(hours=12))
    (tmp_path / "chain").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (own, joining.certificate)))
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(head.own / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(head.own / "node.crt", head.own / "node.key")
    member = ssl.create_default_context(cafile=str(head.own / "ca.crt"))
    member.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    assert shake(server, member) == ("certificate has expired" if hours_ago else "")


def shake(server: ssl.SSLContext, member: ssl.SSLContext) -> str:
    """A mutual handshake in memory; why one end broke it off, empty when both were content."""
    to_server, to_member = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        member.wrap_bio(to_member, to_server, server_hostname=LOOPBACK),
        server.wrap_bio(to_server, to_member, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""


async def test_a_head_with_another_ca_than_the_pinned_one_hears_nothing(head, enclave) -> None:
    async with client(head, enclave, pin=b"\1" * 32) as host:
        with pytest.raises(JoinRefusedError, match="ask the operator for address and pin again") as caught:
            await host.challenge(ADDRESS, "anna", LABELS)
    assert caught.value.code == "wrong_pin"
    assert head.gate.nonces == []


async def test_who_shows_the_pinned_ca_and_has_no_certificate_of_it_hears_nothing(head, enclave, tmp_path) -> None:
    """Somebody in between: the CA's certificate is public, its key is not."""
    theirs = write_certificates(tmp_path / "theirs", "demo", [LOOPBACK], now=head.clock())[LOOPBACK]
    between = JoinServer(head.desk, ca=head.own / "ca.crt", certificate=theirs / "node.crt", key=theirs / "node.key")
    address = await between.listen(LOOPBACK, 0)
    async with JoinClient(parse_head(f"{LOOPBACK}:{address[1]}"), head.pin, EnclaveSocket(enclave)) as host:
        with pytest.raises(JoinRefusedError) as caught:
            await host.challenge(ADDRESS, "anna", LABELS)
    await between.stop(0.1)
    assert caught.value.code == "head_certificate"
    assert head.gate.nonces == []


async def test_an_expired_certificate_of_the_head_is_refused_with_the_remedy(head, enclave, tmp_path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=40)
    old = write_certificates(tmp_path / "old", "demo", [LOOPBACK], now=long_ago)[LOOPBACK]
    server = JoinServer(head.desk, ca=old / "ca.crt", certificate=old / "node.crt", key=old / "node.key")
    address = await server.listen(LOOPBACK, 0)
    pin = bytes.fromhex(read_pin(tmp_path / "old"))
    async with JoinClient(parse_head(f"{LOOPBACK}:{address[1]}"), pin, EnclaveSocket(enclave)) as host:
        with pytest.raises(JoinRefusedError, match=r"expired.*clock.*chrysalis cluster certs") as caught:
            await host.challenge(ADDRESS, "anna", LABELS)
    await server.stop(0.1)
    assert caught.value.code == "head_certificate"


@pytest.mark.parametrize("minutes", [-10, 10], ids=["behind", "ahead"])
async def test_a_host_whose_clock_is_off_is_refused_by_the_head(head, enclave, minutes) -> None:
    off = timedelta(minutes=minutes)
    async with client(head, enclave, clock=lambda: head.clock() + off) as host:
        with pytest.raises(JoinRefusedError) as caught:
            await host.challenge(ADDRESS, "anna", LABELS)
    assert caught.value.code == "clock_off"


async def test_refusals_and_waits_keep_their_code_over_the_wire(head) -> None:
    async with client(head, Enclave("silent")) as host:
        with pytest.raises(JoinLaterError) as later:
            await host.challenge(ADDRESS, "anna", LABELS)
        with pytest.raises(JoinRefusedError) as refused:
            await host.challenge("10.0.0.9:9443", "anna", LABELS)
    assert (later.value.code, refused.value.code) == ("enclave_silent", "wrong_address")


async def test_nobody_who_listens_is_no_answer(head, enclave) -> None:
    await head.stop()
    async with client(head, enclave) as host:
        with pytest.raises(HeadUnreachableError, match="join port open"):
            await host.challenge(ADDRESS, "anna", LABELS)


async def test_a_host_that_hangs_up_in_the_middle_is_finished_and_is_not_in(head, enclave) -> None:
    body = json.dumps(
        {"address": ADDRESS, "time": int(head.clock().timestamp()), "name": "anna", "labels": {}}
    ).encode()
    host, _, port = head.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=blind())
    writer.write(b"POST /v1/join/challenge HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    while not head.gate.nonces:
        await asyncio.sleep(0.01)
    writer.transport.abort()
    while head.server._working:
        await asyncio.sleep(0.01)
    assert len(head.gate.nonces) == 1 and head.state(enclave) is None


async def test_an_oversized_body_is_refused_before_it_is_read(head) -> None:
    head_only = b"POST /v1/join/challenge HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (BODY_MAX + 1)
    assert b"HTTP/1.1 413" in await raw(head, head_only)


@pytest.mark.parametrize("line", [b"GET /v1/join/challenge", b"POST /v1/join/ca", b"POST /v1/join/evict", b"GET /"])
async def test_the_service_knows_no_other_requests(head, line) -> None:
    answer = await raw(head, line + b" HTTP/1.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    assert b"HTTP/1.1 404" in answer and b"unknown_route" in answer


async def test_one_address_holds_a_few_connections_only(head) -> None:
    host, _, port = head.address.rpartition(":")
    ends = [await asyncio.open_connection(host, int(port), ssl=blind()) for _ in range(CONNECTIONS_PER_PEER_MAX + 4)]
    await asyncio.sleep(0.1)
    assert len(head.server.connections) <= CONNECTIONS_PER_PEER_MAX
    for _, writer in ends:
        writer.transport.abort()


async def test_plain_http_and_older_tls_are_not_spoken(head) -> None:
    host, _, port = head.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/join/ca HTTP/1.1\r\n\r\n")
    assert b"HTTP" not in await asyncio.wait_for(reader.read(), 10)
    writer.transport.abort()
    old = blind()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=old)


def test_a_head_is_an_address_and_a_pin_a_fingerprint() -> None:
    assert (str(parse_head("10.0.0.1")), str(parse_head("10.0.0.1:9"))) == (f"10.0.0.1:{DEFAULT_PORT}", "10.0.0.1:9")
    assert parse_pin("ab:" * 31 + "ab") == parse_pin("ab" * 32) == b"\xab" * 32
    for wrong in ("head", "head:8444", ""):
        with pytest.raises(ConfigError):
            parse_head(wrong)
    for wrong in ("", "ab", "zz" * 32):
        with pytest.raises(ConfigError, match="ask the operator"):
            parse_pin(wrong)
