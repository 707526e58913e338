"""HTTP to gateway, relay and hosts. Everything that comes back is bytes of a stranger until it is checked elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from attestation.evidence import EVIDENCE_SIZE_MAX
from attestation.tls import AttestedContext, PeerRefusedError
from billing.money import NANOTONS_MAX
from client.errors import GatewayError, LeaseRefusedError
from client.lease import Candidate

ANSWER_SIZE_MAX = 64 << 10  # of a lease, and of an error
CONNECT_S = 5.0
LEASE_S = 15.0
NO_CODE = "unknown_error"  # of an answer that is no OpenAI-shaped error
EVIDENCE_S = 20.0
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MESSAGE_MAX = 500
_LOST = (aiohttp.ClientError, OSError, EOFError)


class HostUnreachableError(Exception):
    """No answer began. `broken` means that a connection was there, and ended: the request may have arrived."""

    def __init__(self, why: str, broken: bool = False) -> None:
        super().__init__(why, broken)
        self.why, self.broken = why, broken

    def __str__(self) -> str:
        return self.why


class AnswerLostError(Exception):
    """The host has the request, and its answer broke or never came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRefusal:
    """An HTTP status with a code, said by the relay or the front of a host: not authenticated, so only classified."""

    status: int
    code: str


class Stream:
    """The bytes of one sealed answer as they arrive."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        try:
            received = await self._response.content.readany()
        except TimeoutError:
            raise AnswerLostError("it fell silent") from None
        except _LOST as error:
            raise AnswerLostError(type(error).__name__) from error
        if not received:
            raise StopAsyncIteration
        return received

    def close(self) -> None:
        """Give up: cuts the connection, which stops the host's work, unless the answer was read to its end."""
        self._response.close()


