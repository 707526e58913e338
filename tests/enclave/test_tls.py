"""Attested TLS of an enclave: its certificate names it, and is renewed beneath open connections."""

import asyncio
import json

import pytest
from cryptography.exceptions import InvalidSignature

from attestation.collect import Attestation, NoTee
from attestation.errors import AttesterError
from attestation.eventlog import LogEvent
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.roots import TrustedRoots
from attestation.tls import AttestedContext, PeerCheck, peer_of
from attestation.transcript import Transcript
from attestation.verdict import Tier
from enclave import tls as tls_module
from enclave.enclave import Enclave
from enclave.errors import StartError
from tests.enclave.support import MODEL, OTHER_MODEL, Client, Clock, Starter, eventually, get

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
TLS = ("127.0.0.1", 0)


def context(enclave: Enclave, clock: Clock) -> AttestedContext:
    policy = AppraisalPolicy(
        reference=ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset({MODEL, OTHER_MODEL})),
        roots=TrustedRoots.none(),
        required_tier=Tier.OPEN,
        unsafe_accept_open_hosts=True,
    )
    return AttestedContext.client(PeerCheck(policy, clock=clock, host_id=enclave.host_id))


async def connect(enclave: Enclave, clock: Clock) -> Stream:
    return await asyncio.open_connection("127.0.0.1", enclave._tls_port, ssl=context(enclave, clock))


async def ask_health(stream: Stream) -> dict[str, object]:
    stream[1].write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await stream[0].readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    answer: dict[str, object] = json.loads(await stream[0].readexactly(size))
    return answer


async def test_the_open_side_answers_behind_attested_tls_too(start: Starter) -> None:
    clock = Clock()
    enclave = await start(tls=TLS, clock=clock)
    stream = await connect(enclave, clock)
    assert peer_of(stream[1]).verdict.receipt == enclave.service.keys.receipt_public
    assert (await ask_health(stream))["tls_port"] == enclave._tls_port
    assert json.loads((await get(enclave.address, "/health")).body)["tls_port"] == enclave._tls_port
    sealed = Client(enclave).seal()
    head = f"POST /sealed HTTP/1.1\r\nhost: x\r\ncontent-length: {len(sealed.data)}\r\n\r\n"
    stream[1].write(head.encode() + sealed.data)
    assert (await stream[0].readline()).startswith(b"HTTP/1.1 200")
    stream[1].close()


async def test_a_connection_lives_on_while_certificates_change(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "RENEW_S", 0.03)
    clock = Clock()
    enclave = await start(tls=TLS, clock=clock)
    old = await connect(enclave, clock)
    await ask_health(old)
    seen = {peer_of(old[1]).certificate}

    async def changed() -> bool:
        stream = await connect(enclave, clock)
        seen.add(peer_of(stream[1]).certificate)
        stream[1].close()
        return len(seen) >= 3

    async with asyncio.timeout(3):
        while not await changed():
            await asyncio.sleep(0.01)
    assert (await ask_health(old))["host_id"] == enclave.host_id.hex()
    old[1].close()


class TiredHardware:
    """Attests until it is told to fail."""

    def __init__(self) -> None:
        self.broken, self.refused = False, 0

    def extend(self, event: LogEvent) -> None:
        pass

    def attest(self, base: Transcript) -> Attestation:
        if self.broken:
            self.refused += 1
            raise AttesterError("no answer from the device")
        return NoTee().attest(base)


async def test_hardware_that_fails_is_asked_again(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "RENEW_S", 0.02)
    monkeypatch.setattr(tls_module, "RETRY_S", 0.01)
    clock, hardware = Clock(), TiredHardware()
    enclave = await start(tls=TLS, clock=clock, attester=hardware)
    hardware.broken = True
    await eventually(lambda: hardware.refused >= 3)
    clock.forward(1000)
    with pytest.raises(OSError, match="certificate time"):
        await connect(enclave, clock)
    hardware.broken = False

    async def holds() -> bool:
        try:
            (await connect(enclave, clock))[1].close()
        except OSError:
            return False
        return True

    async with asyncio.timeout(3):
        while not await holds():
            await asyncio.sleep(0.01)


async def test_a_proof_for_the_ray_side_is_no_signature_for_a_tls_key(enclave: Enclave) -> None:
    """The control socket signs challenges, and evidence answers any nonce: neither makes a certificate."""
    said = b"chrysalis/1 ra-tls key\0" + bytes(32)
    proof = enclave.service.keys.prove(said)
    with pytest.raises(InvalidSignature):
        enclave.service.keys.receipt.public_key().verify(proof, said)


async def test_plain_http_on_the_tls_port_is_not_answered(start: Starter) -> None:
    enclave = await start(tls=TLS)
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave._tls_port)
    writer.write(b"GET /health HTTP/1.1\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()


async def test_a_tls_port_in_use_stops_the_start_with_a_sentence(start: Starter) -> None:
    enclave = await start(tls=TLS)
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{enclave._tls_port}"):
        await start(tls=("127.0.0.1", enclave._tls_port))
