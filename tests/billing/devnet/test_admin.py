from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from pytoniq_core import Address

from billing.ton.devnet import AccountId, Devnet, DevnetAdmin, FaultKind
from billing.ton.devnet.admin import AdminRefusedError
from billing.ton.devnet.errors import SocketPathError
from billing.ton.devnet.server import running_devnet
from tests.billing.devnet.support import PAYEE, TON


@pytest.fixture
def admin(net: Devnet) -> DevnetAdmin:
    return DevnetAdmin(net.admin)


async def test_the_faucet_pays_raw_and_friendly_addresses(net: Devnet, admin: DevnetAdmin) -> None:
    first = await admin.faucet(PAYEE, TON)
    second = await admin.faucet(Address(PAYEE).to_str(is_bounceable=False), 2 * TON)
    assert second.seqno == first.seqno + 1
    assert net.node.chain.account(AccountId.parse(PAYEE)).amount == 3 * TON


async def test_clock_faults_and_blocks_are_driven_from_outside(net: Devnet, admin: DevnetAdmin) -> None:
    before = await admin.status()
    assert (before.network_id, before.faults, before.queued) == (-777, {}, 0)
    assert await admin.advance(3600) >= before.now + 3600
    await admin.inject(FaultKind.DELAY, count=3, delay_s=2.5)
    assert await admin.cut_block() == before.seqno + 2
    after = await admin.status()
    assert (after.clock_offset_s, after.faults) == (3600, {"delay": 3})
    await admin.clear_faults()
    assert (await admin.status()).faults == {}


@pytest.mark.parametrize(
    ("address", "nanotons", "why"),
    [
        pytest.param("nobody", TON, "is not a TON address", id="no-address"),
        pytest.param(PAYEE, 0, "amount above 0", id="nothing"),
        pytest.param(PAYEE, -5, "amount above 0", id="negative"),
        pytest.param("7:" + "07" * 32, TON, "workchain 0 or -1", id="no-such-workchain"),
        pytest.param(PAYEE, 1 << 120, "does not fit", id="more-than-a-message-holds"),
    ],
)
async def test_a_faucet_request_that_makes_no_sense_is_refused(
    net: Devnet, admin: DevnetAdmin, address: str, nanotons: int, why: str
) -> None:
    with pytest.raises(AdminRefusedError, match=why):
        await admin.faucet(address, nanotons)
    assert net.node.chain.account(AccountId.parse(PAYEE)).amount == 0
    await admin.faucet(PAYEE, TON)  # and it still works


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"nonsense", b'{"op": "melt"}', b'{"op": "clock"}', b'{"op": "cut", "x": 1}']
)
async def test_a_malformed_request_is_answered_with_an_error(net: Devnet, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(net.admin)
    writer.write(line + b"\n")
    assert json.loads(await reader.readline())["ok"] is False
    writer.close()
    await writer.wait_closed()


async def test_a_line_without_end_is_cut_off(net: Devnet) -> None:
    reader, writer = await asyncio.open_unix_connection(net.admin)
    writer.write(b"x" * 10_000)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_only_the_owner_may_open_the_socket(net: Devnet) -> None:
    assert stat.S_IMODE(net.admin.stat().st_mode) == 0o600


async def test_a_state_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    with pytest.raises(SocketPathError, match="choose a shorter --state"):
        async with running_devnet(deep):
            pass
