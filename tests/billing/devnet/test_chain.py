"""The chain without clock, disk or network: what it executes, keeps and conserves."""

from __future__ import annotations

import os
import random

import pytest
from pytoniq import WalletV4R2
from pytoniq.contract.wallets.wallet import WALLET_V4_R2_CODE
from pytoniq_core import Address, Builder
from pytoniq_core import Cell as ReferenceCell
from pytoniq_core.tlb.account import StateInit
from pytoniq_core.tlb.transaction import Transaction

from billing.ton.config import read_prices, slim_config
from billing.ton.devnet import AccountId
from billing.ton.devnet import chain as chain_module
from billing.ton.devnet.blocks import BASECHAIN
from billing.ton.devnet.cells import Cell, Reader
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.messages import Parcel, minted_message
from billing.ton.devnet.validators import Validators
from billing.ton.emulator import Emulator, ExternalNotAcceptedError
from tests.billing.devnet.support import TON, signing_key

NOW = 1_800_000_000
CONFIG = slim_config(-777)


def chain_of(emulator: Emulator) -> Chain:
    validators = Validators(b"\x01" * 32, global_id=-777, since=NOW)
    return Chain(emulator, validators=validators, global_id=-777, now=NOW)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(CONFIG)


@pytest.fixture
def chain(emulator: Emulator) -> Chain:
    return chain_of(emulator)


class Wallet:
    """A version 4 wallet whose messages are signed here."""

    def __init__(self, number: int) -> None:
        self._key = signing_key(number)
        data = WalletV4R2.create_data_cell(self._key[32:], 698983191)
        self._init = StateInit(code=WALLET_V4_R2_CODE, data=data)
        self.address = Address((0, self._init.serialize().hash))
        self.id = AccountId(0, bytes(self.address.hash_part))
        self.seqno = 0

    def pay(self, *payees: tuple[AccountId, int], mode: int = 3) -> bytes:
        orders = [
            WalletV4R2.create_wallet_internal_message(
                Address((to.workchain, to.id)), send_mode=mode, value=amount, body=ReferenceCell.empty(), bounce=False
            )
            for to, amount in payees
        ]
        body = WalletV4R2.raw_create_transfer_msg(self._key, self.seqno, 698983191, orders, valid_until=NOW + 10**6)
        head = Builder().store_uint(0b1000, 4).store_address(self.address).store_coins(0)
        if self.seqno == 0:
            head.store_uint(0b11, 2).store_ref(self._init.serialize())
        else:
            head.store_bit(0)
        self.seqno += 1
        return bytes(head.store_bit(1).store_ref(body).end_cell().to_boc())


def test_the_same_history_gives_the_same_block(emulator: Emulator) -> None:
    def history() -> bytes:
        chain, wallet = chain_of(emulator), Wallet(1)
        chain.mint(wallet.id, 10 * TON, now=NOW + 1)
        chain.cut(now=NOW + 1)
        chain.accept_external(wallet.pay((AccountId(0, b"\x07" * 32), TON)), now=NOW + 2)
        return chain.cut(now=NOW + 2).snapshot.master.root_hash

    assert history() == history()


def test_nanotons_only_come_from_the_faucet_and_only_go_to_fees(chain: Chain) -> None:
    dice = random.Random(5)
    wallets = [Wallet(number) for number in range(1, 5)]
    for wallet in wallets:
        chain.mint(wallet.id, 50 * TON, now=NOW)
    minted, fees = 200 * TON, chain_fees(chain.cut(now=NOW).snapshot.blocks[BASECHAIN])
    for moment in range(30):
        payees = [(dice.choice(wallets).id, dice.randrange(TON)) for _ in range(dice.randint(1, 4))]
        chain.accept_external(dice.choice(wallets).pay(*payees), now=NOW + moment * 1000)
        cut = chain.cut(now=NOW + moment * 1000)
        block_fees = chain_fees(cut.snapshot.blocks[BASECHAIN])
        assert block_fees >= sum(done.fees for done in cut.transactions) > 0
        fees += block_fees
        assert cut.snapshot.accounts[BASECHAIN].amount == minted - fees


