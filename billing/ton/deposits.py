"""What each transaction of the treasury means in the books.

Every transaction of the operator's wallet is booked once, keyed by its logical time and hash, so that the ledger's
treasury equals the balance on the chain to the nanoton:

| what came in | entries |
| --- | --- |
| transfer whose body is op "CHRY" and a client's public key | deposit to that client |
| what a payment channel known to the books paid on a voucher | redemption: less claim, its fee a chain fee |
| a claim the vault paid | payment to that payee, and a refund of what it attached beyond its gas |
| the vault's owner taking its surplus | withdrawal |
| any other transfer | funding by the operator |
| change of the wallet's own orders, and orders that bounced | refund of chain fees |
| the wallet's own messages | nothing: that money never left; what they pay outside of any batch is a withdrawal |

and, for each, what it cost as chain fees. Payouts are booked by the settler, batch by batch, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytoniq_core import Address, Cell, begin_cell

from billing.entries import CHAIN_FEES, OPERATOR_CAPITAL, TREASURY, Entry, EntryKind, move
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.channel import OP_PAYOUT
from billing.ton.highload import OP_INTERNAL_TRANSFER
from billing.ton.registry import OP_ANCHOR
from billing.ton.transaction import Message, Transaction
from billing.ton.vault import OP_CLAIM, OP_PAID
from billing.ton.wallet import Transfer

__all__ = [
    "OP_DEPOSIT",
    "Claim",
    "claim_of",
    "deposit_body",
    "deposit_transfer",
    "entries_of",
    "fee_entry",
    "is_own_transfer",
]

OP_DEPOSIT = 0x43485259  # "CHRY"
OP_EXCESSES = 0xD53276DB  # the customary operation of returned change
DEPOSIT_BITS = 32 + 256
PAYOUT_BITS = 32 + 64


def deposit_body(account: bytes) -> Cell:
    """The body a client's transfer to the treasury carries, so that it is credited to this Ed25519 key (32 bytes)."""
    if len(account) != 32:
        raise ValueError(f"an account is an Ed25519 public key of 32 bytes, got {len(account)}")
    return begin_cell().store_uint(OP_DEPOSIT, 32).store_bytes(account).end_cell()


def deposit_transfer(treasury: Address, account: bytes, amount: Nanotons) -> Transfer:
    """The transfer that deposits for a client; it does not bounce, so that a treasury not yet deployed keeps it."""
    return Transfer(destination=treasury, amount=amount, body=deposit_body(account), bounce=False)


def entries_of(
    transaction: Transaction, treasury: Address, ledger: Ledger, *, payouts: int, now: int
) -> tuple[Entry, ...]:
    """The ledger entries of one proved transaction of the treasury; the first one is its fee.

    Args:
        transaction: proved, of the treasury.
        treasury: the wallet's address.
        ledger: plans the entries, and is not changed.
        payouts: what of the out-messages pays for a batch, nanotons; the settler books that part.
        now: unix seconds.
    """
    name = _name(transaction)
    fee = fee_entry(transaction, ledger, now=now)
    message = transaction.incoming
    if message is None or not message.internal or is_own_transfer(message, treasury):
        away = sum(out.value for out in transaction.outgoing if not _stays(out, treasury)) - payouts
        return (fee, _withdrawal(name, away, now)) if away else (fee,)
    return (fee, *_incoming(transaction, message, ledger, now))


def _incoming(transaction: Transaction, message: Message, ledger: Ledger, now: int) -> tuple[Entry, ...]:
    """What a message from somebody else did, besides its fee."""
    name = _name(transaction)
    amount = transaction.received - transaction.sent  # less than received only if some of it went back
    claim = claim_of(transaction)
    if claim is not None:
        paid = ledger.plan_claim(name, claim.payee, claim.amount, now=now)
        return paid, _refund(name, amount + claim.amount, now)
    if amount == 0:
        return ()
    if amount < 0:
        return (_withdrawal(name, -amount, now),)
    if message.bounced or message.operation == OP_EXCESSES:
        return (_refund(name, amount, now),)
    return (_received(transaction, message, amount, ledger, now),)


def _received(transaction: Transaction, message: Message, amount: int, ledger: Ledger, now: int) -> Entry:
    """Whose the money is that somebody sent, and that stayed."""
    name = _name(transaction)
    channel = _paying_channel(message, ledger)
    if channel is not None:
        redeemed = message.body.begin_parse().skip_bits(32).load_uint(64)
        return ledger.channels.plan_redemption(name, channel, redeemed, amount, now=now)
    account = _depositor(message)
    if account is not None and not transaction.outgoing:
        return ledger.plan_deposit(name, account, amount, now=now)
    return ledger.plan_funding(name, amount, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the vault paid on a claim."""

    payee: bytes  # 33
    amount: Nanotons


def claim_of(transaction: Transaction) -> Claim | None:
    """The claim a transaction of the vault paid; None for any other transaction, also for a claim that was refused."""
    message = transaction.incoming
    if message is None or not message.internal or message.bounced or message.operation != OP_CLAIM:
        return None
    for out in transaction.outgoing:
        if out.operation == OP_PAID and out.destination is not None and out.destination == message.source:
            amount = out.body.begin_parse().skip_bits(32 + 64).load_coins()
            return Claim(payee=out.destination, amount=Nanotons(amount))
    return None


def fee_entry(transaction: Transaction, ledger: Ledger, *, now: int) -> Entry:
    """What the transaction cost: fees, and what orders to contracts carry. Each booked transaction has this entry."""
    orders = sum(out.value for out in transaction.outgoing if _is_order(out))
    return ledger.plan_fee(_name(transaction), transaction.cost + orders, now=now)


def is_own_transfer(message: Message, treasury: Address) -> bool:
    """Whether the wallet sent this to itself, to make the payments listed in its body."""
    return message.source == payee_of(treasury) and message.operation == OP_INTERNAL_TRANSFER


def _is_order(message: Message) -> bool:
    return message.operation == OP_ANCHOR


def _stays(message: Message, treasury: Address) -> bool:
    """Whether an out-message's value is booked as fee, or comes back to the wallet."""
    return _is_order(message) or message.destination == payee_of(treasury)


def _name(transaction: Transaction) -> str:
    return f"{transaction.lt}:{transaction.hash.hex()}"


def _depositor(message: Message) -> bytes | None:
    """The client's key in a deposit's body; a body that is anything more or less is no deposit."""
    body = message.body
    if len(body.bits) != DEPOSIT_BITS or body.refs or message.operation != OP_DEPOSIT:
        return None
    return bytes(body.begin_parse().skip_bits(32).load_bytes(32))


def _paying_channel(message: Message, ledger: Ledger) -> bytes | None:
    """The account id of the channel that sent this payout; its code was proved when its first voucher was booked."""
    if message.operation != OP_PAYOUT or len(message.body.bits) != PAYOUT_BITS or message.source is None:
        return None
    workchain, account = message.source[:1], message.source[1:]
    return account if workchain == b"\x00" and ledger.channels.get(account) is not None else None


def _withdrawal(name: str, amount: int, now: int) -> Entry:
    """Money the holder of the wallet's key sent away outside of any batch: it can only be the operator's own."""
    return Entry(
        id=f"withdrawal:{name}", kind=EntryKind.FUNDING, postings=move(amount, OPERATOR_CAPITAL, TREASURY), at=now
    )


def _refund(name: str, amount: int, now: int) -> Entry:
    return Entry(id=f"refund:{name}", kind=EntryKind.FEE, postings=move(amount, TREASURY, CHAIN_FEES), at=now)
