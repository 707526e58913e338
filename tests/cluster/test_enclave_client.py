"""Gate and control socket against a real enclave front in this process, and against servers that misbehave."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.evidence import EVIDENCE_SIZE_MAX, parse_evidence
from attestation.merkle import root_of
from cluster.admission import PROVE_TAG
from cluster.enclave_client import EnclaveControl, EnclaveControlError, HttpEnclaveGate
from cluster.errors import EnclaveUnreachableError
from cluster.model import Load
from tests.enclave.support import MODEL, OTHER_MODEL, start_enclave

CHALLENGE = b"a challenge of some length"


@pytest.fixture
async def enclave(tmp_path):
    enclave = await start_enclave(tmp_path)
    yield enclave
    await enclave.stop(0.1)


@pytest.fixture
async def gate():
    gate = HttpEnclaveGate()
    yield gate
    await gate.close()


@pytest.fixture
async def control(enclave, tmp_path):
    async with EnclaveControl(tmp_path / "control.sock") as control:
        yield control


@asynccontextmanager
async def server_that_answers(data: bytes):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            pass  # the client has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_evidence_answers_the_nonce(enclave, gate) -> None:
    nonce = b"\x05" * 32
    evidence = parse_evidence(await gate.fetch_evidence(enclave.address, nonce))
    assert root_of(nonce, evidence.inclusion) == evidence.transcript.nonce_root


async def test_health_is_read_as_load(enclave, gate) -> None:
    health = await gate.fetch_health(enclave.address)
    assert health["host_id"] == enclave.host_id.hex()
    assert Load.from_health(health).models == {MODEL}


async def test_the_owner_loads_and_unloads_models(control) -> None:
    await control.load(OTHER_MODEL)
    assert OTHER_MODEL.hex() in (await control.status())["models"]
    await control.unload(OTHER_MODEL)
    assert OTHER_MODEL.hex() not in (await control.status())["models"]


async def test_a_model_the_enclave_does_not_have_is_refused_with_its_words(control) -> None:
    with pytest.raises(EnclaveControlError, match=r"\d{3} .{10}"):
        await control.load(b"\x01" * 32)


async def test_the_enclave_signs_a_challenge_with_its_receipt_key(control) -> None:
    key = bytes.fromhex((await control.status())["receipt_key"])
    Ed25519PublicKey.from_public_bytes(key).verify(await control.prove(CHALLENGE), PROVE_TAG + CHALLENGE)


async def test_there_are_no_receipts_before_there_are_requests(control) -> None:
    assert await control.receipts(after=0, limit=10) == ()


async def test_nobody_there_is_trouble_not_a_refusal(gate, tmp_path) -> None:
    with pytest.raises(EnclaveUnreachableError, match="no answer"):
        await gate.fetch_health("127.0.0.1:1")
    async with EnclaveControl(tmp_path / "nowhere.sock") as control:
        with pytest.raises(EnclaveUnreachableError):
            await control.status()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="hangs-up"),
        pytest.param(b"no http\r\n\r\n", id="no-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull", id="not-an-object"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{", id="not-json"),
        pytest.param(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", id="server-error"),
        pytest.param(b"HTTP/1.1 302 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", id="redirect"),
    ],
)
async def test_a_host_that_does_not_speak_the_protocol_is_unreachable(gate, answer) -> None:
    async with server_that_answers(answer) as address:
        with pytest.raises((EnclaveUnreachableError, EnclaveControlError)):
            await gate.fetch_health(address)


NESTED = b"[" * 50_000


@pytest.mark.parametrize("status", ["200 OK", "500 No"])
async def test_deeply_nested_json_is_unreachable_too_and_ends_no_loop(gate, status) -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(NESTED)}\r\n\r\n".encode()
    async with server_that_answers(head + NESTED) as address:
        with pytest.raises(EnclaveUnreachableError):
            await gate.fetch_health(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:80/api/jobs?", "localhost:80", "user@127.0.0.1:80", "127.0.0.1:0080", "127.0.0.1:0", "[::1]", "", "#"],
)
async def test_an_address_that_is_more_than_ip_and_port_is_not_asked(gate, address) -> None:
    with pytest.raises(EnclaveUnreachableError, match="IP:PORT"):
        await gate.fetch_evidence(address, bytes(32))
    with pytest.raises(EnclaveUnreachableError, match="IP:PORT"):
        await gate.fetch_health(address)


def test_a_host_that_claims_thousands_of_models_does_not_fill_the_snapshots() -> None:
    health = {"ready": True, "loading": False, "running": 0, "waiting": 0, "served": 0, "failed": 0}
    health |= {"abandoned": 0, "output_tokens": 0}
    models = [number.to_bytes(32, "big").hex() for number in range(65)]
    with pytest.raises(ValueError, match="models"):
        Load.from_health({**health, "models": models})
    assert len(Load.from_health({**health, "models": models[:64]}).models) == 64


async def test_a_host_cannot_send_the_registry_elsewhere(gate) -> None:
    async with server_that_answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as inner:
        redirect = f"HTTP/1.1 307 Go\r\nlocation: http://{inner}/\r\ncontent-length: 0\r\n\r\n".encode()
        async with server_that_answers(redirect) as address:
            with pytest.raises(EnclaveControlError, match="307"):
                await gate.fetch_health(address)


async def test_evidence_without_end_is_not_read_to_the_end(gate) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(EVIDENCE_SIZE_MAX + (1 << 20))
    async with server_that_answers(endless) as address:
        with pytest.raises(EnclaveUnreachableError, match="more than"):
            await gate.fetch_evidence(address, b"\x01" * 32)
