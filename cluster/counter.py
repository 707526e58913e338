"""The counter: a lease's money is held here, and the voucher that came with the request is taken first."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.errors import InsufficientFundsError
from billing.grant import Grant
from billing.lease_request import verify_lease_request
from billing.payment import PAYMENT_FIELD, parse_payment
from billing.ton.channel_office import ChannelOffice, ChannelPolicy
from billing.ton.channel_states import ChannelStates
from billing.ton.channel_watch import ChannelWatch
from billing.ton.client import ChainClient
from cluster.cashier import Cashier


class Counter:
    """A cashier that takes vouchers out of payment channels."""

    def __init__(
        self,
        cashier: Cashier,
        *,
        network_id: int,
        payee: Address,
        operator_key: Ed25519PrivateKey,
        policy: ChannelPolicy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cashier = cashier
        self._operator = operator_key.public_key().public_bytes_raw()
        self._states = ChannelStates(network_id=network_id, payee=payee, key=operator_key)
        self.office = ChannelOffice(books=cashier.books, states=self._states, policy=policy, clock=clock)
        self.watch = ChannelWatch(books=cashier.books, states=self._states, policy=policy, clock=clock)

    def attach(self, chain: ChainClient) -> None:
        """Give it the way to the chain; without one, only vouchers within deposits known before are taken."""
        self._states.attach(chain)

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        """As `Cashier.place_hold`, after the voucher beside the order was booked.

        Raises:
            BillingError: as `Cashier.place_hold` and `ChannelOffice.take`. A client that pays by vouchers and has too
                little is told which one to sign (VoucherNeededError).
            ChainError: its channel cannot be read now.
            LeaseRequestError: as `Cashier.place_hold`.
        """
        request = verify_lease_request(order, operator=self._operator)  # first: strangers make nobody read the chain
        if PAYMENT_FIELD in order:
            await self.office.take(request.account, parse_payment(order[PAYMENT_FIELD]))
        await self.office.check_covered(request.account)
        try:
            return self._cashier.place_hold(grant, order)
        except InsufficientFundsError as error:
            raise self.office.explain(request.account, error) from error
