"""Limits of external messages, as the network sets them: size, depth, import fee, and gas before acceptance."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pytoniq_core import Cell as ReferenceCell
from pytoniq_core.tlb.transaction import Transaction

from billing.ton.config import read_prices
from billing.ton.devnet import AccountId
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import EMPTY, Builder, Cell, pruned
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.errors import MalformedCellError, MessageTooDeepError, MessageTooLargeError
from billing.ton.devnet.external import DEPTH_MAX, SIZE_MAX
from billing.ton.devnet.messages import Transaction as Done
from billing.ton.devnet.validators import Validators
from billing.ton.emulator import Emulator, ExternalNotAcceptedError
from tests.billing.devnet.support import TON

NOW = 1_800_000_000
ACCEPT, LOOP = bytes.fromhex("f800"), bytes.fromhex("90ea")  # ACCEPT; PUSHCONT of nothing, AGAIN
VALIDATORS = Validators(b"\x01" * 32, global_id=-777, since=NOW)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(VALIDATORS.config_boc())


@dataclass(frozen=True)
class Contract:
    """A funded account that is deployed by its first message, and the chain it is on."""

    chain: Chain
    init: Cell

    @property
    def id(self) -> AccountId:
        return AccountId(0, self.init.hash())

    def message(self, body: Cell = EMPTY) -> bytes:
        head = Builder().uint(0b1000, 4).uint(0b100, 3).sint(0, 8).octets(self.id.id).coins(0)
        return encode_boc(head.uint(0b11, 2).ref(self.init).uint(1, 1).ref(body).cell())

    def send(self, body: Cell = EMPTY) -> Done:
        return self.chain.accept_external(self.message(body), now=NOW)


def contract(emulator: Emulator, code: bytes, *, balance: int = TON) -> Contract:
    chain = Chain(emulator, validators=VALIDATORS, global_id=-777, now=NOW)
    init = Builder().uint(0b00110, 5).ref(Builder().octets(code).cell()).ref(EMPTY).cell()
    made = Contract(chain=chain, init=init)
    chain.mint(made.id, balance, now=NOW)
    chain.cut(now=NOW)
    return made


def nested(depth: int) -> Cell:
    cell = EMPTY
    for number in range(depth):
        cell = Builder().uint(number, 16).ref(cell).cell()
    return cell


def refused_without_a_trace(made: Contract, body: Cell, error: type[Exception], why: str) -> None:
    before = made.chain.account(made.id)
    with pytest.raises(error, match=why):
        made.send(body)
    assert made.chain.account(made.id) is before
    assert made.chain.cut(now=NOW).transactions == ()


def test_a_message_nested_to_the_limit_passes_and_one_deeper_does_not(emulator: Emulator) -> None:
    made = contract(emulator, ACCEPT)
    made.send(nested(DEPTH_MAX - 1))  # the body lies one below the root
    made.chain.cut(now=NOW)
    refused_without_a_trace(made, nested(DEPTH_MAX), MessageTooDeepError, "513 cells below .* at most 512")


def test_a_message_over_the_size_limit_is_refused(emulator: Emulator) -> None:
    flat = Builder()
    for part in range(4):
        body = EMPTY
        for number in range(130):
            body = Builder().uint(1000 * part + number, 1000).ref(body).cell()
        flat.ref(body)
    body = flat.cell()
    made = contract(emulator, ACCEPT)
    assert len(made.message(body)) > SIZE_MAX
    refused_without_a_trace(made, body, MessageTooLargeError, "at most 65535")


def test_a_message_with_pruned_parts_is_refused(emulator: Emulator) -> None:
    made = contract(emulator, ACCEPT)
    refused_without_a_trace(made, pruned(nested(3)), MalformedCellError, "a pruned branch stands in it")


def test_a_contract_has_10000_gas_to_accept_a_message(emulator: Emulator) -> None:
    made = contract(emulator, LOOP)
    refused_without_a_trace(made, EMPTY, ExternalNotAcceptedError, "exit code -14")


def test_after_accepting_the_account_pays_for_up_to_a_million_gas(emulator: Emulator) -> None:
    done = contract(emulator, ACCEPT + LOOP).send()
    compute = Transaction.deserialize(ReferenceCell.one_from_boc(done.boc).begin_parse()).description.compute_ph
    prices = read_prices(VALIDATORS.config_boc()).gas
    assert (compute.success, compute.exit_code, compute.gas_credit) == (False, -14, 10_000)
    assert 1_000_000 <= compute.gas_used < 1_000_100
    assert compute.gas_fees == compute.gas_used * prices.price


@pytest.mark.parametrize("balance", [1, 100_000])
def test_an_account_that_cannot_pay_the_import_is_not_even_asked(emulator: Emulator, balance: int) -> None:
    refused_without_a_trace(contract(emulator, ACCEPT, balance=balance), EMPTY, ExternalNotAcceptedError, "no funds")


def test_a_refusal_by_the_contract_leaves_no_transaction(emulator: Emulator) -> None:
    throw = bytes.fromhex("f22a")  # THROW 42
    refused_without_a_trace(contract(emulator, throw), EMPTY, ExternalNotAcceptedError, "exit code 42")
