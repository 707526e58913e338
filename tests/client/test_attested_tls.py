"""Direct mode by attested TLS: who answers is verified in the handshake, and only then hears a ticket."""

from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from attestation.tls import PeerRefusedError
from client.lease import Candidate
from client.transport import HostUnreachableError, Transport
from tests.client.conftest import StartNetwork
from tests.client.support import CHAT, Network

TLS: dict[str, Any] = {"direct": True, "tls": True}
LISTENING = {"tls": ("127.0.0.1", 0)}


async def chat(network: Network) -> str:
    async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
        return str((await sdk.chat.completions.create(**CHAT)).choices[0].message.content)


async def test_prompts_reach_the_host_inside_attested_tls(start_network: StartNetwork) -> None:
    async with start_network(enclave_changes=LISTENING, **TLS) as network:
        assert await chat(network)
        assert network.operator.sealed == []
        assert sum(enclave.service.counters.served for enclave in network.enclaves) == 1
        assert all(enclave._tls is not None and enclave._tls.connections for enclave in network.enclaves)


async def test_another_host_behind_the_named_port_hears_no_ticket(start_network: StartNetwork) -> None:
    async with start_network(enclave_changes=LISTENING, **TLS) as network:
        ports = [enclave._tls_port for enclave in network.enclaves]
        for liar, port in zip(network.enclaves, ports[1:] + ports[:1], strict=True):
            liar._tls_port = port
        with pytest.raises(APIStatusError, match="no host"):
            await chat(network)
        refusals = network.sidecar._verifier.refusals
        assert {refusal.host_id for refusal in refusals} == {enclave.host_id for enclave in network.enclaves}
        assert all("HostMismatchError" in refusal.why for refusal in refusals)


async def test_a_host_without_attested_tls_gets_nothing(start_network: StartNetwork) -> None:
    async with start_network(**TLS) as network:
        with pytest.raises(APIStatusError, match="no attested TLS"):
            await chat(network)
        assert all(enclave.service.counters.served == 0 for enclave in network.enclaves)


async def test_a_request_later_on_is_refused_in_the_handshake_too(start_network: StartNetwork) -> None:
    async with start_network(enclave_changes=LISTENING, **TLS) as network:
        verifier, enclave = network.sidecar._verifier, network.enclaves[0]
        await chat(network)
        transport = Transport(read_timeout_s=5, attested=lambda _: verifier.tls_context(b"somebody"))
        url = f"https://127.0.0.1:{enclave._tls_port}"
        candidate = Candidate(host_id=enclave.host_id, url=url, ticket="t", attested=True)
        with pytest.raises(HostUnreachableError, match="no connection"):
            await transport.send_sealed(candidate, b"sealed")
        with pytest.raises(PeerRefusedError, match="HostMismatch"):
            await transport.fetch_evidence(candidate, bytes(32))
        await transport.close()
