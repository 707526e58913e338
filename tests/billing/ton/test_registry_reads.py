"""Reading the registry over the wire: what is believed, and what is refused."""

from __future__ import annotations

import pytest
from pytoniq_core import Address, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.errors import WrongContractError
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet
from billing.ton.registry import (
    CHANGE_VALUE,
    Measurement,
    ModelTerms,
    OperatorTerms,
    operator_body,
    read_registry,
    registry_address,
    registry_init,
    remove_rim_body,
    set_measurement_body,
    set_model_body,
    set_rim_body,
)
from billing.ton.wallet import Transfer, pay
from tests.billing.ton.world import OWNER_KEY, TON, chain_clock, deploy_registry, fund, treasury, wallet_of

KEY = b"\x42" * 32
TERMS = ModelTerms(
    name="tiny", tariff=Tariff(prompt_price=2, cached_price=1, completion_price=6, reasoning_price=7), context=128
)


def change(address: Address, body) -> Transfer:
    return Transfer(destination=address, amount=CHANGE_VALUE, body=body)


async def test_one_message_of_the_owner_changes_everything(chain: ChainClient, devnet: Devnet) -> None:
    registry = await deploy_registry(devnet, chain)
    operator = OperatorTerms(public_key=KEY, endpoint="https://x", wallet=registry.owner.address, fee_permille=1)
    bodies = [
        set_measurement_body(KEY, Measurement(kind=2, label="snp")),
        set_rim_body(KEY),
        set_model_body(KEY, TERMS),
        operator_body(operator),
        remove_rim_body(KEY),
    ]
    await registry.change(chain, chain_clock(devnet)(), *(change(registry.address, body) for body in bodies))
    state = await read_registry(chain, registry.address)
    assert state.seqno == 5
    assert state.measurements == {KEY: Measurement(kind=2, label="snp")}
    assert (state.rims, state.models, state.operator) == (frozenset(), {KEY: TERMS}, operator)
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
    operator = OperatorTerms(public_key=KEY, endpoint="x", wallet=treasury().address, fee_permille=0)
    init = registry_init(network_id=-239, owner=treasury().address, operator=operator)
    address = await deploy(chain, devnet, init)
    with pytest.raises(WrongContractError, match="made for network -239"):
        await read_registry(chain, address)


@pytest.mark.parametrize("damage", ["short", "owner", "owner-tail", "tail", "anchor", "operator", "wallet"])
async def test_the_right_code_over_other_data_is_refused(chain: ChainClient, devnet: Devnet, damage: str) -> None:
    """Whoever deploys a contract chooses its first data; the code alone proves nothing about it."""
    operator = OperatorTerms(public_key=KEY, endpoint="x", wallet=treasury().address, fee_permille=0)
    genuine = registry_init(network_id=NETWORK_ID, owner=treasury().address, operator=operator)
    owner, lists, terms, anchor = genuine.data.refs
    data = begin_cell().store_int(NETWORK_ID, 32).store_uint(0, 32)
    match damage:
        case "short":
            data = begin_cell().store_int(NETWORK_ID, 32).store_uint(0, 31)
        case "owner":
            owner = begin_cell().store_uint(0, 2 + 2 + 32).end_cell()
        case "owner-tail":
            owner = begin_cell().store_cell(owner).store_bit(1).end_cell()
        case "tail":
            data.store_bit(1)
        case "anchor":
            anchor = begin_cell().store_uint(0, 319).end_cell()
        case "operator":
            terms = begin_cell().store_bytes(KEY).end_cell()
        case "wallet":
            wallet = Address((-1, KEY))
            terms = begin_cell().store_bytes(KEY).store_uint(0, 16).store_address(wallet)
            terms = terms.store_uint(1, 8).store_bytes(b"x").end_cell()
    data = data.store_ref(owner).store_ref(lists).store_ref(terms).store_ref(anchor).end_cell()
    address = await deploy(chain, devnet, StateInit(code=genuine.code, data=data))
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
        lambda: OperatorTerms(public_key=b"x", endpoint="x", wallet=treasury().address, fee_permille=0),
        lambda: OperatorTerms(public_key=KEY, endpoint="x", wallet=Address((-1, KEY)), fee_permille=0),
        lambda: OperatorTerms(public_key=KEY, endpoint="x", wallet=treasury().address, fee_permille=1001),
        lambda: set_rim_body(b"short"),
    ],
)
def test_terms_the_contract_would_refuse_are_refused_before(make) -> None:
    with pytest.raises(ValueError, match=r"must|has 32 bytes"):
        make()
