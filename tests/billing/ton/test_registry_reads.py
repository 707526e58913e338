"""Reading the registry over the wire: what is believed, and what is refused."""

from __future__ import annotations

import pytest
from pytoniq_core import Address, Cell, HashMap, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.errors import WrongContractError
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet
from billing.ton.registry import (
    CHANGE_VALUE,
    LogCheckpoint,
    Measurement,
    ModelTerms,
    Operator,
    OperatorTerms,
    Policy,
    read_registry,
    registry_address,
    registry_init,
    remove_rim_body,
    set_checkpoint_body,
    set_measurement_body,
    set_model_body,
    set_operator_body,
    set_price_body,
    set_rim_body,
)
from billing.ton.wallet import Transfer, pay
from tests.billing.ton.world import OWNER_KEY, TON, chain_clock, deploy_registry, fund, treasury, wallet_of

KEY = b"\x42" * 32
TERMS = ModelTerms(
    name="tiny", tariff=Tariff(prompt_price=2, cached_price=1, completion_price=6, reasoning_price=7), context=128
)


OWN_TARIFF = Tariff(prompt_price=1, completion_price=2)


def change(address: Address, body) -> Transfer:
    return Transfer(destination=address, amount=CHANGE_VALUE, body=body)


def operator_terms(**changes: object) -> OperatorTerms:
    fields = {
        "name": "x",
        "public_key": KEY,
        "endpoints": ("https://x",),
        "wallet": treasury().address,
        "fee_permille": 0,
    }
    return OperatorTerms(**(fields | changes))  # type: ignore[arg-type]


async def test_one_message_of_the_owner_changes_everything(chain: ChainClient, devnet: Devnet) -> None:
    registry = await deploy_registry(devnet, chain)
    operator = operator_terms(wallet=registry.owner.address, fee_permille=1)
    checkpoint = LogCheckpoint(log=KEY, size=3, root=KEY)
    bodies = [
        set_measurement_body(KEY, Measurement(kind=2, label="snp")),
        set_rim_body(KEY),
        set_model_body(KEY, TERMS),
        set_operator_body(2, operator),
        set_price_body(2, KEY, OWN_TARIFF),
        set_checkpoint_body(checkpoint),
        remove_rim_body(KEY),
    ]
    await registry.change(chain, chain_clock(devnet)(), *(change(registry.address, body) for body in bodies))
    state = await read_registry(chain, registry.address)
    assert state.seqno == 7
    assert state.measurements == {KEY: Measurement(kind=2, label="snp")}
    assert (state.rims, state.models) == (frozenset(), {KEY: TERMS})
    assert state.operators[2] == Operator(id=2, terms=operator, prices={KEY: OWN_TARIFF})
    assert set(state.operators) == {1, 2}
    assert state.policy == Policy(checkpoint=checkpoint)
    assert state.owner == registry.owner.address


async def test_an_address_without_a_contract_is_refused(chain: ChainClient) -> None:
    with pytest.raises(WrongContractError, match="absent"):
        await read_registry(chain, Address((0, KEY)))


async def test_another_contract_at_the_address_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    registry = await deploy_registry(devnet, chain)
    with pytest.raises(WrongContractError, match="its code is"):
        await read_registry(chain, registry.owner.address)


