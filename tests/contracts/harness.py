"""One contract in the real TVM: messages in, what it did out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.tlb.account import ShardAccount, StateInit
from pytoniq_core.tlb.transaction import Transaction as FullTransaction
from pytoniq_core.tlb.vm_stack import VmStack

from billing.entitlements import Entitlements
from billing.money import Nanotons
from billing.ton.config import slim_config
from billing.ton.emulator import Emulator, MethodResult
from billing.ton.proofs import AccountState, AccountStatus, Head
from billing.ton.registry import OperatorTerms, RegistryState, parse_registry, registry_init
from billing.ton.transaction import Transaction, parse_transaction
from billing.ton.vault import CLAIM_VALUE, VaultState, claim_of, parse_vault, vault_init
from billing.ton.vault_order import Order, sign_order

NOW = 1_800_000_000
OWNER = Address((0, sha256(b"owner").digest()))
TREASURY = Address((0, sha256(b"treasury").digest()))
STRANGER = Address((0, sha256(b"stranger").digest()))
HOT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x68" * 32)
OPERATOR_ID = 7
OPERATOR = OperatorTerms(
    name="first", public_key=b"k" * 32, endpoints=("http://127.0.0.1:8000",), wallet=TREASURY, fee_permille=50
)
TON = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one message did: exit code of the code, 0 for success, and the transaction."""

    exit_code: int
    gas: int
    aborted: bool
    action_code: int  # of the action phase, 0 for success
    transaction: Transaction
    cell: Cell  # of the transaction


class ContractInVm:
    """A deployed contract, alone in its own world, whose clock the test moves."""

    def __init__(self, init: StateInit) -> None:
        self.emulator = Emulator(slim_config())
        self.init = init
        self.address = Address((0, init.serialize().hash))
        self.now = NOW
        self._account = (
            begin_cell().store_ref(begin_cell().store_bit(0).end_cell()).store_bytes(bytes(32)).store_uint(0, 64)
        ).end_cell()
        self._lt = 1_000_000

    def deploy(self) -> Outcome:
        return self.send(STRANGER, value=TON // 10, init=self.init)

    def send(
        self,
        sender: Address,
        body: Cell | None = None,
        *,
        value: int = TON // 20,
        bounced: bool = False,
        init: StateInit | None = None,
    ) -> Outcome:
        message = (
            begin_cell()
            .store_uint(0b01, 2)
            .store_bit(int(not bounced))
            .store_bit(int(bounced))
            .store_address(sender)
            .store_address(self.address)
            .store_coins(value)
            .store_bit(0)
            .store_coins(0)
            .store_coins(0)
            .store_uint(self._lt, 64)
            .store_uint(self.now, 32)
        )
        if init is None:
            message.store_bit(0)
        else:
            message.store_bit(1).store_bit(1).store_ref(init.serialize())
        if body is None:
            return self.execute(message.store_bit(0).end_cell())
        return self.execute(message.store_bit(1).store_ref(body).end_cell())

    def send_external(self, body: Cell) -> Outcome:
        message = begin_cell().store_uint(0b1000, 4).store_address(self.address).store_coins(0).store_bit(0)
        return self.execute(message.store_bit(1).store_ref(body).end_cell())

    def execute(self, message: Cell) -> Outcome:
        self._lt += 1_000_000
        done = self.emulator.execute(
            shard_account=self._account.to_boc(), message=message.to_boc(), now=self.now, lt=self._lt
        )
        self._account = Cell.one_from_boc(done.shard_account)
        cell = Cell.one_from_boc(done.transaction)
        description = FullTransaction.deserialize(cell.begin_parse()).description
        compute = description.compute_ph
        return Outcome(
            exit_code=getattr(compute, "exit_code", -1),
            gas=getattr(compute, "gas_used", 0),
            aborted=bool(description.aborted),
            action_code=getattr(description.action, "result_code", 0),
            transaction=parse_transaction(cell, self.address.hash_part),
            cell=cell,
        )

    def account(self) -> AccountState:
        account = ShardAccount.deserialize(self._account.begin_parse()).account
        assert account is not None
        init = account.storage.state.state_init
        return AccountState(
            address=self.address,
            head=Head(seqno=1, time=self.now),
            status=AccountStatus.ACTIVE,
            balance=Nanotons(account.storage.balance.grams),
            last_lt=self._lt,
            last_hash=bytes(32),
            code=init.code,
            data=init.data,
        )

    def status(self) -> AccountStatus:
        account = ShardAccount.deserialize(self._account.begin_parse()).account
        return AccountStatus(account.storage.state.type_.removeprefix("account_")) if account else AccountStatus.ABSENT

    def get(self, method_id: int, stack: list[int] | None = None) -> tuple[MethodResult, list[object]]:
        account = self.account()
        assert account.code is not None
        assert account.data is not None
        result = self.emulator.run_get_method(
            code=account.code.to_boc(),
            data=account.data.to_boc(),
            address=self.address.to_str(is_user_friendly=False),
            method_id=method_id,
            stack=VmStack.serialize(stack or []).to_boc(),
            now=self.now,
            balance=account.balance,
        )
        return result, VmStack.deserialize(Cell.one_from_boc(result.stack).begin_parse())


class RegistryInVm(ContractInVm):
    """A registry."""

    def __init__(
        self,
        *,
        network_id: int = -777,
        operators: Mapping[int, OperatorTerms] = MappingProxyType({OPERATOR_ID: OPERATOR}),
    ) -> None:
        super().__init__(registry_init(network_id=network_id, owner=OWNER, operators=operators))

    def state(self) -> RegistryState:
        return parse_registry(self.account())


class VaultInVm(ContractInVm):
    """A vault, and what its operator's key signs."""

    def __init__(self, *, network_id: int = -777) -> None:
        super().__init__(
            vault_init(network_id=network_id, owner=OWNER, public_key=HOT_KEY.public_key().public_bytes_raw())
        )

    def state(self) -> VaultState:
        return parse_vault(self.account())

    def sign(
        self, order: Order, *, key: Ed25519PrivateKey = HOT_KEY, state: VaultState | None = None, timeout_s: int = 120
    ) -> Cell:
        signed = sign_order(
            order,
            vault=self.address,
            state=state or self.state(),
            key=key,
            created_at=self.now,
            after_lt=0,
            timeout_s=timeout_s,
        )
        return Cell.one_from_boc(signed.boc)

    def order(self, order: Order, **options: Any) -> Outcome:
        return self.execute(self.sign(order, **options))

    def claim(self, entitlements: Entitlements, payee: Address, *, value: int = CLAIM_VALUE) -> Outcome:
        return self.send(payee, claim_of(entitlements, payee), value=value)
