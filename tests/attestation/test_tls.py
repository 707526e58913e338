"""Attested TLS: nobody says or hears a byte before the other end was appraised, on both event loops of this project."""

import asyncio
import pickle
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import AttestationError, EndorsementRollbackError, FreshnessError, HostMismatchError
from attestation.evidence import encode_evidence
from attestation.floor_store import FloorStore
from attestation.floors import Floors
from attestation.ratls import LIFE_S, SKEW_S, build_certificate, check_certificate, issuer, parse_certificate
from attestation.tls import AttestedContext, AttestedObject, PeerCheck, PeerRefusedError, TlsIdentity, peer_of
from tests.attestation.certificates import Clock, check, member, policy, statement_for
from tests.attestation.vendors import NOW

Both = tuple[ssl.SSLObject, ssl.SSLObject]


class Wire:
    """Two ends in memory, so that a test sees what leaves each of them."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.from_server, self.from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        more = {} if session is None else {"session": session}
        self.client = client.wrap_bio(self.to_client, self.from_client, **more)
        self.server = server.wrap_bio(self.to_server, self.from_server, server_side=True)

    def carry(self) -> None:
        self.to_server.write(self.from_client.read())
        self.to_client.write(self.from_server.read())

    def shake_hands(self) -> None:
        left = [self.client, self.server]
        for _ in range(8):
            for end in tuple(left):
                try:
                    end.do_handshake()
                    left.remove(end)
                except ssl.SSLWantReadError:
                    pass
                self.carry()
        assert not left


def strangers_context(identity: TlsIdentity | None) -> ssl.SSLContext:
    """A client that appraises nobody, made with nothing of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        AttestedContext.use(context, identity)
    return context


def strangers_server(identity: TlsIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AttestedContext.use(context, identity)
    return context


def forged() -> TlsIdentity:
    """A key of an attacker's own, with evidence that the honest host gave to anybody who asks."""
    key = Ed25519PrivateKey.generate()
    statement = statement_for(key)
    evidence = encode_evidence(member().evidence(statement.nonce))
    return TlsIdentity(
        key=key, certificate=build_certificate(statement, evidence=evidence, signature=statement.sign(key))
    )


def replayed() -> TlsIdentity:
    """All that a genuine certificate says, under a key of an attacker's own."""
    key, genuine = Ed25519PrivateKey.generate(), parse_certificate(member().identity().certificate)
    certificate = build_certificate(
        statement_for(key), evidence=encode_evidence(genuine.evidence), signature=genuine.signature
    )
    return TlsIdentity(key=key, certificate=certificate)


ATTACKS = [
    pytest.param(forged, "TlsKeyUnboundError", id="evidence-somebody-else-was-asked-for"),
    pytest.param(replayed, "FreshnessError", id="replayed-under-a-foreign-key"),
    pytest.param(lambda: member("ben").identity(), "HostMismatchError", id="another-host"),
    pytest.param(lambda: member().identity(NOW.replace(year=2025)), "EndorsementExpiredError", id="expired"),
]
Attack = Callable[[], TlsIdentity]


def test_both_ends_know_each_other() -> None:
    anna, ben = member("anna"), member("ben")
    client = AttestedContext.client(check(ben.id), anna.identity())
    wire = Wire(client, AttestedContext.server(ben.identity(), check(anna.id)))
    wire.shake_hands()
    assert isinstance(wire.client, AttestedObject) and isinstance(wire.server, AttestedObject)
    assert wire.client.peer is not None and wire.client.peer.verdict.host_id == ben.id
    assert wire.server.peer is not None and wire.server.peer.verdict.host_id == anna.id
    assert wire.client.version() == "TLSv1.3"
    wire.client.do_handshake()  # again: nothing changes
    wire.client.write(b"hello")
    wire.carry()
    assert wire.server.read() == b"hello"


@pytest.mark.parametrize(("attack", "why"), ATTACKS)
def test_a_server_that_does_not_hold_never_gets_the_last_message_of_the_handshake(attack: Attack, why: str) -> None:
    wire = Wire(AttestedContext.client(check(member().id)), strangers_server(attack()))
    with pytest.raises(PeerRefusedError, match=why):
        wire.shake_hands()
    assert wire.from_client.pending == 0
    wire.carry()
    with pytest.raises(ssl.SSLWantReadError):
        wire.server.do_handshake()
    for use in (lambda: wire.client.write(b"secret"), wire.client.read):
        with pytest.raises(RuntimeError, match="not ended"):
            use()


@pytest.mark.parametrize(("attack", "why"), ATTACKS)
def test_a_client_that_does_not_hold_is_refused_unread(attack: Attack, why: str) -> None:
    server = AttestedContext.server(member("ben").identity(), check(member().id))
    wire = Wire(strangers_context(attack()), server)
    with pytest.raises(PeerRefusedError, match=why):
        wire.shake_hands()
    wire.client.write(b"early")
    wire.carry()
    for use in (lambda: wire.server.write(b"secret"), wire.server.read):
        with pytest.raises(RuntimeError, match="not ended"):
            use()


def test_a_certificate_without_its_private_key_is_of_no_use() -> None:
    stolen = TlsIdentity(key=Ed25519PrivateKey.generate(), certificate=member().identity().certificate)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        strangers_server(stolen)


def test_a_client_without_a_certificate_is_refused() -> None:
    wire = Wire(strangers_context(None), AttestedContext.server(member().identity(), check()))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        wire.shake_hands()


def test_reading_instead_of_shaking_hands_reads_nothing() -> None:
    """OpenSSL's read would end the handshake by itself, past the appraisal."""
    wire = Wire(strangers_context(forged()), AttestedContext.server(member().identity(), check()))
    for _ in range(4):
        with pytest.raises(RuntimeError, match="not ended"):
            wire.server.read()
        try:
            wire.client.do_handshake()
        except ssl.SSLWantReadError:
            wire.carry()


def test_a_caller_who_turns_certificates_off_appraises_all_the_same() -> None:
    client = AttestedContext.client(check())
    client.verify_mode = ssl.CERT_NONE
    with pytest.raises(PeerRefusedError, match="TlsKeyUnbound"):
        Wire(client, strangers_server(forged())).shake_hands()
    server = AttestedContext.server(member().identity(), check())
    server.verify_mode = ssl.CERT_NONE
    with pytest.raises(PeerRefusedError, match="shows no certificate"):
        Wire(strangers_context(forged()), server).shake_hands()


def test_no_ticket_leads_past_the_appraisal() -> None:
    server = AttestedContext.server(member("ben").identity(), check())
    client = strangers_context(member().identity())
    first = Wire(client, server)
    first.shake_hands()
    first.server.write(b"x")
    first.carry()
    assert first.client.read() == b"x"
    session = first.client.session
    assert session is None or not session.has_ticket
    again = Wire(client, server, session=session)
    again.shake_hands()
    assert not again.server.session_reused
    assert isinstance(again.server, AttestedObject) and again.server.peer is not None


def test_a_server_that_resumes_sessions_is_refused_one() -> None:
    client = AttestedContext.client(check())
    resumable = strangers_server(member().identity())
    wire = Wire(client, resumable)
    wire.shake_hands()
    with pytest.raises(ValueError, match="no old session"):
        Wire(client, resumable, session=wire.client.session)


def test_a_resumed_session_is_refused_even_where_one_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttestedObject, "session_reused", True)
    with pytest.raises(PeerRefusedError, match="resumes"):
        Wire(AttestedContext.client(check()), strangers_server(member().identity())).shake_hands()


