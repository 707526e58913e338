"""The bill of one account: what its receipts come to. Client and operator rebuild it alike, each from its own copies.

A receipt is signed inside an attested enclave and priced by a grant that the operator signed, so whoever shows one
proves it. Neither order nor repetition changes the bill; what one side lacks, the other can show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from billing.entries import Entry, EntryKind
from billing.errors import (
    PriceMismatchError,
    ReceiptConflictError,
    ReceiptMismatchError,
    SliceExceededError,
    UnknownLeaseError,
)
from billing.grant import Grant, HostSlice
from billing.money import Nanotons, check_nanotons
from billing.receipt import Receipt, encode_receipt, parse_receipt, verify_receipt
from billing.tariff import price
from billing.tree import hash_leaf, tree_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The receipts of one account, each request once."""

    account: bytes  # 32, the client's Ed25519 key
    receipts: Mapping[bytes, Receipt]  # by request hash

    @property
    def total(self) -> Nanotons:
        """The sum of all prices."""
        return Nanotons(sum(receipt.price for receipt in self.receipts.values()))

    def root(self) -> bytes:
        """The Merkle root over account and receipt bodies in the order of their request hashes: 32 bytes to compare."""
        bodies = (encode_receipt(self.receipts[name]) for name in sorted(self.receipts))
        return tree_root([hash_leaf(self.account), *(hash_leaf(body) for body in bodies)])

    def missing(self, other: Bill) -> tuple[bytes, ...]:
        """Request hashes of `other` that this bill lacks: the receipts to ask the other side for."""
        return tuple(sorted(set(other.receipts) - set(self.receipts)))


class Difference(StrEnum):
    """Why two bills are not the same. Receipts are signed by hosts, so who has one can prove it by showing it."""

    MISSING_HERE = "missing here"  # the other side has a receipt that this one lacks: let it be shown
    MISSING_THERE = "missing there"  # the other way round: show it
    CONFLICT = "conflict"  # two receipts for one request: the host signed twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One request about which two bills differ."""

    difference: Difference
    request_hash: bytes  # 32
    amount: int  # what it adds to the other side's total over this one's, nanotons


def compare_bills(here: Bill, there: Bill) -> tuple[Finding, ...]:
    """Return every request about which two bills of one account differ, in the order of request hashes; none if equal.

    The findings' amounts sum to the difference of the totals.
    """
    if here.account != there.account:
        raise ValueError("the bills are of two accounts")
    findings = []
    for name in sorted(set(here.receipts) | set(there.receipts)):
        mine, theirs = here.receipts.get(name), there.receipts.get(name)
        if mine == theirs:
            continue
        if mine is None:
            difference = Difference.MISSING_HERE
        else:
            difference = Difference.MISSING_THERE if theirs is None else Difference.CONFLICT
        amount = (theirs.price if theirs else 0) - (mine.price if mine else 0)
        findings.append(Finding(difference=difference, request_hash=name, amount=amount))
    return tuple(findings)


def booked_bill(account: bytes, entries: Iterable[Entry]) -> Bill:
    """Return the bill that an operator's books make: the receipts it posted to this account, verified before that."""
    receipts = (parse_receipt(entry.data) for entry in entries if entry.kind is EntryKind.RECEIPT)
    return Bill(account=account, receipts={r.request_hash: r for r in receipts if r.account == account})


def rebuild_bill(
    account: bytes, receipts: Iterable[bytes], *, grants: Iterable[Grant], keys: Mapping[bytes, bytes]
) -> Bill:
    """Return the account's bill, every receipt checked against its grant.

    Args:
        account: the client's Ed25519 key, 32 bytes.
        receipts: signed receipts, in any order, repeated or not.
        grants: of its leases, each verified as the operator's.
        keys: attested receipt keys, 32 bytes, by host id.

    Raises:
        MalformedRecordError, BadSignatureError: bytes that are no receipt of this host.
        UnknownLeaseError: there is no grant for the lease it names.
        ReceiptMismatchError: account, model or host is not the lease's, or the host has no key.
        PriceMismatchError: usage and tariff give another price.
        ReceiptConflictError: two different receipts for one request.
        SliceExceededError: a host billed more than its slice of a lease.
    """
    leases = {grant.lease: grant for grant in grants}
    found: dict[bytes, Receipt] = {}
    spent: defaultdict[tuple[bytes, bytes], int] = defaultdict(int)
    for data in receipts:
        receipt = _verify(data, account, keys)
        known = found.setdefault(receipt.request_hash, receipt)
        if known is not receipt:
            if known != receipt:
                raise ReceiptConflictError(receipt.request_hash.hex())
            continue
        if receipt.lease not in leases:
            raise UnknownLeaseError(receipt.lease.hex())
        host = check_terms(receipt, leases[receipt.lease])
        place = (receipt.lease, receipt.host_id)
        if receipt.price > host.slice - spent[place]:
            raise SliceExceededError(receipt.host_id.hex(), host.slice - spent[place], receipt.price)
        spent[place] += receipt.price
    check_nanotons(sum(spent.values()), "the bill")
    return Bill(account=account, receipts=found)


def check_terms(receipt: Receipt, grant: Grant) -> HostSlice:
    """Return the slice of the host that a receipt pays, if it keeps to the grant's terms.

    Raises:
        ReceiptMismatchError: account, model or host is not the lease's.
        PriceMismatchError: usage and tariff give another price.
    """
    for name in ("account", "model_root"):
        got, expected = getattr(receipt, name), getattr(grant, name)
        if got != expected:
            raise ReceiptMismatchError(name, got.hex(), expected.hex())
    host = grant.host(receipt.host_id)
    if host is None:
        raise ReceiptMismatchError("host_id", receipt.host_id.hex(), ", ".join(h.host_id.hex() for h in grant.hosts))
    expected_price = price(receipt.usage, grant.tariff, coefficient=host.coefficient)
    if receipt.price != expected_price:
        raise PriceMismatchError(receipt.price, expected_price)
    return host


def _verify(data: bytes, account: bytes, keys: Mapping[bytes, bytes]) -> Receipt:
    receipt = parse_receipt(data)
    if receipt.account != account:
        raise ReceiptMismatchError("account", receipt.account.hex(), account.hex())
    if receipt.host_id not in keys:
        raise ReceiptMismatchError("host_id", receipt.host_id.hex(), ", ".join(sorted(host.hex() for host in keys)))
    return verify_receipt(data, keys[receipt.host_id])
