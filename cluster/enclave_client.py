"""Talking to an enclave: its public HTTP front, and the control socket that only its own machine can open."""

import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp

from attestation.evidence import EVIDENCE_SIZE_MAX
from cluster.errors import ConfigError, EnclaveSilentError, EnclaveUnreachableError, RefusedError
from cluster.relay import parse_address

CONTROL_VARIABLE = (
    "CHRYSALIS_ENCLAVE_CONTROL"  # path of the control socket, set for a whole Ray node by whoever starts it
)
HEALTH_TIMEOUT_S = 0.9  # three misses at one a second must fit into five seconds
EVIDENCE_TIMEOUT_S = 15.0
CONTROL_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0
JSON_SIZE_MAX = 4 << 20
HEALTH_SIZE_MAX = 64 << 10
NONCE_SIZE = 32


class EnclaveGate(Protocol):
    """What the registry needs from enclaves it knows by address (host:port)."""

    async def fetch_evidence(self, address: str, nonce: bytes) -> bytes:
        """Encoded evidence for a 32-byte nonce; EnclaveUnreachableError when there is none."""
        ...

    async def fetch_health(self, address: str) -> Mapping[str, Any]:
        """The health object; EnclaveUnreachableError when there is none, EnclaveSilentError when it did not come."""
        ...


class EnclaveControlError(RefusedError):
    """The enclave answered its owner with a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReceipt:
    """A signed receipt that the enclave keeps until it is acknowledged."""

    seq: int
    signed: bytes


class HttpEnclaveGate:
    """Enclaves over HTTP. Close it at the end."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def fetch_evidence(self, address: str, nonce: bytes) -> bytes:
        """See EnclaveGate."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
        url = f"http://{_checked(address)}/evidence"
        request = self._open().post(url, data=nonce, timeout=_limit(EVIDENCE_TIMEOUT_S), allow_redirects=False)
        async with _asking(address), request as answer:
            return await _read(answer, address, EVIDENCE_SIZE_MAX)

    async def fetch_health(self, address: str) -> Mapping[str, Any]:
        """See EnclaveGate."""
        url = f"http://{_checked(address)}/health"
        request = self._open().get(url, timeout=_limit(HEALTH_TIMEOUT_S), allow_redirects=False)
        async with _asking(address), request as answer:
            return _parse_object(await _read(answer, address, HEALTH_SIZE_MAX), address)

    async def close(self) -> None:
        """Close idle connections."""
        if self._session:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            jar = aiohttp.DummyCookieJar()  # hosts are strangers: what one sets is neither kept nor sent
            self._session = aiohttp.ClientSession(auto_decompress=False, trust_env=False, cookie_jar=jar)
        return self._session


class EnclaveControl:
    """One enclave's control socket. Use as an async context manager."""

    def __init__(self, socket: Path) -> None:
        self._name = str(socket)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket)), auto_decompress=False, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    async def status(self) -> Mapping[str, Any]:
        """What the enclave says about itself to its owner."""
        return await self._json("GET", "/status")

    async def load(self, model_root: bytes) -> None:
        """Load a model (32-byte manifest root); returns once it serves. Loading it twice is allowed."""
        await self._json("POST", "/load", {"model_root": model_root.hex()}, timeout_s=LOAD_TIMEOUT_S)

    async def unload(self, model_root: bytes, *, notice_s: int = 0) -> None:
        """Stop serving a model; requests that run are answered.

        With `notice_s` it is not offered any more, answers for so long, and is unloaded then: leases may name it.
        """
        body = {"model_root": model_root.hex(), "notice_s": notice_s}
        await self._json("POST", "/unload", body, timeout_s=LOAD_TIMEOUT_S)

    async def prepare(self) -> None:
        """Have the enclave begin to import what its engine needs: a model will be loaded soon."""
        await self._json("POST", "/prepare", {})

    async def log_bundle(self, digest: bytes) -> None:
        """Have a job's code (SHA-256, 32 bytes) logged before it runs; EnclaveControlError when it may not run here."""
        await self._json("POST", "/extend", {"job_bundle": digest.hex()})

    async def receipts(self, *, after: int, limit: int) -> tuple[PendingReceipt, ...]:
        """Up to `limit` receipts that were not acknowledged, with sequence numbers above `after`."""
        answer = await self._json("GET", f"/receipts?after={after}&limit={limit}")
        try:
            return tuple(
                PendingReceipt(seq=int(item["seq"]), signed=base64.b64decode(item["receipt"], validate=True))
                for item in answer["receipts"]
            )
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise EnclaveUnreachableError(f"{self._name}: malformed list of receipts: {error}") from error

    async def acknowledge(self, seq: int) -> None:
        """Let the enclave forget receipts up to `seq`."""
        await self._json("POST", "/ack", {"seq": seq})

    async def prove(self, challenge: bytes) -> bytes:
        """A signature by the enclave's receipt key over the tagged challenge, 64 bytes."""
        return await self._bytes("POST", "/prove", challenge)

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> Mapping[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        return _parse_object(await self._bytes(method, path, data, timeout_s=timeout_s) or b"{}", self._name)

    async def _bytes(
        self, method: str, path: str, data: bytes | None = None, *, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> bytes:
        request = self._session.request(method, f"http://enclave{path}", data=data, timeout=_limit(timeout_s))
        async with _asking(self._name), request as answer:
            return await _read(answer, self._name, JSON_SIZE_MAX)


def _checked(address: str) -> str:
    """The address, if it is IP:PORT and nothing else: it becomes part of a URL, and of the relay's map."""
    try:
        parsed = parse_address(address)
    except ConfigError as error:
        raise EnclaveUnreachableError(str(error)) from None
    if str(parsed) != address or parsed.port == 0:
        raise EnclaveUnreachableError(f"{address!r} is not an address: write IP:PORT, as 127.0.0.1:8443")
    return address


@asynccontextmanager
async def _asking(name: str) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise EnclaveSilentError(f"{name}: no answer ({type(error).__name__})") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EnclaveUnreachableError(f"{name}: no answer ({type(error).__name__})") from error


async def _read(answer: aiohttp.ClientResponse, name: str, size_max: int) -> bytes:
    """The body, at most `size_max` bytes; what the enclave refuses is an EnclaveControlError with its own words."""
    body = bytearray()
    async for part in answer.content.iter_chunked(1 << 16):
        body += part
        if len(body) > size_max:
            raise EnclaveUnreachableError(f"{name}: an answer of more than {size_max} bytes is not read")
    if answer.status == 200:
        return bytes(body)
    text = _refusal(bytes(body))
    if answer.status >= 500:
        raise EnclaveUnreachableError(f"{name}: {answer.status} {text}")
    raise EnclaveControlError(f"{name}: {answer.status} {text}")


def _refusal(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "without a reason"


def _parse_object(body: bytes, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EnclaveUnreachableError(f"{name}: the answer is not JSON") from error
    if not isinstance(value, dict):
        raise EnclaveUnreachableError(f"{name}: the answer is not a JSON object")
    return value


def _limit(total_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s)
