"""The admin socket: faucet, clock, faults, keys; one JSON object a line each way, on a socket only its owner opens."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billing.errors import BillingError
from billing.ton.devnet.errors import DevnetError, DevnetNotRunningError, SocketPathError
from billing.ton.devnet.faults import Fault, FaultKind
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.node import NETWORK_ID, DevnetNode, Minted

LINE_SIZE_MAX = 4096
SOCKET_PATH_MAX = 107  # bytes; sockaddr_un.sun_path without its final zero
ANSWER_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


class AdminRefusedError(DevnetError):
    """The devnet refused an admin request."""


class AdminServer:
    """Serves the admin socket of a node."""

    def __init__(self, node: DevnetNode, path: Path) -> None:
        self._node = node
        self._path = path
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        if len(os.fsencode(self._path)) > SOCKET_PATH_MAX:
            raise SocketPathError(str(self._path), SOCKET_PATH_MAX)
        self._path.unlink(missing_ok=True)  # left by a process that was killed; the folder's lock is ours
        listener = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: the file is never open to others
            listener.bind(str(self._path))
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_SIZE_MAX)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client went away, or sent a line without end
        except asyncio.CancelledError:
            pass  # close() ends this task
        finally:
            if task is not None:
                self._open.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "status": self._status,
            "faucet": self._faucet,
            "clock": self._clock,
            "inject": self._inject,
            "clear": self._clear,
            "cut": self._cut,
            "change_validator": self._change_validator,
        }
        try:
            request = json.loads(line)
            return {"ok": True, "result": await methods[request.pop("op")](**request)}
        except (BillingError, ValueError, KeyError, TypeError, AttributeError) as error:
            return {"ok": False, "error": str(error) or repr(error)}

    async def _status(self) -> dict[str, Any]:
        node = self._node
        return {
            "network_id": NETWORK_ID,
            "seqno": node.newest.seqno,
            "now": node.clock.now(),
            "clock_offset_s": node.clock.offset_s,
            "frozen": node.clock.frozen_at is not None,
            "accounts": node.chain.accounts,
            "queued": node.chain.pending,
            "faults": node.faults.counts(),
            "init_block": node.init_block.settings_text(),
            "key_blocks": list(node.chain.validators.key_blocks),
        }

    async def _faucet(self, address: str, nanotons: int) -> dict[str, Any]:
        done = await self._node.faucet(AccountId.parse(address), int(nanotons))
        return {"lt": done.lt, "hash": done.hash.hex(), "seqno": done.seqno}

    async def _clock(self, action: str, value: int = 0) -> int:
        actions: dict[str, Callable[[], Awaitable[int]]] = {
            "advance": lambda: self._node.advance(int(value)),
            "set": lambda: self._node.set_time(int(value)),
            "freeze": self._node.freeze,
            "thaw": self._node.thaw,
        }
        if action not in actions:
            raise DevnetError(f"clock {action!r}: give one of {', '.join(actions)}")
        return await actions[action]()

    async def _change_validator(self) -> int:
        return await self._node.change_validator()

    async def _inject(self, kind: str, count: int = 1, delay_s: float = 0.0) -> None:
        self._node.faults.inject(Fault(kind=FaultKind(kind), delay_s=float(delay_s)), int(count))

    async def _clear(self) -> None:
        self._node.faults.clear()

    async def _cut(self) -> int:
        await self._node.tick()
        return self._node.newest.seqno


@dataclass(frozen=True, slots=True, kw_only=True)
class DevnetStatus:
    """What the devnet says about itself."""

    network_id: int
    seqno: int
    now: int  # unix time of the chain's clock
    clock_offset_s: int  # ahead of the machine's clock, while it runs
    frozen: bool
    accounts: int
    queued: int  # messages that wait for the next block
    faults: Mapping[str, int]  # not yet used, by kind
    init_block: str  # the first key block: number:root hash:file hash
    key_blocks: Sequence[int]  # numbers of all of them


class DevnetAdmin:
    """Client of the admin socket; every call opens its own connection."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)

    async def status(self) -> DevnetStatus:
        """Ask for block number, time, queue and faults."""
        return DevnetStatus(**await self._ask(op="status"))

    async def faucet(self, address: str, nanotons: int) -> Minted:
        """Mint nanotons to an address (raw or user-friendly) and wait until they are in a block."""
        done = await self._ask(op="faucet", address=address, nanotons=nanotons)
        return Minted(lt=done["lt"], hash=bytes.fromhex(done["hash"]), seqno=done["seqno"])

    async def advance(self, seconds: int) -> int:
        """Move the chain's clock forward; returns the new unix time."""
        return int(await self._ask(op="clock", action="advance", value=seconds))

    async def set_time(self, moment: int) -> int:
        """Move the chain's clock forward to a unix time; returns it."""
        return int(await self._ask(op="clock", action="set", value=moment))

    async def freeze(self) -> int:
        """Let the chain's time stand still; returns the unix time."""
        return int(await self._ask(op="clock", action="freeze"))

    async def thaw(self) -> int:
        """Let the chain's time run on from where it stood; returns the unix time."""
        return int(await self._ask(op="clock", action="thaw"))

    async def inject(self, kind: FaultKind, *, count: int = 1, delay_s: float = 0.0) -> None:
        """Let the next `count` queries that the fault is about suffer it."""
        await self._ask(op="inject", kind=kind.value, count=count, delay_s=delay_s)

    async def clear_faults(self) -> None:
        """Forget all faults not yet used."""
        await self._ask(op="clear")

    async def cut_block(self) -> int:
        """Cut a block now; returns its number."""
        return int(await self._ask(op="cut"))

    async def change_validator(self) -> int:
        """Cut a key block that hands over to a new validator; returns its number."""
        return int(await self._ask(op="change_validator"))

    async def _ask(self, **request: Any) -> Any:  # noqa: ANN401  # JSON in, JSON out
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise DevnetNotRunningError(self._path) from error
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
        if not line:
            raise AdminRefusedError("the devnet ended the connection without an answer")
        answer = json.loads(line)
        if not answer["ok"]:
            raise AdminRefusedError(answer["error"])
        return answer["result"]
