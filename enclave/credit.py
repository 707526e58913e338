"""What each lease may still spend on this host. Nothing is computed that its grant does not pay for.

A request first reserves the most it can cost, then spends what it did cost; what is reserved counts as gone meanwhile.
"""

from dataclasses import dataclass
from datetime import datetime

from attestation.sealing import Header
from billing.errors import BillingError
from billing.grant import Grant, verify_grant
from billing.money import Nanotons
from billing.tariff import Tariff, Usage, price, quote
from enclave.errors import CreditError, UnauthorizedError


@dataclass(slots=True)
class Lease:
    """One lease as this host may use it: terms from the grant, and what is spent and reserved of its slice."""

    account: bytes
    model_root: bytes
    tariff: Tariff
    coefficient: int  # thousandths of the tariff
    slice: Nanotons
    not_after: int
    spent: int = 0
    reserved: int = 0
    cache_salt: bytes = b""  # of the account; made when it is first needed

    @property
    def left(self) -> int:
        """Nanotons that are neither spent nor reserved."""
        return self.slice - self.spent - self.reserved

    def reserve(self, prompt_tokens: int, max_tokens: int, price_cap: int) -> Nanotons:
        """Set aside the most that a request can cost.

        Raises:
            CreditError: that is more than the cap in its header, or than is left of the slice.
        """
        most = quote(prompt_tokens, max_tokens, self.tariff, self.coefficient)
        if most > price_cap:
            raise CreditError(
                f"the request may cost {most} nanotons and its price cap is {price_cap}: raise the cap, "
                "or lower max_tokens",
                "price_cap_exceeded",
            )
        if most > self.left:
            raise CreditError(
                f"the request may cost {most} nanotons and {self.left} are left of the lease on this host: "
                "take a new lease, or lower max_tokens",
                "slice_exhausted",
            )
        self.reserved += most
        return most

    def price(self, usage: Usage) -> Nanotons:
        """What `usage` costs on this lease."""
        return price(usage, self.tariff, coefficient=self.coefficient)

    def settle(self, reservation: int, charged: int) -> None:
        """Replace a reservation by what was charged in the end; 0 gives all of it back."""
        if not 0 <= charged <= reservation:
            raise RuntimeError(f"charged {charged} of a reservation of {reservation}")
        self.reserved -= reservation
        self.spent += charged


class CreditDesk:
    """All leases this host knows. A lease enters by its grant and leaves when it ends."""

    def __init__(self, *, operator_key: bytes, host_id: bytes, coefficient: int) -> None:
        """`coefficient` is the lowest the host's owner accepts, in thousandths."""
        self._operator_key, self._host_id, self._coefficient = operator_key, host_id, coefficient
        self._leases: dict[bytes, Lease] = {}

    def find(self, header: Header) -> Lease | None:
        """The lease a request names, if this host knows it."""
        return self._leases.get(header.lease)

    def check(self, header: Header, *, now: datetime) -> Lease:
        """The lease that the grant in a header would open.

        In this order: (1) the operator signed it (2) it has not expired (3) it names this host (4) it is about the
        lease, account and model of the request (5) it offers the coefficient that the host's owner asks for.

        Raises:
            UnauthorizedError: 1, 3 or 4 does not hold.
            CreditError: 2 or 5 does not hold.
        """
        if not header.grant:
            raise UnauthorizedError("this host does not know the lease: send its grant in the header", "unknown_lease")
        try:
            grant = verify_grant(header.grant, self._operator_key)  # (1)
        except BillingError:
            raise UnauthorizedError(
                "the grant is not signed by this host's operator: take a lease from its gateway", "invalid_grant"
            ) from None
        if grant.not_after <= now.timestamp():  # (2)
            raise CreditError("the lease has expired: take a new one", "lease_expired")
        return self._accept(grant, header)

    def add(self, lease_id: bytes, lease: Lease) -> None:
        """Know a lease from now on. What is known already keeps its spending."""
        self._leases.setdefault(lease_id, lease)

    def forget(self, lease_ids: list[bytes]) -> None:
        """Drop leases that have ended; running requests keep their own hold of theirs."""
        for lease_id in lease_ids:
            self._leases.pop(lease_id, None)

    def _accept(self, grant: Grant, header: Header) -> Lease:
        mine = grant.host(self._host_id)
        if mine is None:  # (3)
            raise UnauthorizedError(
                "the grant does not name this host, which may have restarted: take a new lease", "invalid_grant"
            )
        if (grant.lease, grant.account, grant.model_root) != (header.lease, header.account, header.model):  # (4)
            raise UnauthorizedError("the grant is about another lease, account or model", "invalid_grant")
        if mine.coefficient < self._coefficient:  # (5)
            raise CreditError(
                f"the grant offers {mine.coefficient} thousandths of the tariff, this host asks {self._coefficient}: "
                "take a new lease",
                "coefficient_too_low",
            )
        return Lease(
            account=grant.account,
            model_root=grant.model_root,
            tariff=grant.tariff,
            coefficient=mine.coefficient,
            slice=mine.slice,
            not_after=grant.not_after,
        )