class Transport:
    """One HTTP client for everything."""

    def __init__(self, *, read_timeout_s: float, attested: Callable[[bytes], AttestedContext] | None = None) -> None:
        """`attested` gives the TLS context for a host, needed for candidates that are reached by attested TLS."""
        self._read_timeout_s, self._attested = read_timeout_s, attested
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def take_lease(self, gateway: str, order: Mapping[str, Any]) -> object:
        """Post a signed lease request and return the JSON that comes back.

        Raises:
            LeaseRefusedError: the gateway says no.
            GatewayError: no usable answer.
        """
        return await self._ask("POST", f"{gateway.rstrip('/')}/v1/leases", order, "gives no lease")

    async def close_channel(self, gateway: str, order: Mapping[str, Any]) -> object:
        """Post a signed order to close the payment channel and return the JSON that comes back; raises as above."""
        return await self._ask("POST", f"{gateway.rstrip('/')}/v1/channels/close", order, "does not close the channel")

    async def send_verdict(self, gateway: str, fields: Mapping[str, Any]) -> object:
        """Post a signed verdict on copies of a unit and return the JSON that comes back; raises as above."""
        return await self._ask("POST", f"{gateway.rstrip('/')}/v1/verdicts", fields, "does not take the verdict")

    async def payment_terms(self, gateway: str) -> object:
        """Return the JSON that says how leases may be paid; raises as above."""
        return await self._ask("GET", f"{gateway.rstrip('/')}/v1/payment", None, "does not say how to pay")

    async def _ask(self, method: str, url: str, order: Mapping[str, Any] | None, refused: str) -> object:
        timeout = aiohttp.ClientTimeout(total=LEASE_S)
        try:
            async with self._http().request(
                method, url, json=order, timeout=timeout, allow_redirects=False
            ) as response:
                status, data = response.status, await _read(response, ANSWER_SIZE_MAX)
        except (TimeoutError, *_LOST) as error:
            raise GatewayError(f"the gateway cannot be reached at {url}: {type(error).__name__}") from error
        answer = _parse_json(data)
        if status == 200:
            return answer
        code, message = read_error(answer)
        # without a code it is no answer of a gateway's: an ingress that has just started answers 404 until it knows one
        if code != NO_CODE and status in {400, 401, 402, 403, 404, 409, 413, 422, 429, 503}:
            raise LeaseRefusedError(status, code, f"the gateway {refused}: {message}", _voucher_total(answer))
        raise GatewayError(f"the gateway answered {status}: {message}")

    async def find_attested(self, candidate: Candidate) -> Candidate:
        """Return the candidate by its attested TLS port, which a host names in its health; a lie leads to no handshake.

        Raises:
            HostUnreachableError: it names none.
        """
        timeout = aiohttp.ClientTimeout(total=EVIDENCE_S, sock_connect=CONNECT_S)
        try:
            async with self._http().get(f"{candidate.url}/health", timeout=timeout, allow_redirects=False) as response:
                health = _parse_json(await _read(response, ANSWER_SIZE_MAX))
        except (TimeoutError, *_LOST) as error:
            raise HostUnreachableError(type(error).__name__) from error
        port = health.get("tls_port") if isinstance(health, dict) else None
        if type(port) is not int or not 0 < port < 1 << 16:
            raise HostUnreachableError("the host offers no attested TLS")
        host = candidate.url.removeprefix("http://").rpartition(":")[0]  # HOST:PORT, as `check_lease` demands
        return replace(candidate, url=f"https://{host}:{port}", attested=True)

    async def fetch_evidence(self, candidate: Candidate, nonce: bytes) -> bytes:
        """Ask a host for evidence about `nonce`.

        Raises:
            HostUnreachableError: there is none.
            PeerRefusedError: who answers by attested TLS is not this host, or does not hold.
        """
        timeout = aiohttp.ClientTimeout(total=EVIDENCE_S, sock_connect=CONNECT_S)
        try:
            async with self._post(candidate, "evidence", nonce, timeout) as response:
                data = await _read(response, EVIDENCE_SIZE_MAX)
                if response.status == 200:
                    return data
                raise HostUnreachableError(f"status {response.status} {read_error(_parse_json(data))[0]}")
        except aiohttp.ClientConnectorCertificateError as error:
            if isinstance(error.certificate_error, PeerRefusedError):
                raise error.certificate_error from error
            raise HostUnreachableError(type(error).__name__) from error
        except (TimeoutError, *_LOST) as error:
            raise HostUnreachableError(type(error).__name__) from error

    async def send_sealed(self, candidate: Candidate, sealed: bytes) -> Stream | PlainRefusal:
        """Post a sealed request; returns once the answer begins.

        Raises:
            HostUnreachableError: no connection, or it broke before the answer began.
            AnswerLostError: the host took the request and fell silent.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._read_timeout_s)
        try:
            response = await self._post(candidate, "sealed", sealed, timeout)
        except aiohttp.ClientConnectorError as error:
            raise HostUnreachableError("no connection") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise HostUnreachableError("no connection in time") from error
        except TimeoutError as error:
            raise AnswerLostError("it fell silent") from error
        except _LOST as error:
            raise HostUnreachableError(type(error).__name__, broken=True) from error
        if response.status == 200:
            return Stream(response)
        try:
            data = await _read(response, ANSWER_SIZE_MAX)
        except (TimeoutError, *_LOST):
            data = b""
        finally:
            response.close()
        return PlainRefusal(status=response.status, code=read_error(_parse_json(data))[0])

    def _post(
        self, candidate: Candidate, what: str, body: bytes, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        headers = {"authorization": f"Bearer {candidate.ticket}", "content-type": "application/octet-stream"}
        url = f"{candidate.url}/{what}"
        return self._http().post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False, ssl=self._tls(candidate)
        )

    def _tls(self, candidate: Candidate) -> AttestedContext | bool:
        if not candidate.attested:
            return True
        if self._attested is None:
            raise RuntimeError("this transport was given no verifier for attested TLS")
        return self._attested(candidate.host_id)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
            jar = aiohttp.DummyCookieJar()  # a cookie of one host would travel through the relay to all others
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, trust_env=False, cookie_jar=jar
            )
        return self._session


def _voucher_total(answer: object) -> int | None:
    """The voucher a gateway asks for, nanotons in all; whether it may is for the payer to say."""
    error = answer.get("error") if isinstance(answer, dict) else None
    total = error.get("voucher_total") if isinstance(error, dict) else None
    return total if type(total) is int and 0 <= total <= NANOTONS_MAX else None


def read_error(answer: object) -> tuple[str, str]:
    """Return (code, message) of an OpenAI-shaped error, cleaned; words of our own where there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = NO_CODE
    if not isinstance(message, str) or not message.isprintable():
        message = "no reason was given"
    return code, message[:_MESSAGE_MAX]


async def _read(response: aiohttp.ClientResponse, size_max: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > size_max:
            raise aiohttp.ClientPayloadError(f"more than {size_max} bytes")
        await asyncio.sleep(0)
    return b"".join(parts)


def _parse_json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
