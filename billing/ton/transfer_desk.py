"""Transfers of an ordinary wallet, each made at most once: planned on a proved state, sent as the same bytes only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from pytoniq_core import Address

from billing.errors import (
    BadRequestFileError,
    BalanceTooLowError,
    ChainError,
    DeadRequestError,
    ProofRejectedError,
    SendOutcomeUnknownError,
    TransferSkippedError,
    WrongNetworkError,
)
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.fees import wallet_fee
from billing.ton.proofs import AccountState, AccountStatus
from billing.ton.transaction import Transaction
from billing.ton.transfer_request import TransferRequest
from billing.ton.wallet import Transfer, Wallet

__all__ = ["PlannedTransfer", "plan_transfer", "send_request", "wait_delivered"]

SETTLE_S = 60  # after its end, until a block that executed a message would have been seen
SEND_TIMEOUT_S = 60.0  # for the wallet to take a message; blocks come every few seconds
POLL_S = 0.1
HISTORY_MAX = 256  # transactions in which a message is looked for; a wallet that made more since is not asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTransfer:
    """A request nobody signed yet, what it will cost at most, and what the wallet holds."""

    request: TransferRequest
    fee: Nanotons
    balance: Nanotons


async def plan_transfer(
    chain: ChainClient,
    public_key: bytes,
    transfers: Sequence[Transfer],
    *,
    purpose: str,
    valid_s: int,
) -> PlannedTransfer:
    """A request that the wallet's proved state allows.

    Args:
        chain: connected.
        public_key: the wallet's, 32 bytes.
        transfers: what to send.
        purpose: in words.
        valid_s: how long the wallet will take the message, seconds of chain time.

    Raises:
        BalanceTooLowError: the wallet cannot pay amounts and fees.
        WrongContractError: something else stands at the wallet's address.
        ChainError: the chain could not be asked.
    """
    wallet = Wallet(public_key=public_key, network_id=chain.config.network_id)
    state = await chain.account(wallet.address)
    request = TransferRequest(
        network_id=chain.config.network_id,
        public_key=public_key,
        seqno=wallet.seqno(state),
        deploy=state.status is not AccountStatus.ACTIVE,
        valid_until=state.head.time + valid_s,
        purpose=purpose,
        transfers=tuple(transfers),
    )
    fee = wallet_fee(request.message(), request.transfers)
    if state.balance < request.amount + fee:
        raise BalanceTooLowError(state.balance, request.amount, fee)
    return PlannedTransfer(request=request, fee=fee, balance=state.balance)


async def send_request(chain: ChainClient, request: TransferRequest) -> Transaction:
    """Send a signed request and return the wallet's proved transaction; one that was sent before is looked up instead.

    1. the request is signed, and for this network;
    2. a wallet whose number has passed took it, or another message: its history tells;
    3. it is in time by the chain's clock, and the wallet can pay;
    4. after sending, the wallet's number moves, and the transaction made every transfer: the wallet skips in silence
       what it cannot pay.

    Raises:
        BadRequestFileError, WrongNetworkError: it cannot be sent (now); nothing was.
        DeadRequestError: it was not executed and never can be: out of date, or another message took its number.
        BalanceTooLowError, MessageRejectedError: nothing was sent.
        TransferSkippedError: it was executed, and made less than it should.
        ChainError other than the next: nothing was sent.
        SendOutcomeUnknownError: call again with the same request.
    """
    request.check_signed()  # (1)
    if request.network_id != chain.config.network_id:
        raise WrongNetworkError(chain.config.network_id, request.network_id)
    wallet = request.wallet
    state = await chain.account(wallet.address)
    if wallet.seqno(state) > request.seqno:  # (2)
        return await _find(chain, state, request)
    _check_sendable(request, state)  # (3)
    await chain.send(request.message())
    try:  # (4)
        taken = await chain.wait_for(
            wallet.address, lambda later: wallet.seqno(later) > request.seqno, timeout_s=SEND_TIMEOUT_S
        )
        return await _find(chain, taken, request)
    except (ChainError, ProofRejectedError, TimeoutError) as error:
        raise SendOutcomeUnknownError(request.message_hash.hex(), str(error) or type(error).__name__) from error


async def wait_delivered(
    chain: ChainClient, receiver: Address, sent: Transaction, *, timeout_s: float = SEND_TIMEOUT_S
) -> None:
    """Return once the receiver's history shows the first message that a wallet's transaction made.

    Raises:
        ChainError: the chain could not be asked.
        TimeoutError: it was not seen in time; ask again.
    """
    wanted, looked = sent.outgoing[0].hash, 0
    async with asyncio.timeout(timeout_s):
        while True:
            state = await chain.account(receiver)
            if state.last_lt > max(looked, sent.lt):
                async with contextlib.aclosing(chain.history(state)) as history:
                    async for transaction in history:
                        if transaction.incoming is not None and transaction.incoming.hash == wanted:
                            return
                        if transaction.lt <= sent.lt:
                            break
                looked = state.last_lt
            await asyncio.sleep(POLL_S)


def _check_sendable(request: TransferRequest, state: AccountState) -> None:
    late = state.head.time - request.valid_until
    if late > SETTLE_S:
        raise DeadRequestError(
            f"it was good until unix time {request.valid_until} and was not executed: make a new one"
        )
    if late >= 0:
        raise BadRequestFileError(f"it has run out; in {SETTLE_S - late + 1} s it is certain that it was not executed")
    number = request.wallet.seqno(state)
    if number < request.seqno:
        raise BadRequestFileError(f"it is number {request.seqno}, the wallet's next is {number}: send that one first")
    fee = wallet_fee(request.message(), request.transfers)
    if state.balance < request.amount + fee:
        raise BalanceTooLowError(state.balance, request.amount, fee)


async def _find(chain: ChainClient, state: AccountState, request: TransferRequest) -> Transaction:
    """The transaction that executed the request, complete."""
    read = 0
    async with contextlib.aclosing(chain.history(state)) as history:
        async for transaction in history:
            if transaction.incoming is not None and transaction.incoming.hash == request.message_hash:
                made, asked = len(transaction.outgoing), len(request.transfers)
                if made != asked:
                    raise TransferSkippedError(transaction.hash.hex(), made, asked)
                return transaction
            read += 1
            if read == HISTORY_MAX:
                break
    if read == HISTORY_MAX:
        raise DeadRequestError(f"its number has passed, and it is not in the wallet's last {read} transactions")
    raise DeadRequestError(
        f"another message was the wallet's number {request.seqno}, so this one never can be executed"
    )
