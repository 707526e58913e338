"""A chain without clock, disk or network: every message is executed in the real TVM, and what it cost is added up.

Keys and times are fixed, so the same code gives the same figures on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell
from pytoniq_core.tlb.account import ShardAccount
from pytoniq_core.tlb.transaction import Transaction as FullTransaction

from billing.money import Nanotons
from billing.ton.devnet import NETWORK_ID
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.validators import Validators
from billing.ton.emulator import Emulator
from billing.ton.proofs import AccountState, AccountStatus, Head
from billing.ton.transaction import parse_transaction
from billing.ton.wallet import Transfer, Wallet

NOW = 1_800_000_000
TON = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one message and all it set off took: nanotons from every account, gas, transactions."""

    fees: int
    gas: int
    steps: int


class World:
    """Accounts, and what is done with them."""

    def __init__(self) -> None:
        validators = Validators(bytes(32), global_id=NETWORK_ID, since=NOW)
        self.now = NOW
        self._emulator = Emulator(validators.config_boc())
        self._chain = Chain(self._emulator, validators=validators, global_id=NETWORK_ID, now=NOW)

    def close(self) -> None:
        """Release the emulator."""
        self._emulator.close()

    def fund(self, address: Address, tons: int) -> None:
        """Mint."""
        self._chain.mint(AccountId(workchain=0, id=address.hash_part), tons * TON, now=self.now)
        self._settle()

    def account(self, address: Address) -> AccountState:
        """The account as a proved state would show it."""
        boc = self._chain.account(AccountId(workchain=0, id=address.hash_part)).boc
        shard_account = ShardAccount.deserialize(Cell.one_from_boc(boc).begin_parse())
        account = shard_account.account
        init = getattr(account.storage.state, "state_init", None) if account else None
        return AccountState(
            address=address,
            head=Head(seqno=self._chain.seqno, time=self.now),
            status=AccountStatus.ACTIVE if init else AccountStatus.ABSENT,
            balance=Nanotons(account.storage.balance.grams if account else 0),
            last_lt=shard_account.last_trans_lt,
            last_hash=bytes(32),
            code=init.code if init else None,
            data=init.data if init else None,
        )

    def send(self, boc: bytes) -> Cost:
        """Execute an external message and all it sets off; RuntimeError when anything of it fails."""
        self._chain.accept_external(boc, now=self.now)
        return self._settle()

    def pay(self, wallet: Wallet, key: Ed25519PrivateKey, transfers: Sequence[Transfer]) -> Cost:
        """Send from a wallet V5, as `billing.ton.wallet.pay` does."""
        state = self.account(wallet.address)
        deploy = state.status is not AccountStatus.ACTIVE
        seqno = wallet.seqno(state)
        return self.send(wallet.sign(transfers, key=key, seqno=seqno, valid_until=self.now + 120, deploy=deploy))

    def _settle(self) -> Cost:
        fees = gas = steps = 0
        while True:
            for done in self._chain.cut(now=self.now).transactions:
                cell = Cell.one_from_boc(encode_boc(done.cell))
                description = FullTransaction.deserialize(cell.begin_parse()).description
                if description.aborted and getattr(description.compute_ph, "type_", "") == "tr_phase_compute_vm":
                    raise RuntimeError(f"a message failed with exit code {description.compute_ph.exit_code}")
                fees += parse_transaction(cell, done.account.id).cost
                gas += getattr(description.compute_ph, "gas_used", 0)
                steps += 1
            if not self._chain.pending:
                return Cost(fees=fees, gas=gas, steps=steps)


def key_of(name: str) -> Ed25519PrivateKey:
    """A key that is the same at each run."""
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def public(key: Ed25519PrivateKey) -> bytes:
    """Its public key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def wallet_of(key: Ed25519PrivateKey) -> Wallet:
    """Its wallet V5."""
    return Wallet(public_key=public(key), network_id=NETWORK_ID)
