"""Wallet V5, the ordinary wallet of owners and clients: address, signed transfers, and sending one.

The code is the published one (github.com/ton-blockchain/wallet-contract-v5), carried by pytoniq. The wallet id in each
signed message contains the network's id, so a message for one network is void on every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq.contract.wallets.wallet_v5 import WALLET_V5_R1_CODE, WalletV5WalletID
from pytoniq_core import Address, Builder, Cell, begin_cell
from pytoniq_core.tlb.account import StateInit
from pytoniq_core.tlb.custom.wallet import WalletV5R1Data

from billing.errors import WrongContractError
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.outgoing import store_body
from billing.ton.proofs import AccountState, AccountStatus

__all__ = ["Transfer", "Wallet", "pay"]

CODE_HASH = bytes.fromhex("20834b7b72b112147e1b2fb457b84e74d1a30f04f737d4f62a668e9552d2b72f")
OP_SIGNED_EXTERNAL = 0x7369676E
ACTION_SEND = 0x0EC3C86D
SEND_MODE = 3  # fees apart, errors ignored: the wallet itself insists on the latter
TRANSFERS_MAX = 255  # actions in one transaction
VALID_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One message to send: nanotons, and what the receiver is to do with them."""

    destination: Address
    amount: Nanotons
    body: Cell | None = None
    state_init: StateInit | None = None
    bounce: bool = True

    def message(self) -> Cell:
        """The message's cell; the network fills in source, fees and times."""
        builder = (
            begin_cell()
            .store_uint(0b01, 2)  # internal, ihr disabled
            .store_bit(int(self.bounce))
            .store_bit(0)
            .store_uint(0, 2)
            .store_address(self.destination)
            .store_coins(self.amount)
            .store_bit(0)
            .store_coins(0)
            .store_coins(0)
            .store_uint(0, 64 + 32)
        )
        if self.state_init is None:
            builder.store_bit(0)
        else:
            builder.store_bit(1).store_bit(1).store_ref(self.state_init.serialize())
        return store_body(builder, self.body).end_cell()


@dataclass(frozen=True, kw_only=True)
class Wallet:
    """The address and message format of one wallet: Ed25519 public key (32 bytes) and network."""

    public_key: bytes
    network_id: int

    def __post_init__(self) -> None:
        if WALLET_V5_R1_CODE.hash != CODE_HASH:
            raise RuntimeError("pytoniq carries another wallet code than the one tested: install 0.1.43")
        if len(self.public_key) != 32:
            raise ValueError(f"public_key has 32 bytes, got {len(self.public_key)}")

    @cached_property
    def wallet_id(self) -> int:
        """Network, workchain, version and subwallet in one number."""
        return int(WalletV5WalletID(network_global_id=self.network_id, workchain=0).pack())

    @cached_property
    def state_init(self) -> StateInit:
        """Code and data the account starts with."""
        data = WalletV5R1Data(seqno=0, wallet_id=self.wallet_id, public_key=self.public_key)
        return StateInit(code=WALLET_V5_R1_CODE, data=data.serialize())

    @cached_property
    def address(self) -> Address:
        """Where the wallet lives: basechain, hash of code and data."""
        return Address((0, self.state_init.serialize().hash))

    def seqno(self, state: AccountState) -> int:
        """The number the next message must carry, from the wallet's proved state.

        Raises:
            WrongContractError: the account is no such wallet.
        """
        if state.status in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
            return 0
        if state.code is None or state.data is None or state.code.hash != CODE_HASH:
            raise WrongContractError(str(state.address), "not a wallet V5")
        return int(state.data.begin_parse().skip_bits(1).load_uint(32))

    def sign(
        self, transfers: Sequence[Transfer], *, key: Ed25519PrivateKey, seqno: int, valid_until: int, deploy: bool
    ) -> bytes:
        """The external message that makes the wallet send `transfers`, as a bag of cells.

        Args:
            transfers: 1 to 255.
            key: the wallet's private key.
            seqno: from `seqno`.
            valid_until: unix seconds after which the wallet refuses the message.
            deploy: attach code and data, for the wallet's first message.
        """
        order = self.order(transfers, seqno=seqno, valid_until=valid_until)
        return self.external(order, key.sign(order.end_cell().hash), deploy=deploy)

    def order(self, transfers: Sequence[Transfer], *, seqno: int, valid_until: int) -> Builder:
        """What is signed: the hash of its cell. Arguments as in `sign`."""
        if not 0 < len(transfers) <= TRANSFERS_MAX:
            raise ValueError(f"a message makes 1 to {TRANSFERS_MAX} transfers, got {len(transfers)}")
        actions = Cell.empty()
        for transfer in transfers:
            action = begin_cell().store_ref(actions).store_uint(ACTION_SEND, 32).store_uint(SEND_MODE, 8)
            actions = action.store_ref(transfer.message()).end_cell()
        return (
            begin_cell()
            .store_uint(OP_SIGNED_EXTERNAL, 32)
            .store_uint(self.wallet_id, 32)
            .store_uint(valid_until, 32)
            .store_uint(seqno, 32)
            .store_bit(1)
            .store_ref(actions)
            .store_bit(0)  # no extended actions
        )

    def external(self, order: Builder, signature: bytes, *, deploy: bool) -> bytes:
        """The external message of an order and its signature, 64 bytes, as a bag of cells."""
        body = begin_cell().store_cell(order.end_cell()).store_bytes(signature).end_cell()
        external = begin_cell().store_uint(0b1000, 4).store_address(self.address).store_coins(0)
        if deploy:
            external.store_bit(1).store_bit(1).store_ref(self.state_init.serialize())
        else:
            external.store_bit(0)
        boc: bytes = external.store_bit(0).store_cell(body).end_cell().to_boc()
        return boc


async def pay(
    chain: ChainClient,
    wallet: Wallet,
    key: Ed25519PrivateKey,
    transfers: Sequence[Transfer],
    *,
    now: datetime,
    timeout_s: float = 30.0,
) -> AccountState:
    """Send `transfers` and return the wallet's proved state after it took the message.

    Raises:
        MessageRejectedError: the network refused it.
        SendOutcomeUnknownError: look at the wallet's seqno before trying again.
        TimeoutError: it was sent, and the wallet has not taken it in time; likewise.
    """
    before = await chain.account(wallet.address)
    seqno = wallet.seqno(before)
    boc = wallet.sign(
        transfers,
        key=key,
        seqno=seqno,
        valid_until=int(now.timestamp()) + VALID_S,
        deploy=before.status is not AccountStatus.ACTIVE,
    )
    await chain.send(boc)
    return await chain.wait_for(wallet.address, lambda state: wallet.seqno(state) > seqno, timeout_s=timeout_s)
