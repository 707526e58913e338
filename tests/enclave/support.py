"""A client that seals for real, an operator that grants, and an enclave with the echo engine, all in one process."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.collect import Attester, NoTee
from attestation.evidence import parse_evidence
from attestation.frames import Endpoint, FrameType, ResponseHash, encode_plain_request, parse_frame
from attestation.sealed_state import SealingKeySource, UnsafeFileKeySource
from attestation.sealing import Header, ResponseOpener, SealedRequest, seal_request
from attestation.session import SessionSender
from attestation.transcript import host_id
from attestation.xwing import Recipient
from billing.grant import Grant, HostSlice, sign_grant
from billing.money import Nanotons
from billing.receipt import Receipt, verify_receipt
from billing.tariff import Tariff
from enclave.enclave import Enclave, Facts
from enclave.engine import Engine
from enclave.engine.echo import EchoEngine
from enclave.service import Limits

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
ACCOUNT_KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
ACCOUNT = ACCOUNT_KEY.public_key().public_bytes_raw()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
MODEL, OTHER_MODEL = b"m" * 32, b"M" * 32
PAYEE = bytes(33)
TARIFF = Tariff(prompt_price=100_000_000, completion_price=300_000_000)
CAP = 10**9
CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> tuple[int, str]:
        error = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert len(error["message"]) > 10
        return self.status, error["code"]


@dataclass
class Answer:
    """An opened answer."""

    data: list[dict[str, Any]] = field(default_factory=list)
    receipt: Receipt | None = None
    error: dict[str, Any] | None = None
    finished: bool = False
    response_hash: bytes = b""

    @property
    def text(self) -> str:
        return "".join(
            choice.get("text") or choice.get("message", choice.get("delta", {})).get("content") or ""
            for chunk in self.data
            for choice in chunk["choices"]
        )


def make_facts(folder: Path, **changes: Any) -> Facts:
    facts: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "control": folder / "control.sock",
        "state": folder / "state",
        "payee": PAYEE,
        "operator_key": OPERATOR_KEY.public_key().public_bytes_raw(),
        "coefficient": 1000,
        "models": {MODEL: Path("model"), OTHER_MODEL: Path("other")},
        "engine_digest": bytes(32),
        "limits": Limits(),
    }
    return Facts(**(facts | changes))


async def start_enclave(
    folder: Path,
    *,
    engine: Callable[[], Engine] = EchoEngine,
    load: bool = True,
    attester: Attester | None = None,
    sealing: SealingKeySource | None = None,
    clock: Callable[[], datetime] | None = None,
    **changes: Any,
) -> Enclave:
    async def make(_: Path) -> Engine:
        return engine()

    enclave = await Enclave.start(
        make_facts(folder, **changes),
        attester=attester or NoTee(),
        sealing=sealing or UnsafeFileKeySource(folder / "key"),
        load=make,
        clock=clock or Clock(),
        random=os.urandom,
    )
    if load:
        await enclave.service.models.load(MODEL)
    return enclave


class Client:
    """Everything a client of one lease knows, for one host."""

    def __init__(self, enclave: Enclave, **terms: Any) -> None:
        self.enclave = enclave
        self.recipient = Recipient(enclave.host_id, enclave.service.keys.hpke.public)
        self.receipt_key = enclave.service.keys.receipt_public
        self.terms = {
            "lease": os.urandom(16),
            "expires": int(NOW.timestamp()) + 600,
            "model": MODEL,
            "cap": CAP,
        } | terms
        self.key: Ed25519PrivateKey = self.terms.get("account_key", ACCOUNT_KEY)
        self.grant = self.terms.get("grant") or make_grant([enclave.host_id], **self.terms)
        self.sender = SessionSender(
            model=self.terms["model"],
            lease=self.terms["lease"],
            expires=self.terms["expires"],
            grant=self.grant,
            account_key=self.key,
            recipients=[self.recipient],
            random=os.urandom,
        )

    def seal(self, body: dict[str, Any] | bytes = CHAT, endpoint: int = Endpoint.CHAT_COMPLETIONS) -> SealedRequest:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.sender.seal(bytes([endpoint]) + raw, price_cap=self.terms["cap"])

    def seal_once(self, body: dict[str, Any] = CHAT, key: Ed25519PrivateKey | None = None) -> SealedRequest:
        header = Header(
            model=self.terms["model"],
            lease=self.terms["lease"],
            account=self.key.public_key().public_bytes_raw(),
            price_cap=self.terms["cap"],
            expires=self.terms["expires"],
            grant=self.grant,
        )
        plain = encode_plain_request(Endpoint.CHAT_COMPLETIONS, json.dumps(body).encode())
        return seal_request(header, plain, [self.recipient], key or self.key, os.urandom)

    async def ask(self, body: dict[str, Any] | bytes = CHAT, endpoint: int = Endpoint.CHAT_COMPLETIONS) -> Answer:
        sealed = self.seal(body, endpoint)
        answer = await self.send(sealed.data)
        assert answer.status == 200, answer.body
        return self.open(sealed, answer.body)

    async def send(self, data: bytes) -> HttpAnswer:
        return await post(self.enclave.address, "/h/00/sealed", data)

    def open(self, sealed: SealedRequest, body: bytes) -> Answer:
        opener, response_hash, answer = (
            ResponseOpener(sealed.content_key, sealed.request_hash),
            ResponseHash(),
            Answer(),
        )
        for frame in opener.feed(body):
            kind, payload = parse_frame(frame)
            if kind is FrameType.DATA:
                response_hash.add(payload)
                answer.data.append(json.loads(payload))
            elif kind is FrameType.RECEIPT:
                answer.receipt = verify_receipt(payload, self.receipt_key)
            else:
                answer.error = json.loads(payload)
        answer.finished, answer.response_hash = opener.finished, response_hash.digest()
        return answer


def make_grant(hosts: Sequence[bytes], **terms: Any) -> bytes:
    grant = Grant(
        lease=terms["lease"],
        account=terms.get("account", ACCOUNT),
        operator=terms.get("operator_key", OPERATOR_KEY).public_key().public_bytes_raw(),
        model_root=terms["model"],
        tariff=terms.get("tariff", TARIFF),
        hosts=tuple(
            HostSlice(host_id=host, slice=Nanotons(terms.get("slice", CAP)), coefficient=terms.get("coefficient", 1000))
            for host in hosts
        ),
        not_after=terms.get("not_after", terms["expires"]),
    )
    return sign_grant(grant, terms.get("operator_key", OPERATOR_KEY))


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("/"):
        return await asyncio.open_unix_connection(address)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def exchange(address: str, raw: bytes) -> HttpAnswer:
    reader, writer = await connect(address)
    try:
        writer.write(raw)
        return await read_answer(reader)
    finally:
        await hang_up(writer)


async def post(address: str, path: str, body: bytes) -> HttpAnswer:
    return await exchange(address, http(path, body))


async def get(address: str, path: str) -> HttpAnswer:
    return await exchange(address, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


def http(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> HttpAnswer:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    if headers.get("transfer-encoding") != "chunked":
        return HttpAnswer(status, headers, await reader.readexactly(int(headers["content-length"])))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return HttpAnswer(status, headers, b"".join(parts))


async def control(enclave: Enclave, method: str, path: str, body: dict[str, Any] | bytes = b"") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    answer = await exchange(os.fspath(enclave._facts.control), head + raw)
    if answer.headers["content-type"] != "application/json":
        return answer.body
    return json.loads(answer.body)


async def receipts(enclave: Enclave) -> list[dict[str, Any]]:
    return (await control(enclave, "GET", "/receipts?after=0&limit=100"))["receipts"]


async def eventually(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def evidence_ids(body: bytes) -> bytes:
    transcript = parse_evidence(body).transcript
    return host_id(transcript.hpke, transcript.receipt)


Starter = Callable[..., Awaitable[Enclave]]
