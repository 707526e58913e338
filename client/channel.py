"""Paying for leases out of the client's own payment channel: what is signed, and when not.

A voucher covers the receipts of leases that have ended, what leases under way can cost, and the budget of the lease
that is asked for. If the operator asks for more (answers that were cut cost something, and their receipts never came;
a lease may be held whose answer was lost), it gets at most `advance` and one such lease more; beyond that its bill has
to be looked at. Nothing is signed beyond the deposit, nor for more than `leases_max` leases at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from billing.credit import check_asked
from billing.errors import BillingError, ChainError, OverbilledError
from billing.grant import Grant
from billing.lease_request import LEASE_REQUEST_MAX_AGE_S, LeaseRequest
from billing.money import Nanotons
from billing.payment import PAYMENT_FIELD, CloseOrder, Payment, close_order_fields, payment_fields
from billing.receipt import Receipt
from billing.ton.channel import (
    RENT_RESERVE,
    ChannelState,
    ChannelStatus,
    ChannelTerms,
    channel_account,
    channel_address,
    parse_channel,
)
from billing.ton.channel_desk import ClientDesk
from billing.ton.channel_states import safe_deposit
from billing.ton.client import ChainClient
from billing.ton.proofs import AccountStatus
from billing.ton.registry import Operator
from billing.ton.wallet import Wallet as TonWallet
from billing.voucher import Voucher, close_bytes
from client.config import ChannelSettings
from client.errors import BillRefusedError, ChannelUnusableError, LeaseRefusedError
from client.lease import LEASE_AGE_MAX_S
from client.receipts import ReceiptStore
from client.top_up import TopUps
from client.vouchers import Account, VoucherStore
from client.wallet import Wallet

CLOSE_VALID_S = 300
OPENING_COST = RENT_RESERVE + 20_000_000  # nanotons beyond the deposit: the reserve, which comes back, and fees
STATE_AGE_MAX = timedelta(minutes=10)  # an operator's own view is as old at times
Send = Callable[[Mapping[str, object]], Awaitable[object]]  # posts a JSON object, or adds these fields to one

_log = logging.getLogger(__name__)


class ChannelPayer:
    """Signs vouchers for one wallet. The channel is that of the wallet, the registry's operator and the settings."""

    def __init__(
        self,
        settings: ChannelSettings,
        wallet: Wallet,
        chain: ChainClient,
        vouchers: VoucherStore,
        receipts: ReceiptStore,
        *,
        clock: Callable[[], datetime],
        top_ups: TopUps | None = None,
    ) -> None:
        """`top_ups` keeps the deposit up, where the settings say so."""
        self._top_ups = top_ups
        self._topping: asyncio.Task[None] | None = None
        self._settings, self._wallet, self._chain = settings, wallet, chain
        self._vouchers, self._receipts, self._clock = vouchers, receipts, clock
        self._ton_wallet = TonWallet(public_key=wallet.account, network_id=chain.config.network_id)
        self._state: ChannelState | None = None
        self._read_at = datetime.min
        self._keeping_up = asyncio.Lock()  # two looks at once would both find too little
        self._signing = asyncio.Lock()  # a lower voucher must not arrive after a higher one

    def terms(self, operator: Operator) -> ChannelTerms:
        """The terms of the channel with the registry's operator; its address follows from them.

        Raises:
            ChannelUnusableError: the contract cannot pay the operator's wallet.
        """
        try:
            return ChannelTerms(
                network_id=self._chain.config.network_id,
                client=self._ton_wallet.address,
                client_key=self._wallet.account,
                operator=operator.terms.wallet,
                operator_key=operator.terms.public_key,
                delay_s=self._settings.delay_s,
                nonce=self._settings.nonce,
            )
        except ValueError as error:
            raise ChannelUnusableError(f"no payment channel with this operator: {error}") from error

    async def start(self, operator: Operator, offered: Callable[[], Awaitable[object]]) -> ChannelState:
        """Read the channel; open it with the deposit of the settings, if there is none yet.

        Args:
            operator: whom the channel pays, as the registry names it.
            offered: asks it how leases may be paid (`GET /v1/payment`), before money goes into a new channel.

        Raises:
            ChannelUnusableError: there is none and no deposit is set, the operator takes none, it is closed, or the
                chain refuses.
            GatewayError: as `offered`.
        """
        terms = self.terms(operator)
        where = channel_address(terms).to_str(is_user_friendly=False)
        try:
            account = await channel_account(self._chain, terms)
            if account.status in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
                if not self._settings.deposit:
                    raise ChannelUnusableError(
                        f"payment channel {where} is not open: set channel.deposit, or write payment: treasury"
                    )
                check_offer(await offered(), terms)
                self._keep(await self._open(terms, where))
            else:
                self._keep(parse_channel(account))
        except (BillingError, ChainError, TimeoutError) as error:
            raise ChannelUnusableError(f"payment channel {where}: {type(error).__name__}: {error}") from error
        return self._usable(where)

    async def _open(self, terms: ChannelTerms, where: str) -> ChannelState:
        deposit, wallet = self._settings.deposit, self._ton_wallet.address
        balance = (await self._chain.account(wallet)).balance
        if balance < deposit + OPENING_COST:  # the wallet would send nothing, and say nothing
            raise ChannelUnusableError(
                f"payment channel {where} is to be opened with {deposit} nanoton and {OPENING_COST} for rent and fees: "
                f"wallet {wallet.to_str(is_user_friendly=False)} has {balance}, send it at least "
                f"{deposit + OPENING_COST - balance} more"
            )
        _log.info("opening payment channel %s with %d nanoton", where, deposit)
        desk = ClientDesk(self._chain, terms, self._ton_wallet, self._wallet.key)
        return await desk.open(deposit, now=self._clock())

    def account(self, operator: Operator) -> Account:
        """What is owed out of the channel, by this client's own records."""
        return self._vouchers.account(
            self.terms(operator).channel, spent=self._receipts.spent, now=int(self._clock().timestamp())
        )

    def refused(self, operator: Operator, receipt: Receipt) -> None:
        """Bill a receipt no more that the books took as refused, and that was dropped from the client's own."""
        self._vouchers.give_back(self.terms(operator).channel, receipt.lease, receipt.price)

    async def stop(self) -> None:
        """Wait for nothing any more; a top-up under way is on disk, and seen through at the next start."""
        if self._topping is not None:
            self._topping.cancel()
            await asyncio.gather(self._topping, return_exceptions=True)

    async def keep_up(self, operator: Operator, promised: int) -> None:
        """Top the channel up if too little is left beyond `promised`; trouble is logged, and tried again at a lease."""
        if self._top_ups is None:
            return
        terms = self.terms(operator)
        async with self._keeping_up:
            try:
                state = await self._top_ups.keep_up(terms, promised)
            except (BillingError, ChainError, TimeoutError) as error:
                _log.warning("the payment channel is not topped up: %s: %s", type(error).__name__, error)
                return
        if state is not None:
            self._keep(state)

    def _keep_up_meanwhile(self, operator: Operator) -> None:
        """Look whether a top-up is due, without letting the lease wait for it."""
        if self._top_ups is not None and (self._topping is None or self._topping.done()):
            account = self.account(operator)
            self._topping = asyncio.create_task(self.keep_up(operator, max(account.promised, account.owed)))

    async def pay(self, operator: Operator, request: LeaseRequest, send: Send) -> object:
        """Send a lease request with the voucher that covers it; once more if the operator justly asks for more.

        Raises:
            ChannelUnusableError: the deposit does not reach, the channel is closed or closing, too much is paid ahead.
            BillRefusedError: the operator asks for more than receipts, leases and advance justify; it was not signed.
            GatewayError: as `send`.
        """
        try:
            return await self._pay(operator, request, send)
        finally:
            self._keep_up_meanwhile(operator)

    async def _pay(self, operator: Operator, request: LeaseRequest, send: Send) -> object:
        async with self._signing:
            account = self.account(operator)
            if account.leases >= self._settings.leases_max:
                raise ChannelUnusableError(
                    f"{account.leases} leases of {account.held} nanoton are paid ahead and under way: nothing more is "
                    f"signed before some have ended, all have by unix time {account.held_until}"
                )
            total = account.reach(request.budget)
            payment = await self._sign(operator, total)
            latest = request.issued_at + LEASE_REQUEST_MAX_AGE_S + LEASE_AGE_MAX_S
            channel = self.terms(operator).channel
            self._vouchers.ask(request.request_id, channel, request.budget, ends_at=latest)
            try:
                return await send({PAYMENT_FIELD: payment_fields(payment)})
            except LeaseRefusedError as error:
                if error.voucher_total is None or error.voucher_total <= total:
                    self._vouchers.drop(request.request_id)
                    raise
                asked = Nanotons(error.voucher_total)
            try:
                leases = account.held + account.unanswered + request.budget
                justified = Nanotons(leases + self._settings.advance)
                payment = await self._sign(operator, check_asked(asked, account.billed, advance=justified))
                return await send({PAYMENT_FIELD: payment_fields(payment)})
            except OverbilledError as error:
                self._vouchers.drop(request.request_id)
                raise BillRefusedError(error.asked, error.payable) from error
            except LeaseRefusedError:
                self._vouchers.drop(request.request_id)
                raise

    def granted(self, request: LeaseRequest, grant: Grant) -> None:
        """Note the lease that came of a request."""
        self._vouchers.grant(request.request_id, grant.lease, grant.amount, ends_at=grant.not_after)

    async def close(self, operator: Operator, send: Send) -> ChannelState:
        """Close the channel at once, together with the operator, at what is owed; returns its state when it is closed.

        The operator signs too and sends the order.

        Args:
            operator: whom the channel pays, as the registry names it.
            send: posts the order to the operator's `/v1/channels/close`.

        Raises:
            ChannelUnusableError: leases are under way, whose whole budgets would be lost; no voucher was signed yet, or
                it was not closed in time: `announce_close` works alone.
            GatewayError: as `send`; LeaseRefusedError says what the operator finds is owed.
        """
        async with self._signing:
            terms, account = self.terms(operator), self.account(operator)
            where, owed = channel_address(terms).to_str(is_user_friendly=False), account.owed
            if account.held:
                raise ChannelUnusableError(
                    f"payment channel {where}: leases of {account.held} nanoton are under way, and what they do not "
                    f"use would be the operator's: try again at unix time {account.held_until}"
                )
            voucher = self._vouchers.latest(terms.channel)
            if voucher is None:
                raise ChannelUnusableError(f"payment channel {where}: nothing was signed; announce its close alone")
            valid_until = int(self._clock().timestamp()) + CLOSE_VALID_S
            record = close_bytes(terms.channel, total=owed, valid_until=valid_until)
            order = CloseOrder(
                account=self._wallet.account,
                payment=self._payment(terms, voucher),
                total=owed,
                valid_until=valid_until,
                signature=self._wallet.key.sign(record),
            )
            await send(close_order_fields(order))
            try:
                closed = await self._chain.wait_for(
                    channel_address(terms), lambda account: parse_channel(account).status is ChannelStatus.CLOSED
                )
            except (BillingError, ChainError, TimeoutError) as error:
                raise ChannelUnusableError(
                    f"payment channel {where} is not closed yet ({type(error).__name__}); the operator may do it until "
                    f"unix time {valid_until}, after that announce the close alone"
                ) from error
            self._keep(parse_channel(closed))
            return parse_channel(closed)

    async def _sign(self, operator: Operator, total: Nanotons) -> Payment:
        """The payment of `total` in all, if the deposit covers it; on disk before it is returned."""
        terms = self.terms(operator)
        where = channel_address(terms).to_str(is_user_friendly=False)
        state = self._state
        fresh = state is not None and state.terms == terms and self._clock() - self._read_at < STATE_AGE_MAX
        if state is None or not fresh or safe_deposit(state).covered < total:
            state = await self._read(terms, where)
        if safe_deposit(state).covered < total and self._top_ups is not None:
            await self.keep_up(operator, total)
            state = self._usable(where)
        covered = safe_deposit(state).covered
        if total > covered:
            raise ChannelUnusableError(
                f"payment channel {where} covers {covered} nanoton in all, {total} are needed: "
                f"top it up by at least {total - covered}"
            )
        try:
            voucher = self._vouchers.sign(Voucher(channel=terms.channel, total=total), self._wallet.key)
        except ValueError as error:
            raise ChannelUnusableError(f"payment channel {where}: {error}") from error
        return self._payment(terms, voucher)

    def _payment(self, terms: ChannelTerms, voucher: bytes) -> Payment:
        return Payment(wallet=terms.client.hash_part, delay_s=terms.delay_s, nonce=terms.nonce, voucher=voucher)

    async def _read(self, terms: ChannelTerms, where: str) -> ChannelState:
        try:
            self._keep(parse_channel(await channel_account(self._chain, terms)))
        except (BillingError, ChainError) as error:
            raise ChannelUnusableError(f"payment channel {where}: {type(error).__name__}: {error}") from error
        return self._usable(where)

    def _keep(self, state: ChannelState) -> None:
        self._state, self._read_at = state, self._clock()

    def _usable(self, where: str) -> ChannelState:
        state = self._state
        if state is None or state.status in {ChannelStatus.CLOSING, ChannelStatus.CLOSED}:
            raise ChannelUnusableError(
                f"payment channel {where} is closing or closed: cancel that, or choose another channel.nonce"
            )
        return state


def check_offer(answer: object, terms: ChannelTerms) -> None:
    """Raise ChannelUnusableError unless the operator says that it takes a channel of these terms."""
    channel = answer.get("channel") if isinstance(answer, dict) else None
    least = channel.get("delay_min_s") if isinstance(channel, dict) else None
    if type(least) is not int:
        raise ChannelUnusableError("the operator takes no payment channels: write payment: treasury, or ask another")
    if terms.delay_s < least:
        raise ChannelUnusableError(f"the operator asks for a channel.delay_s of {least} s or more, not {terms.delay_s}")
