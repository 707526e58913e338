"""A client and wallets over a devnet; the clock never sleeps, blocks are waited for by number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nacl.signing import SigningKey
from pytoniq import LiteClient, WalletV4R2, WalletV5R1

from billing.ton.devnet import NETWORK_ID, AccountId, Devnet

TON = 10**9
PAYEE = "0:" + "07" * 32


def signing_key(number: int) -> bytes:
    """A 64-byte private key as pytoniq wants it."""
    key = SigningKey(number.to_bytes(32, "big"))
    return bytes(key) + bytes(key.verify_key)


@asynccontextmanager
async def client_of(net: Devnet, public_key: str | None = None) -> AsyncIterator[LiteClient]:
    client = LiteClient(net.host, net.port, public_key or net.public_key, trust_level=1, timeout=20)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


async def catch_up(client: LiteClient, net: Devnet) -> None:
    """Wait until the client has seen the newest block."""
    async with asyncio.timeout(10):
        while client.last_shard_blocks[0].seqno < net.node.newest.seqno:
            await asyncio.sleep(0.005)


async def fund(net: Devnet, client: LiteClient, address: str, nanotons: int) -> None:
    await net.node.faucet(AccountId.parse(address), nanotons)
    await catch_up(client, net)


async def wallet_v5(net: Devnet, client: LiteClient, *, key: int = 1, global_id: int = NETWORK_ID) -> WalletV5R1:
    """A funded, deployed wallet of version 5."""
    wallet = await WalletV5R1.from_private_key(client, signing_key(key), network_global_id=global_id)
    return await _deployed(net, client, wallet)


async def wallet_v4(net: Devnet, client: LiteClient, *, key: int = 1) -> WalletV4R2:
    """A funded, deployed wallet of version 4."""
    wallet = await WalletV4R2.from_private_key(client, signing_key(key), version="v4r2")
    return await _deployed(net, client, wallet)


async def _deployed(net: Devnet, client: LiteClient, wallet: Any) -> Any:
    await fund(net, client, wallet.address.to_str(), 10 * TON)
    await wallet.update()
    await wallet.send_init_external()
    await catch_up(client, net)
    await wallet.update()
    return wallet
