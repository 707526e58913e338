"""The join service's HTTPS: TLS 1.3 with the head's own certificate, small requests, few connections for each."""

import asyncio
import json
import logging
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

from cluster.errors import ConfigError, JoinLaterError, JoinRefusedError, RefusedError, TroubleError
from cluster.join_desk import JoinDesk
from cluster.join_messages import BODY_MAX, PREFIX, Order
from enclave.front import Connection, Exchange, Front, HttpRequest, reply_json

CONNECTIONS_PER_PEER_MAX = 8
HANDSHAKE_S = 5.0
RECEIVE_S = 5.0
RELOAD_S = 60.0
STATUS = {"malformed_request": 400, "clock_off": 400, "unknown_route": 404, "unknown_challenge": 409}
REFUSED, LATER, LIMITED = 403, 503, 429
T = TypeVar("T")
_log = logging.getLogger(__name__)


class JoinConnection(Connection):
    """One connection; those of one address are counted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A host connected."""
        super().connection_made(transport)
        if sum(other.peer == self.peer for other in self._front.connections) > CONNECTIONS_PER_PEER_MAX:
            self.cut()


class JoinServer(Front):
    """Hands requests to the desk, and its answers back."""

    def __init__(self, desk: JoinDesk, *, ca: Path, certificate: Path, key: Path) -> None:
        """The head's own PEM files; certificate and key are read again once a minute."""
        super().__init__(self._answer, body_max=BODY_MAX, receive_s=RECEIVE_S)
        self._desk, self._files = desk, (certificate, key)
        self._ca = ca.read_bytes()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.load_cert_chain(certificate, key)
        self._loop: asyncio.Task[None] | None = None
        self._working: set[asyncio.Future[Any]] = set()

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address in use. ConfigError when that does not work."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: JoinConnection(self),
                host,
                port,
                backlog=128,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as error:
            raise ConfigError(f"joining cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._started(server)
        self._loop = asyncio.create_task(self._reload())
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    async def stop(self, grace_s: float) -> None:
        """See `Front.stop`."""
        if self._loop is not None:
            self._loop.cancel()
        await super().stop(grace_s)

    async def _answer(self, request: HttpRequest, exchange: Exchange) -> None:
        peer = cast("Connection", exchange).peer
        try:
            await self._route(request, exchange, peer)
        except JoinRefusedError as error:
            _log.info("%s is refused: %s: %s", peer, error.code, error)
            self._refuse(exchange, STATUS.get(error.code, REFUSED), error.code, str(error))
        except JoinLaterError as error:
            self._refuse(exchange, LIMITED if error.code == "rate_limited" else LATER, error.code, str(error))
        except RefusedError as error:  # the registry changed its mind in between
            self._refuse(exchange, REFUSED, "host_refused", str(error))
        except TroubleError as error:
            _log.warning("a host at %s waits: %s", peer, error)
            self._refuse(exchange, LATER, "try_again", "the head is busy with itself: try again in a few seconds")

    async def _route(self, request: HttpRequest, exchange: Exchange, peer: str) -> None:
        name = request.path.removeprefix(PREFIX) if request.path.startswith(PREFIX) else ""
        match request.method, name:
            case "GET", "ca":
                exchange.reply(200, self._ca, "application/x-pem-file")
            case "POST", "challenge":
                host_id, nonce = await self._whole(self._desk.challenge(peer, request.body))
                reply_json(exchange, {"host_id": host_id.hex(), "nonce": nonce.hex(), "time": self._desk.time()})
            case "POST", "certificate":
                exchange.reply(200, (await self._whole(self._desk.certify(peer, request.body))).encode())
            case "POST", ("bind" | "drain" | "leave"):
                node_id = await self._whole(self._desk.order(peer, Order(name), request.body))
                reply_json(exchange, {"node_id": node_id})
            case "POST", "standing":
                state, reason = await self._desk.standing(peer, request.body)
                reply_json(exchange, {"state": state, "reason": reason})
            case _:
                raise JoinRefusedError("unknown_route", f"the join service has no {request.method} {request.path[:64]}")

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """What the desk has begun it ends, also for a host that hangs up: or that host would be half in."""
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Future[Any]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it; if nobody is left, nobody needs it

    @staticmethod
    def _refuse(exchange: Exchange, status: int, code: str, message: str) -> None:
        body = {"error": {"message": message, "type": "join_error", "param": None, "code": code}}
        exchange.reply(status, json.dumps(body).encode())

    async def _reload(self) -> None:
        """Take a new certificate of the head into use; connections that are open keep the old one."""
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                self._context.load_cert_chain(*self._files)
            except (OSError, ssl.SSLError) as error:
                _log.warning("the certificate of the head cannot be read, the last one stays: %s", error)