def chain_fees(block: Cell) -> int:
    reader = Reader(block.refs[1])  # value flow
    reader.uint(32)
    return reader.coins()


def test_a_refused_message_leaves_no_trace(chain: Chain) -> None:
    wallet = Wallet(1)
    chain.mint(wallet.id, TON, now=NOW)
    chain.accept_external(wallet.pay((wallet.id, 1)), now=NOW)
    chain.cut(now=NOW)
    before = chain.account(wallet.id)
    wallet.seqno = 7
    with pytest.raises(ExternalNotAcceptedError, match="exit code 33"):
        chain.accept_external(wallet.pay((wallet.id, 1)), now=NOW)
    assert chain.account(wallet.id) is before
    assert chain.cut(now=NOW).transactions == ()


def test_logical_time_never_stands_still(chain: Chain) -> None:
    wallet = Wallet(1)
    chain.mint(wallet.id, 9 * TON, now=NOW)
    times: list[int] = []
    for _ in range(3):
        chain.accept_external(wallet.pay((AccountId(0, os.urandom(32)), 1), (wallet.id, 2)), now=NOW)
        cut = chain.cut(now=NOW)
        moment = cut.snapshot.moment
        times += [moment.start_lt, *(done.lt for done in cut.transactions), moment.end_lt]
    assert times == sorted(set(times))


def test_a_full_block_leaves_the_rest_to_the_next(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "BLOCK_TRANSACTIONS_MAX", 3)
    wallet = Wallet(1)
    chain.mint(wallet.id, 9 * TON, now=NOW)
    chain.cut(now=NOW)
    chain.accept_external(wallet.pay(*((AccountId(0, bytes([n]) * 32), 1) for n in range(1, 5))), now=NOW)
    first = chain.cut(now=NOW)
    assert (len(first.transactions), len(first.queue), chain.pending) == (3, 2, 2)
    second = chain.cut(now=NOW)
    assert (len(second.transactions), chain.pending) == (2, 0)


def test_a_message_to_no_workchain_is_dropped_with_a_word(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    lost = minted_message(AccountId(9, bytes(32)), 1, lt=1, now=NOW)
    chain._queue.append(Parcel(to=lost.to, amount=lost.amount, boc=lost.boc))
    assert chain.cut(now=NOW).transactions == ()
    assert "no such workchain" in caplog.text


def test_an_account_that_sends_itself_away_leaves_the_dictionary(chain: Chain) -> None:
    wallet, payee = Wallet(1), AccountId(0, b"\x07" * 32)
    chain.mint(wallet.id, TON, now=NOW)
    chain.accept_external(wallet.pay((payee, 0), mode=128 + 32), now=NOW)  # everything, and destroy if empty
    cut = chain.cut(now=NOW)
    assert cut.snapshot.account(wallet.id) is None
    assert not cut.changed[wallet.id].exists
    found = cut.snapshot.account(payee)
    assert found is not None
    assert found.amount > 990_000_000


def test_a_payment_costs_what_gas_and_forward_prices_say(chain: Chain) -> None:
    wallet, prices = Wallet(1), read_prices(CONFIG)
    chain.mint(wallet.id, 9 * TON, now=NOW)
    chain.accept_external(wallet.pay((wallet.id, 1)), now=NOW)
    done = chain.accept_external(wallet.pay((AccountId(0, b"\x07" * 32), TON)), now=NOW)
    seen = Transaction.deserialize(ReferenceCell.one_from_boc(done.boc).begin_parse())
    compute, action = seen.description.compute_ph, seen.description.action
    assert compute.gas_fees == compute.gas_used * prices.gas.price
    assert compute.gas_used > 1000
    (sent,) = seen.out_msgs
    assert action.total_fwd_fees == sent.info.fwd_fee + action.total_action_fees == prices.forward.lump
    import_fee = done.fees - compute.gas_fees - action.total_action_fees
    assert prices.forward.lump < import_fee < 2_000_000  # lump, and bits and cells of the body
