"""The payment channel contract: its terms and address, its state read with proofs, and the messages to it.

Layouts are in docs/protocol/channel.md, the contract in contracts/channel.fc. A channel's address follows from its
terms, so both sides compute it alone. A state is believed only at the address of the terms in it, because whoever
deploys a contract chooses its first data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pytoniq_core import Address, Cell, Slice, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.credit import Deposit
from billing.errors import WrongContractError
from billing.money import Nanotons, check_nanotons
from billing.ton.client import ChainClient
from billing.ton.contract import check_network, code_of, contract_address, data_layout, data_of
from billing.ton.proofs import AccountState
from billing.voucher import Channel, check_network_id
from billing.wire import SIGNATURE_SIZE, check_size, check_uint

__all__ = [
    "ORDER_VALUE",
    "RENT_RESERVE",
    "ChannelState",
    "ChannelStatus",
    "ChannelTerms",
    "SignedOrder",
    "announce_close_body",
    "announce_withdrawal_body",
    "cancel_body",
    "channel_account",
    "channel_address",
    "channel_init",
    "close_message",
    "finish_body",
    "parse_channel",
    "read_channel",
    "redeem_message",
]

OP_REDEEM, OP_CLOSE = 0x43430001, 0x43430002
OP_ANNOUNCE_WITHDRAWAL, OP_ANNOUNCE_CLOSE, OP_CANCEL, OP_FINISH = 0x43430011, 0x43430012, 0x43430013, 0x43430014
OP_PAYOUT = 0x43430021

RENT_RESERVE = Nanotons(10_000_000)  # of the deposit, out of every voucher's reach; comes back with the close
ORDER_VALUE = Nanotons(
    10_000_000
)  # attached to a client's order: its gas three times over, the rest stays the client's
DELAY_MIN_S, DELAY_MAX_S = 3600, 30 * 86_400


class ChannelStatus(IntEnum):
    """What the client has announced, or that the channel is closed for good."""

    OPEN = 0
    WITHDRAWING = 1
    CLOSING = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """What never changes about a channel. Keys are Ed25519, 32 bytes; addresses are in the basechain."""

    network_id: int
    client: Address  # the wallet that deposits, announces, and gets the rest
    client_key: bytes  # signs vouchers
    operator: Address  # is paid
    operator_key: bytes  # signs redemptions
    delay_s: int  # from an announcement until the client may take the money
    nonce: int  # 64 bits; another one for every channel between the same two

    def __post_init__(self) -> None:
        check_network_id(self.network_id)
        check_size("client_key", self.client_key, 32)
        check_size("operator_key", self.operator_key, 32)
        check_uint("nonce", self.nonce, 64)
        if not DELAY_MIN_S <= self.delay_s <= DELAY_MAX_S:
            raise ValueError(f"delay_s must be {DELAY_MIN_S} to {DELAY_MAX_S}, got {self.delay_s}")
        for name, address in (("client", self.client), ("operator", self.operator)):
            if address.wc != 0:
                raise ValueError(f"the {name}'s wallet must be in the basechain, not in {address.wc}")

    @property
    def channel(self) -> Channel:
        """The channel as vouchers name it."""
        return Channel(network_id=self.network_id, account=channel_address(self).hash_part)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """A channel as a proved account state shows it."""

    terms: ChannelTerms
    status: ChannelStatus
    redeemed: Nanotons  # paid to the operator in all
    due: int  # unix seconds from which on what is announced can be taken; 0 if nothing is
    amount: int  # of an announced withdrawal, whatever the client wrote in 64 bits; else 0
    balance: Nanotons
    block: int  # the number of the masterchain block it was proved from
    proved_at: int  # that block's time, unix seconds

    @property
    def address(self) -> Address:
        """Where the channel lives."""
        return channel_address(self.terms)

    @property
    def payable(self) -> Nanotons:
        """What a voucher could still get."""
        closed = self.status is ChannelStatus.CLOSED
        return Nanotons(0 if closed else max(self.balance - RENT_RESERVE, 0))

    def deposit(self) -> Deposit:
        """The channel's money, for `billing.credit`."""
        leaving = {ChannelStatus.OPEN: 0, ChannelStatus.WITHDRAWING: self.amount}.get(self.status, self.payable)
        return Deposit(
            channel=self.terms.channel,
            client_key=self.terms.client_key,
            redeemed=self.redeemed,
            payable=self.payable,
            announced=Nanotons(min(leaving, self.payable)),
            due=self.due if self.status in {ChannelStatus.WITHDRAWING, ChannelStatus.CLOSING} else None,
            delay_s=self.terms.delay_s,
            block=self.block,
            proved_at=self.proved_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrder:
    """A redemption or a close with both signatures, 64 bytes each; what they are over is in `billing.voucher`."""

    total: Nanotons
    valid_until: int  # unix seconds
    client_signature: bytes
    operator_signature: bytes

    def __post_init__(self) -> None:
        check_nanotons(self.total, "total")
        check_uint("valid_until", self.valid_until, 32)
        check_size("client_signature", self.client_signature, SIGNATURE_SIZE)
        check_size("operator_signature", self.operator_signature, SIGNATURE_SIZE)


def channel_init(terms: ChannelTerms) -> StateInit:
    """Code and data of a new channel."""
    return StateInit(code=code_of("channel"), data=_data(terms, ChannelStatus.OPEN, 0, 0, 0))


def channel_address(terms: ChannelTerms) -> Address:
    """Where the channel of these terms lives."""
    return contract_address(channel_init(terms))


async def read_channel(chain: ChainClient, terms: ChannelTerms) -> ChannelState:
    """The state of the channel of these terms, from its proved data cell.

    Raises:
        WrongContractError: it is not deployed, or the terms are for another network.
        ChainError: the chain could not be asked.
    """
    return parse_channel(await channel_account(chain, terms))


async def channel_account(chain: ChainClient, terms: ChannelTerms) -> AccountState:
    """What stands at the address of the channel of these terms; raises as `read_channel` does."""
    address = channel_address(terms)
    check_network(address, terms.network_id, chain.config.network_id)
    return await chain.account(address)


def parse_channel(account: AccountState) -> ChannelState:
    """The channel's state in a proved account.

    Raises:
        WrongContractError: another code, data of another layout, or not the address of the terms in it.
    """
    where = str(account.address)
    data = data_of(account, "channel")
    with data_layout(where, "channel"):
        state = _parse(data.begin_parse(), account)
    if _data(state.terms, state.status, state.redeemed, state.due, state.amount).hash != data.hash:
        raise WrongContractError(where, "its data is not a channel's: it goes on where it should end")
    if state.address != account.address:
        raise WrongContractError(where, f"it was deployed with a state that its terms do not begin with: {state}")
    return state


def announce_withdrawal_body(amount: Nanotons, *, query_id: int = 0) -> Cell:
    """Announce to take `amount` out; it replaces what was announced before, and its delay begins now."""
    return _order(OP_ANNOUNCE_WITHDRAWAL, query_id).store_uint(check_nanotons(amount, "amount"), 64).end_cell()


def announce_close_body(*, query_id: int = 0) -> Cell:
    """Announce to take everything out and close; it replaces what was announced before."""
    return _order(OP_ANNOUNCE_CLOSE, query_id).end_cell()


def cancel_body(*, query_id: int = 0) -> Cell:
    """Take nothing out after all."""
    return _order(OP_CANCEL, query_id).end_cell()


def finish_body(*, query_id: int = 0) -> Cell:
    """Take out what was announced, once the delay is over."""
    return _order(OP_FINISH, query_id).end_cell()


def redeem_message(address: Address, order: SignedOrder) -> bytes:
    """The external message that redeems a voucher, as a bag of cells."""
    return _external(address, OP_REDEEM, order)


def close_message(address: Address, order: SignedOrder) -> bytes:
    """The external message that closes at once: the operator has the total, the client gets the rest."""
    return _external(address, OP_CLOSE, order)


def _order(operation: int, query_id: int) -> Cell:
    return begin_cell().store_uint(operation, 32).store_uint(query_id, 64)


def _external(address: Address, operation: int, order: SignedOrder) -> bytes:
    """One cell beside the message's own: the contract refuses a larger message, which its deposit would pay for."""
    message = begin_cell().store_uint(0b1000, 4).store_address(address).store_coins(0).store_bit(0).store_bit(0)
    message.store_uint(operation, 32).store_uint(order.total, 64).store_uint(order.valid_until, 32)
    message.store_bytes(order.operator_signature).store_ref(begin_cell().store_bytes(order.client_signature).end_cell())
    boc: bytes = message.end_cell().to_boc()
    return boc


def _data(terms: ChannelTerms, status: int, redeemed: int, due: int, amount: int) -> Cell:
    unchanging = (
        begin_cell()
        .store_int(terms.network_id, 32)
        .store_uint(terms.delay_s, 32)
        .store_uint(terms.nonce, 64)
        .store_bytes(terms.client.hash_part)
        .store_bytes(terms.client_key)
        .store_bytes(terms.operator.hash_part)
        .end_cell()
    )
    state = begin_cell().store_uint(status, 2).store_uint(redeemed, 64).store_uint(due, 32).store_uint(amount, 64)
    return state.store_bytes(terms.operator_key).store_ref(unchanging).end_cell()


def _parse(s: Slice, account: AccountState) -> ChannelState:
    status, redeemed, due, amount = s.load_uint(2), s.load_uint(64), s.load_uint(32), s.load_uint(64)
    operator_key, t = s.load_bytes(32), s.load_ref().begin_parse()
    network_id, delay_s, nonce = t.load_int(32), t.load_uint(32), t.load_uint(64)
    client, client_key, operator = t.load_bytes(32), t.load_bytes(32), t.load_bytes(32)
    terms = ChannelTerms(
        network_id=network_id,
        client=Address((0, client)),
        client_key=client_key,
        operator=Address((0, operator)),
        operator_key=operator_key,
        delay_s=delay_s,
        nonce=nonce,
    )
    return ChannelState(
        terms=terms,
        status=ChannelStatus(status),
        redeemed=check_nanotons(redeemed, "redeemed"),
        due=due,
        amount=amount,
        balance=account.balance,
        block=account.head.seqno,
        proved_at=account.head.time,
    )
