"""ADNL over TCP, the server's side: encrypted frames that carry queries and answers.

Handshake, 256 bytes from the client: id of the server's key | client's Ed25519 key | SHA-256 of the parameters | 160
random bytes of parameters, AES-CTR encrypted under the X25519 secret of both keys. Then both directions are AES-CTR
streams of frames: length (4, little endian) | nonce (32) | payload | SHA-256 of nonce and payload.
Source: docs.ton.org, "ADNL TCP"; ton/adnl/adnl-ext-connection.cpp.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from hashlib import sha256, sha512
from hmac import compare_digest

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from billing.ton.devnet.errors import DevnetError
from billing.ton.devnet.tl import ADNL_ANSWER, ADNL_QUERY, LITE_QUERY, PING, PONG, TlReader, TlWriter

FRAME_SIZE_MAX = 1 << 20  # bytes; an external message takes less than 66 KB
QUERIES_PER_CONNECTION_MAX = 256
CONNECTIONS_MAX = 256
HANDSHAKE_TIMEOUT_S = 10.0
_ED25519_KEY_TAG = b"\xc6\xb4\x13\x48"
_FIELD = 2**255 - 19

Handler = Callable[[bytes], Awaitable[bytes]]

_log = logging.getLogger(__name__)


class ConnectionLostError(DevnetError):
    """The connection ends in place of an answer (bad frames, or an injected fault)."""


def montgomery_key(public: bytes) -> bytes:
    """Convert an Ed25519 public key to the X25519 key of the same secret (RFC 7748, 4.1)."""
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    u = (1 + y) * pow(1 - y, -1, _FIELD) % _FIELD
    return u.to_bytes(32, "little")


class ServerKey:
    """The lite-server's identity."""

    def __init__(self, seed: bytes) -> None:
        self.public = (
            Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        )
        self.id = sha256(_ED25519_KEY_TAG + self.public).digest()
        self._secret = X25519PrivateKey.from_private_bytes(sha512(seed).digest()[:32])

    def agree(self, client: bytes) -> bytes:
        """Compute the secret shared with a client's Ed25519 key."""
        return self._secret.exchange(X25519PublicKey.from_public_bytes(montgomery_key(client)))


def _stream(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(counter)).encryptor()


class _Connection:
    """One client: decrypts its frames, answers its queries in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._queries: set[asyncio.Task[None]] = set()

    async def serve(self, key: ServerKey) -> None:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            hello = await self._reader.readexactly(256)
        self._agree(key, hello)
        self._send(b"")  # an empty frame tells the client that the keys agree
        try:
            while True:
                self._take(await self._receive())
        finally:
            for task in self._queries:
                task.cancel()
            await asyncio.gather(*self._queries, return_exceptions=True)

    def _agree(self, key: ServerKey, hello: bytes) -> None:
        if not compare_digest(hello[:32], key.id):
            raise ConnectionLostError("a client asked for another server key")
        checksum = hello[64:96]
        try:
            secret = key.agree(hello[32:64])
        except (ValueError, InvalidKey) as error:
            raise ConnectionLostError(f"a client's key is unusable: {error}") from None
        cipher = _stream(secret[:16] + checksum[16:32], checksum[:4] + secret[20:32])
        parameters = cipher.update(hello[96:])
        if not compare_digest(sha256(parameters).digest(), checksum):
            raise ConnectionLostError("a client's handshake does not decrypt")
        self._out = _stream(parameters[0:32], parameters[64:80])
        self._in = _stream(parameters[32:64], parameters[80:96])

    async def _receive(self) -> bytes:
        size = int.from_bytes(self._in.update(await self._reader.readexactly(4)), "little")
        if not 64 <= size <= FRAME_SIZE_MAX:
            raise ConnectionLostError(f"a frame of {size} bytes")
        frame = self._in.update(await self._reader.readexactly(size))
        if not compare_digest(sha256(frame[:-32]).digest(), frame[-32:]):
            raise ConnectionLostError("a frame whose checksum does not hold")
        return frame[32:-32]

    def _send(self, payload: bytes) -> None:
        body = secrets.token_bytes(32) + payload
        frame = (len(body) + 32).to_bytes(4, "little") + body + sha256(body).digest()
        self._writer.write(self._out.update(frame))

    def _take(self, payload: bytes) -> None:
        reader = TlReader(payload)
        kind = reader.take(4)
        if kind == PING:
            self._send(TlWriter(PONG).raw(reader.take(8)).done())
            return
        if kind != ADNL_QUERY:
            raise ConnectionLostError("a message that is neither ping nor query")
        if len(self._queries) >= QUERIES_PER_CONNECTION_MAX:
            raise ConnectionLostError(f"more than {QUERIES_PER_CONNECTION_MAX} queries at once")
        query_id, query = reader.take(32), TlReader(reader.octets())
        if query.take(4) != LITE_QUERY:
            raise ConnectionLostError("a query that is not for a lite-server")
        task = asyncio.create_task(self._answer(query_id, query.octets()))
        self._queries.add(task)
        task.add_done_callback(self._queries.discard)

    async def _answer(self, query_id: bytes, query: bytes) -> None:
        try:
            answer = await self._handler(query)
            self._send(TlWriter(ADNL_ANSWER).raw(query_id).octets(answer).done())
            await self._writer.drain()
        except (ConnectionLostError, ConnectionError):
            self._writer.close()


class AdnlServer:
    """Listens and hands each lite-server query to a handler."""

    def __init__(self, seed: bytes, handler: Handler) -> None:
        """Prepare to serve under the Ed25519 key of this seed (32 bytes)."""
        self.key = ServerKey(seed)
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, chosen by the system when 0 was asked for."""
        self._server = await asyncio.start_server(self._serve, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._open.add(task)
        try:
            await _Connection(reader, writer, self._handler).serve(self.key)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client went away
        except DevnetError as error:
            _log.warning("connection closed: %s", error)
        except asyncio.CancelledError:
            pass  # close() ends this task; nobody waits for its outcome but close() itself
        finally:
            self._open.discard(task)
            writer.close()
