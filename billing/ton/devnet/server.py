"""A devnet in this process: the chain, its lite-server, its admin socket and the timer that cuts idle blocks."""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from billing.ton.devnet.admin import AdminServer
from billing.ton.devnet.adnl import AdnlServer
from billing.ton.devnet.liteserver import LiteServer
from billing.ton.devnet.node import NETWORK_ID, DevnetNode

BLOCK_INTERVAL_S = 3.0  # an idle chain still cuts blocks: clients wait for them, and time passes in them
LOOPBACK = "127.0.0.1"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A running devnet: where it listens, and the node behind it for use in the same event loop."""

    host: str
    port: int
    public_key: str  # base64, as client configurations have it
    admin: Path
    init_block: str  # the first key block, as settings have it: number:root hash:file hash
    node: DevnetNode
    heartbeat: asyncio.Task[None]  # cuts idle blocks; ends only with the devnet, or with the error that stopped it
    network_id: int = NETWORK_ID

    def summary(self) -> dict[str, str | int]:
        """What a client or supervisor needs to use it."""
        return {
            "host": self.host,
            "port": self.port,
            "public_key": self.public_key,
            "network_id": self.network_id,
            "init_block": self.init_block,
            "admin": str(self.admin.resolve()),
        }


@asynccontextmanager
async def running_devnet(
    folder: Path, *, host: str = LOOPBACK, port: int = 0, block_interval_s: float = BLOCK_INTERVAL_S
) -> AsyncIterator[Devnet]:
    """Run a devnet on a state folder until the context ends.

    Args:
        folder: state; a folder of an earlier run continues its chain.
        host: address to listen on.
        port: TCP port; 0 lets the system choose.
        block_interval_s: seconds between blocks when nothing happens.

    Raises:
        DevnetError: the folder is in use or damaged.
        EmulatorUnavailableError: no emulator for this machine.
        OSError: the port is taken.
    """
    node = DevnetNode.open(folder)
    server = AdnlServer(node.key_seed, LiteServer(node).answer)
    admin = AdminServer(node, folder / "admin.sock")
    timer: asyncio.Task[None] | None = None
    try:
        port = await server.start(host, port)
        await admin.start()
        timer = asyncio.create_task(_cut_regularly(node, block_interval_s))
        yield Devnet(
            host=host,
            port=port,
            public_key=base64.b64encode(server.key.public).decode(),
            admin=folder / "admin.sock",
            init_block=node.init_block.settings_text(),
            node=node,
            heartbeat=timer,
        )
    finally:
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
        await admin.close()
        await server.close()
        await node.close()


async def serve_devnet(
    folder: Path, *, host: str, port: int, block_interval_s: float, announce: Callable[[Devnet], None]
) -> None:
    """Run a devnet until SIGTERM or SIGINT; `announce` is called once it can be used. Raises as `running_devnet`.

    Raises:
        StoreFailedError: the disk took no block any more.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_devnet(folder, host=host, port=port, block_interval_s=block_interval_s) as devnet:
        announce(devnet)
        told = asyncio.create_task(stop.wait())
        await asyncio.wait({told, devnet.heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        if devnet.heartbeat.done():
            told.cancel()
            devnet.heartbeat.result()  # raises what stopped it


async def _cut_regularly(node: DevnetNode, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await node.tick()
