"""Keys, grants and receipts that tests sign for real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.grant import Grant, HostSlice
from billing.money import Nanotons
from billing.receipt import Receipt
from billing.tariff import Tariff, Usage, price
from billing.verdict import UnitVerdict

TARIFF = Tariff(prompt_price=200_000_000, completion_price=600_000_000)
THOUGHTFUL = Tariff(
    prompt_price=200_000_000, cached_price=50_000_000, completion_price=600_000_000, reasoning_price=900_000_000
)  # four prices that differ
NOW = 1_800_000_000


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(number: int) -> bytes:
    return key(number).public_key().public_bytes_raw()


OPERATOR, HOST_KEY = key(1), key(2)
ACCOUNT = public(3)
MODEL = sha256(b"model").digest()
HOSTS = tuple(sha256(b"host%d" % i).digest()[:8] for i in range(3))
PAYEES = tuple(b"\x00" + sha256(b"payee%d" % i).digest() for i in range(3))
TRANSCRIPT = b"t" * 48


def lease_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def request_id(number: int) -> bytes:
    return sha256(b"request%d" % number).digest()


def make_grant(
    number: int = 0,
    *,
    account: bytes = ACCOUNT,
    slices: tuple[int, ...] = (40_000, 40_000, 40_000),
    coefficients: tuple[int, ...] = (1000, 1500, 800),
    not_after: int = NOW + 600,
    tariff: Tariff = TARIFF,
    review: bool = False,
) -> Grant:
    return Grant(
        lease=lease_id(number),
        account=account,
        operator=public(1),
        model_root=MODEL,
        tariff=tariff,
        hosts=tuple(
            HostSlice(host_id=h, slice=Nanotons(s), coefficient=c)
            for h, s, c in zip(HOSTS, slices, coefficients, strict=False)
        ),
        not_after=not_after,
        review=review,
    )


def make_receipt(
    grant: Grant,
    number: int = 0,
    *,
    host: int = 0,
    prompt: int = 10,
    completion: int = 20,
    cached: int = 0,
    reasoning: int = 0,
) -> Receipt:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, reasoning_tokens=reasoning)
    return Receipt(
        request_hash=request_id(number),
        account=grant.account,
        lease=grant.lease,
        host_id=HOSTS[host],
        model_root=grant.model_root,
        usage=usage,
        price=price(usage, grant.tariff, coefficient=grant.hosts[host].coefficient),
        response_hash=sha256(b"answer").digest(),
        transcript=TRANSCRIPT,
        payee=PAYEES[host],
        issued_at=NOW,
    )


# open leases have a host for each result that a unit may need
OPEN_HOSTS = tuple(sha256(b"open%d" % i).digest()[:8] for i in range(6))
OPEN_PAYEES = tuple(b"\x00" + sha256(b"open payee%d" % i).digest() for i in range(6))


def make_open_grant(
    number: int = 0, *, each: int = 40_000, account: bytes = ACCOUNT, not_after: int = NOW + 600
) -> Grant:
    grant = make_grant(number, account=account, not_after=not_after, review=True)
    hosts = tuple(HostSlice(host_id=host, slice=Nanotons(each), coefficient=1000) for host in OPEN_HOSTS)
    return replace(grant, hosts=hosts)


def make_open_receipt(grant: Grant, number: int, host: int, *, payee: int | None = None, prompt: int = 10) -> Receipt:
    usage = Usage(prompt_tokens=prompt, completion_tokens=20)
    receipt = make_receipt(replace(grant, hosts=make_grant().hosts), number)
    return replace(
        receipt,
        host_id=OPEN_HOSTS[host],
        payee=OPEN_PAYEES[host if payee is None else payee],
        usage=usage,
        price=price(usage, grant.tariff, coefficient=1000),
    )


def make_verdict(
    unit: int, credited: Iterable[Receipt] = (), refused: Iterable[Receipt | bytes] = (), *, account: bytes = ACCOUNT
) -> UnitVerdict:
    return UnitVerdict(
        operator=public(1),
        account=account,
        unit=unit.to_bytes(16, "big"),
        issued_at=NOW,
        credited=tuple(sorted(receipt.request_hash for receipt in credited)),
        refused=tuple(sorted(one if isinstance(one, bytes) else one.request_hash for one in refused)),
    )


def inside(value: object) -> object:
    """All that an object of `billing` knows, as plain values that can be compared."""
    if isinstance(value, dict):
        return {key: inside(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [inside(one) for one in value]
    if type(value).__module__.startswith("billing.") and hasattr(value, "__dict__") and not isinstance(value, str):
        return {name: inside(one) for name, one in vars(value).items() if name != "_planned"}
    return value