def test_older_tls_is_refused() -> None:
    server = strangers_server(member().identity())
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
        Wire(AttestedContext.client(check()), server).shake_hands()


def test_a_context_is_for_one_side_and_for_asyncio_only() -> None:
    client, server = AttestedContext.client(check()), AttestedContext.server(member().identity())
    with pytest.raises(ValueError, match="one side only"):
        Wire(server, client)
    with pytest.raises(RuntimeError, match="asyncio"):
        client.wrap_socket()


def test_what_held_is_kept_until_it_ends_and_not_longer() -> None:
    clock = Clock()
    ask, certificate = check(clock=clock), member().identity().certificate
    first = ask(certificate)
    clock.forward(LIFE_S - SKEW_S - 1)
    assert ask(certificate) is first
    clock.forward(1)
    with pytest.raises(AttestationError, match="certificate time"):
        ask(certificate)


def test_a_clock_turned_back_brings_no_verdict_back() -> None:
    clock = Clock()
    ask, certificate = check(clock=clock), member().identity().certificate
    ask(certificate)
    clock.forward(-SKEW_S - 1)
    with pytest.raises(AttestationError, match="certificate time"):
        ask(certificate)


def test_a_refusal_crosses_processes() -> None:
    refusal = HostMismatchError("host: a; required: b")
    error = PeerRefusedError(refusal)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), type(copy.refusal)) == (PeerRefusedError, str(error), HostMismatchError)
    assert isinstance(error, ssl.SSLError)  # what asyncio and aiohttp take for a failed handshake


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    def run(scenario: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            runner.run(scenario)

    return run


Run = Callable[[Awaitable[None]], None]


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that sends lines back; its port, and the host ids of those it spoke to."""
    met: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(peer_of(writer).verdict.host_id)
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], met
    finally:
        server.close()


async def say(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    stream[1].write(line)
    return await stream[0].readline()


async def close(*streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()


def test_streams_between_attested_parts(run: Run) -> None:
    anna, ben = member("anna"), member("ben")

    async def scenario() -> None:
        client = AttestedContext.client(check(ben.id), anna.identity())
        async with echo(AttestedContext.server(ben.identity(), check(anna.id))) as (port, met):
            stream = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            assert peer_of(stream[1]).verdict.host_id == ben.id
            assert await say(stream, b"hello\n") == b"hello\n"
            assert met == [anna.id]
            await close(stream)

    run(scenario())


@pytest.mark.parametrize(("attack", "why"), ATTACKS)
def test_a_stream_to_a_server_that_does_not_hold_is_never_open(run: Run, attack: Attack, why: str) -> None:
    async def scenario() -> None:
        arrived = bytearray()

        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            arrived.extend(await reader.read())

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=strangers_server(attack()))
        with pytest.raises(PeerRefusedError, match=why):
            await asyncio.open_connection(
                "127.0.0.1", server.sockets[0].getsockname()[1], ssl=AttestedContext.client(check(member().id))
            )
        server.close()
        await asyncio.sleep(0)
        assert not arrived

    run(scenario())


@pytest.mark.parametrize(("attack", "why"), ATTACKS)
def test_a_client_that_does_not_hold_reaches_no_handler(run: Run, attack: Attack, why: str) -> None:
    async def scenario() -> None:
        context = AttestedContext.server(member("ben").identity(), check(member().id))
        async with echo(context) as (port, met):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=strangers_context(attack()))
            writer.write(b"hello\n")
            with suppress(ConnectionError):
                assert await reader.read() == b""
            assert met == []
            writer.transport.abort()

    run(scenario())


def test_an_unattested_end_has_no_peer(run: Run) -> None:
    async def scenario() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with pytest.raises(RuntimeError, match="not attested"):
                peer_of(writer)
            writer.write(b"good\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=AttestedContext.server(member().identity()))
        port = server.sockets[0].getsockname()[1]
        stream = await asyncio.open_connection("127.0.0.1", port, ssl=strangers_context(None))
        assert await stream[0].readline() == b"good\n"
        await close(stream)
        server.close()

    run(scenario())


def test_a_stream_outlives_two_renewals_and_new_ones_see_the_new_certificate(run: Run) -> None:
    ben, clock = member("ben"), Clock()

    async def scenario() -> None:
        server = AttestedContext.server(ben.identity(), check(clock=clock))
        client = AttestedContext.client(check(ben.id, clock=clock), member("anna").identity())
        async with echo(server) as (port, _):
            old = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            assert await say(old, b"hello\n") == b"hello\n"
            seen = [peer_of(old[1]).certificate]
            for number in range(2):
                clock.forward(LIFE_S)
                with pytest.raises(PeerRefusedError, match="certificate time"):
                    await asyncio.open_connection("127.0.0.1", port, ssl=client)
                server.use(ben.identity(clock.now))
                client.use(member("anna").identity(clock.now))
                new = await asyncio.open_connection("127.0.0.1", port, ssl=client)
                seen.append(peer_of(new[1]).certificate)
                for stream in (old, new):
                    assert await say(stream, b"%d\n" % number) == b"%d\n" % number
                await close(new)
            assert len(set(seen)) == 3
            await close(old)

    run(scenario())


def test_a_renewal_in_the_middle_of_a_handshake_breaks_nothing() -> None:
    server = AttestedContext.server(member().identity())
    wire = Wire(AttestedContext.client(check()), server)
    with pytest.raises(ssl.SSLWantReadError):
        wire.client.do_handshake()
    server.use(member().identity())
    wire.carry()
    wire.shake_hands()


def test_no_private_key_touches_a_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    real = ssl.SSLContext.load_cert_chain

    def load(context: ssl.SSLContext, path: str) -> None:
        used.append(Path(path).resolve().as_posix())
        real(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    AttestedContext.server(member().identity())
    assert used and all("memfd:" in path for path in used)


def test_the_issuers_word_alone_is_worth_nothing() -> None:
    with pytest.raises(AttestationError):
        check_certificate(issuer(), policy(), now=NOW)
    with pytest.raises(FreshnessError):
        PeerCheck(policy(), clock=Clock())(replayed().certificate)


def test_a_peer_with_older_lists_than_were_seen_is_refused(tmp_path: Path) -> None:
    store = FloorStore(tmp_path / "floors")
    peer = PeerCheck(policy(), clock=Clock(), floors=store)(member().identity().certificate)
    assert store.floors == peer.verdict.marks
    newer = [replace(mark, issued=mark.issued + timedelta(days=2)) for mark in peer.verdict.marks.marks]
    store.raise_by(Floors.of(newer))
    with pytest.raises(EndorsementRollbackError):
        PeerCheck(policy(), clock=Clock(), floors=store)(member().identity().certificate)
