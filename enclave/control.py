"""What the Ray side of a host may ask of its enclave: a unix socket, mode 0600, the same small HTTP.

    GET  /status                       GET  /receipts?after=N&limit=M  POST /load    {"model_root": hex}
    POST /prove   challenge bytes      POST /ack    {"seq": N}         POST /unload  {"model_root": hex, "notice_s": N}
    POST /extend  {"job_bundle": hex}  POST /shutdown                  POST /prepare

Nothing here can reach a prompt, a key or an answer: whoever holds the socket can stop the host, collect receipts, and
have approved job bundles logged.
"""

import json
import os
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from enclave.bundles import BundleDesk
from enclave.errors import BadRequestError, NotFoundError, StartError
from enclave.front import Exchange, HttpRequest, reply_json
from enclave.service import SealedService

NOTICE_MAX_S = 86_400
RECEIPTS_MAX = 1000  # in one answer
SOCKET_PATH_MAX = 107  # sun_path of unix(7), without its final zero


class Control:
    """The requests of the control socket."""

    def __init__(
        self, service: SealedService, bundles: BundleDesk, address: str, shut_down: Callable[[], None]
    ) -> None:
        """`address` is where the sealed side listens; `shut_down` asks the process to end."""
        self._service, self._bundles, self._address, self._shut_down = service, bundles, address, shut_down
        self._routes: dict[tuple[str, str], Callable[[HttpRequest], Awaitable[object]]] = {
            ("GET", "/status"): self._status,
            ("GET", "/receipts"): self._receipts,
            ("POST", "/ack"): self._acknowledge,
            ("POST", "/load"): self._load,
            ("POST", "/unload"): self._unload,
            ("POST", "/prepare"): self._prepare,
            ("POST", "/extend"): self._extend,
            ("POST", "/shutdown"): self._shutdown,
        }

    async def answer(self, request: HttpRequest, exchange: Exchange) -> None:
        """Serve one request."""
        if (request.method, request.path) == ("POST", "/prove"):
            exchange.reply(200, self._prove(request.body), "application/octet-stream")
            return
        route = self._routes.get((request.method, request.path))
        if route is None:
            raise NotFoundError("the control socket knows no such request", "unknown_route")
        reply_json(exchange, await route(request))

    async def _status(self, _: HttpRequest) -> object:
        service = self._service
        models = service.models
        return {
            **health(service),
            "address": self._address,
            "pid": os.getpid(),
            "receipt_key": service.keys.receipt_public.hex(),
            "failed": service.counters.failed,
            "abandoned": service.counters.abandoned,
            "shelf": [{"model_root": root.hex(), "state": models.state(root)} for root in models.roots],
            "receipts": len(service.journal),
        }

    async def _receipts(self, request: HttpRequest) -> object:
        query = dict(parse_qsl(request.query))
        after, limit = _number(query.get("after", "0"), "after"), _number(query.get("limit", "100"), "limit")
        stored = self._service.journal.after(after, min(limit, RECEIPTS_MAX))
        return {"receipts": [{"seq": item.seq, "receipt": b64encode(item.receipt).decode()} for item in stored]}

    async def _acknowledge(self, request: HttpRequest) -> object:
        seq = _object(request).get("seq")
        if type(seq) is not int:
            raise BadRequestError("seq must be a whole number", "invalid_value", "seq")
        try:
            self._service.journal.acknowledge(seq)
        except ValueError as error:
            raise BadRequestError(str(error), "invalid_value", "seq") from None
        return {"receipts": len(self._service.journal)}

    async def _load(self, request: HttpRequest) -> object:
        root = _digest(request, "model_root")
        await self._service.models.load(root)
        return {"model_root": root.hex(), "state": self._service.models.state(root)}

    async def _unload(self, request: HttpRequest) -> object:
        root = _digest(request, "model_root")
        notice_s = _object(request).get("notice_s", 0)
        if type(notice_s) is not int or not 0 <= notice_s <= NOTICE_MAX_S:
            raise BadRequestError(f"notice_s must be a whole number up to {NOTICE_MAX_S}", "invalid_value", "notice_s")
        models = self._service.models
        if notice_s:
            models.retire(root, notice_s)
        else:
            await models.unload(root)
        return {"model_root": root.hex(), "state": models.state(root)}

    async def _prepare(self, _: HttpRequest) -> object:
        self._service.models.prepare()
        return {"loading": self._service.models.loading}

    async def _extend(self, request: HttpRequest) -> object:
        digest = _digest(request, "job_bundle")
        await self._bundles.log(digest)
        return {"job_bundle": digest.hex(), "state": "logged"}

    async def _shutdown(self, _: HttpRequest) -> object:
        self._shut_down()
        return {"stopping": True}

    def _prove(self, challenge: bytes) -> bytes:
        try:
            return self._service.keys.prove(challenge)
        except ValueError as error:
            raise BadRequestError(str(error), "invalid_value") from None


def health(service: SealedService) -> dict[str, Any]:
    """What anyone may know: whether this host answers, and how busy it is."""
    counters, limits = service.counters, service.limits
    return {
        "host_id": service.keys.host_id.hex(),
        "ready": bool(service.models.serving),
        "loading": service.models.loading,
        "running": min(counters.active, limits.running),
        "waiting": max(0, counters.active - limits.running),
        "models": [root.hex() for root in service.models.serving],
        "served": counters.served,
        "failed": counters.failed,
        "abandoned": counters.abandoned,
        "output_tokens": counters.output_tokens,
    }


def bind_control(path: Path) -> socket.socket:
    """A listening unix socket that only this user can open.

    Raises:
        StartError: another enclave listens there, or the path does not work.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise StartError(f"{path} is longer than the {SOCKET_PATH_MAX} bytes of a unix socket: choose a shorter path")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            listening.bind(os.fspath(path))
        finally:
            os.umask(before)
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {path}: {error.strerror}") from error
    except StartError:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Make room where an enclave that was killed left its socket behind."""
    if path.is_socket():
        if _answers(path):
            raise StartError(f"an enclave already listens on {path}: stop it, or choose another path")
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def _object(request: HttpRequest) -> dict[str, Any]:
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequestError("send a JSON object", "invalid_json")
    return value


def _digest(request: HttpRequest, name: str) -> bytes:
    text = _object(request).get(name)
    try:
        digest = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise BadRequestError(f"{name} must be 64 hexadecimal digits", "invalid_value", name)
    return digest


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadRequestError(f"{name} must be a whole number", "invalid_value", name)
    return int(text)
