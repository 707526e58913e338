"""What the devnet and the client refuse, each named after the attack."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteServerError
from pytoniq_core import Builder, Cell
from pytoniq_core.proof import ProofError

from billing.ton.devnet import AccountId, Devnet, Fault, FaultKind, errors, proofs
from billing.ton.devnet.external import SIZE_MAX
from billing.ton.devnet.snapshot import Snapshot
from tests.billing.devnet.support import PAYEE, TON, catch_up, fund, wallet_v4


def external(to: str, *, padding: int = 0) -> bytes:
    """An external message of any size: a tree of cells no wallet would accept, but well formed."""
    name = AccountId.parse(to)
    body = Cell.empty()
    for number in range(padding):
        body = Builder().store_uint(number, 1016).store_ref(body).end_cell()
    head = Builder().store_uint(0b1000, 4).store_uint(0b100, 3).store_int(name.workchain, 8).store_bytes(name.id)
    return bytes(head.store_coins(0).store_bit(0).store_bit(1).store_ref(body).end_cell().to_boc())


def _bits(bits: str) -> bytes:
    return bytes(Builder().store_bits(bits).end_cell().to_boc())


async def test_an_external_message_over_65535_bytes_is_refused(net: Devnet, client: LiteClient) -> None:
    huge = external(PAYEE, padding=502)
    assert len(huge) > SIZE_MAX == 65_535
    with pytest.raises(LiteServerError, match=r"too large: .* bytes, at most 65535; send several"):
        await client.raw_send_message(huge)


async def test_an_external_message_just_under_the_limit_reaches_the_contract(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v4(net, client)
    large = external(wallet.address.to_str(is_user_friendly=False), padding=490)
    assert 60_000 < len(large) <= SIZE_MAX
    with pytest.raises(LiteServerError, match="was not accepted: exit code"):
        await client.raw_send_message(large)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        pytest.param(b"not a bag of cells", "not a bag of cells", id="garbage"),
        pytest.param(external(PAYEE)[:-3], "ended early", id="truncated"),
        pytest.param(_bits("100001" + "0" * 60), "only standard addresses", id="external-destination"),
        pytest.param(_bits("0" * 400), "only inbound external", id="internal"),
        pytest.param(_bits("11" + "0" * 400), "only inbound external", id="outbound"),
        pytest.param(external("5:" + "01" * 32), "workchain 0 and -1 only", id="no-such-workchain"),
    ],
)
async def test_a_message_that_is_none_is_refused(net: Devnet, client: LiteClient, message: bytes, why: str) -> None:
    seqno = net.node.newest.seqno
    with pytest.raises(LiteServerError, match=why):
        await client.raw_send_message(message)
    assert net.node.newest.seqno == seqno


async def test_a_server_that_lies_about_a_balance_is_caught_by_the_client(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    net.node.faults.inject(Fault(kind=FaultKind.FORGE_STATE))
    with pytest.raises(ProofError, match="account state proof invalid"):
        await client.raw_get_account_state(PAYEE)
    assert (await client.get_account_state(PAYEE)).balance == TON  # and it is honest again


async def test_a_server_that_proves_another_block_is_caught_by_the_client(
    net: Devnet, client: LiteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(net, client, PAYEE, TON)
    old = net.node.newest
    await fund(net, client, PAYEE, TON)
    honest = proofs.account_proof

    def lying(_: Snapshot, account: AccountId) -> bytes:
        return honest(old, account)

    monkeypatch.setattr("billing.ton.devnet.liteserver.account_proof", lying)
    with pytest.raises(ProofError):
        await client.raw_get_account_state(PAYEE)


async def test_a_server_that_proves_another_masterchain_is_caught_by_the_client(
    net: Devnet, client: LiteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(net, client, PAYEE, TON)
    old = proofs.shard_proof(net.node.newest)
    await fund(net, client, PAYEE, TON)
    monkeypatch.setattr("billing.ton.devnet.liteserver.LiteServer._shard_proof", lambda *_: old)
    with pytest.raises(ProofError):
        await client.raw_get_all_shards_info(client.last_mc_block)


async def test_a_server_that_swaps_the_transaction_chain_is_caught_by_the_client(
    net: Devnet, client: LiteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await net.node.faucet(AccountId.parse(PAYEE), TON)
    await catch_up(client, net)
    found = net.node.store.transactions

    def swapped(account: AccountId, lt: int, count: int) -> list[object]:
        first, second, third = found(account, lt, count)
        return [first, third, second]

    monkeypatch.setattr(net.node.store, "transactions", swapped)
    with pytest.raises(Exception, match="Transaction hashes mismatch"):
        await client.get_transactions(PAYEE, 3)


CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.DevnetError) and kind is not errors.DevnetError
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_devnet_error_crosses_a_process_boundary_and_stands_in_the_tree(kind: type[Exception]) -> None:
    count = len(inspect.signature(kind).parameters) if "__init__" in vars(kind) else 1
    error = kind(*range(count))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args) == (kind, str(error), error.args)
    assert kind.__name__ in (errors.__doc__ or "")


def test_a_folder_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    assert "choose a shorter --state" in str(errors.SocketPathError(str(tmp_path), 107))