async def deploy(chain: ChainClient, devnet: Devnet, init: StateInit) -> Address:
    owner = wallet_of(OWNER_KEY)
    await fund(devnet, owner.address, TON)
    address = registry_address(init)
    first = Transfer(destination=address, amount=Nanotons(TON // 5), state_init=init, bounce=False)
    await pay(chain, owner, OWNER_KEY, [first], now=chain_clock(devnet)())
    return address


async def test_a_registry_made_for_another_network_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    address = await deploy(chain, devnet, registry_init(network_id=-239, owner=treasury().address))
    with pytest.raises(WrongContractError, match="made for network -239"):
        await read_registry(chain, address)


DAMAGES = ["short", "owner", "owner-tail", "policy", "lists", "tail", "anchor", "no-anchor", "stray-anchor", "status"]


def damaged(data: Cell, damage: str) -> Cell:
    """Data of a registry with one operator that its contract would never write."""
    owner, policy, lists, anchors = data.refs
    head = begin_cell().store_int(NETWORK_ID, 32).store_uint(0, 31 if damage == "short" else 32)
    match damage:
        case "owner":
            owner = begin_cell().store_uint(0, 2 + 2 + 32).end_cell()
        case "owner-tail":
            owner = begin_cell().store_cell(owner).store_bit(1).end_cell()
        case "policy":
            policy = begin_cell().store_bytes(KEY).store_bit(1).store_uint(0, 575).end_cell()
        case "lists":
            lists = begin_cell().store_uint(0, 5).end_cell()
        case "anchor":
            anchors = dictionary({int.from_bytes(treasury().address.hash_part, "big"): 319})
        case "no-anchor":
            anchors = dictionary({5: 320})
        case "stray-anchor":
            anchors = dictionary({int.from_bytes(treasury().address.hash_part, "big"): 320, 5: 320})
        case "status":
            terms = lists.refs[0].refs[0]
            wrong = begin_cell().store_bits(terms.bits[:528]).store_uint(3, 8).store_uint(0, 32)
            leaf = begin_cell().store_bits(lists.refs[0].bits)
            leaf = leaf.store_ref(wrong.store_ref(terms.refs[0]).store_ref(terms.refs[1]).end_cell()).end_cell()
            lists = begin_cell().store_bits(lists.bits).store_ref(leaf).end_cell()
    data = head.store_bit(1).store_ref(owner).store_ref(policy).store_ref(lists).store_ref(anchors)
    return (data.store_bit(1) if damage == "tail" else data).end_cell()


def dictionary(entries: dict[int, int]) -> Cell:
    """A dictionary of zeros, so many bits under each key."""
    found = HashMap(256, value_serializer=lambda bits, builder: builder.store_bits("0" * bits))
    for key, bits in entries.items():
        found.set(key, bits)
    cell: Cell = found.serialize()
    return cell


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_right_code_over_other_data_is_refused(chain: ChainClient, devnet: Devnet, damage: str) -> None:
    """Whoever deploys a contract chooses its first data; the code alone proves nothing about it."""
    operators = {1: operator_terms()}
    genuine = registry_init(network_id=NETWORK_ID, owner=treasury().address, operators=operators)
    assert damaged(genuine.data, "nothing").hash == genuine.data.hash
    init = StateInit(code=genuine.code, data=damaged(genuine.data, damage))
    address = await deploy(chain, devnet, init)
    with pytest.raises(WrongContractError, match="not a registry's"):
        await read_registry(chain, address)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Measurement(kind=256, label="x"),
        lambda: Measurement(kind=1, label=""),
        lambda: Measurement(kind=1, label="x" * 65),
        lambda: Measurement(kind=1, label="two\nlines"),
        lambda: ModelTerms(name="x", tariff=TERMS.tariff, context=1 << 32),
        lambda: operator_terms(public_key=b"x"),
        lambda: operator_terms(wallet=Address((-1, KEY))),
        lambda: operator_terms(fee_permille=1001),
        lambda: operator_terms(name=""),
        lambda: operator_terms(endpoints=()),
        lambda: operator_terms(endpoints=("x",) * 5),
        lambda: operator_terms(endpoints=("x" * 121,)),
        lambda: operator_terms(channel_delay_s=1 << 32),
        lambda: operator_terms(terms=b"x"),
        lambda: LogCheckpoint(log=KEY, size=-1, root=KEY),
        lambda: Policy(digest=b"x"),
        lambda: set_operator_body(1 << 32, operator_terms()),
        lambda: set_rim_body(b"short"),
    ],
)
def test_terms_the_contract_would_refuse_are_refused_before(make) -> None:
    with pytest.raises(ValueError, match=r"must|has 32 bytes"):
        make()
