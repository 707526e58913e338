"""The entries of the registry contract: values that are checked when they are made, and their cells.

Layouts are in docs/protocol/registry.md. What the contract would refuse is refused here before it is sent; what is
parsed raises ValueError when it is not exactly of the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pytoniq_core import Address, Builder, Cell, Slice, begin_cell

from billing.tariff import Tariff
from billing.ton.contract import check_bits, check_end

__all__ = [
    "ENDPOINTS_MAX",
    "NO_DIGEST",
    "LogCheckpoint",
    "Measurement",
    "ModelTerms",
    "OperatorStatus",
    "OperatorTerms",
    "Policy",
]

LABEL_MAX, NAME_MAX, ENDPOINT_MAX = 64, 64, 120  # bytes of UTF-8, as the contract checks
ENDPOINTS_MAX = 4
FEE_PERMILLE_MAX = 1000
NO_DIGEST = bytes(32)  # stands for "none"
TARIFF_BITS = 4 * 64
CHECKPOINT_BITS = 256 + 64 + 256


class OperatorStatus(IntEnum):
    """What governance says about an operator; its anchors are taken in every status."""

    ACTIVE = 0
    CLOSING = 1  # takes no new leases, pays what it owes
    SUSPENDED = 2  # governance warns of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one allowed measurement is: the TEE's kind as a number, and a label for people."""

    kind: int
    label: str

    def __post_init__(self) -> None:
        check_uint("kind", self.kind, 8)
        _check_text("label", self.label, LABEL_MAX)

    def store(self, builder: Builder) -> Builder:
        """Append it."""
        return _store_text(builder.store_uint(self.kind, 8), self.label)

    @classmethod
    def parse(cls, leaf: Slice) -> Measurement:
        """Read a leaf of the list."""
        measurement = cls(kind=leaf.load_uint(8), label=_load_text(leaf))
        check_end(leaf)
        return measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTerms:
    """A model's name, prices (nanotons per million tokens) and context length in tokens."""

    name: str
    tariff: Tariff
    context: int

    def __post_init__(self) -> None:
        _check_text("name", self.name, NAME_MAX)
        check_uint("context", self.context, 32)

    def cell(self) -> Cell:
        """The terms as the registry keeps them."""
        return store_tariff(_store_text(begin_cell(), self.name), self.tariff).store_uint(self.context, 32).end_cell()

    @classmethod
    def parse(cls, leaf: Slice) -> ModelTerms:
        """Read a leaf of the list: one reference."""
        s = leaf.load_ref().begin_parse()
        name = _load_text(s)
        check_bits(s, TARIFF_BITS + 32)
        tariff, context = load_tariff(s), s.load_uint(32)
        check_end(s)
        check_end(leaf)
        return cls(name=name, tariff=tariff, context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTerms:
    """Who runs a gateway and pays hosts, and on which terms.

    Attributes:
        name: for people; the id of the entry is what counts.
        public_key: Ed25519, 32 bytes; signs grants, and redemptions of payment channels.
        endpoints: URLs of its gateways, 1 to `ENDPOINTS_MAX`, tried in this order.
        wallet: its treasury, in the basechain: takes deposits, pays hosts, writes the anchors.
        fee_permille: its share of each receipt, thousandths.
        status: whether governance lets it take leases.
        channel_delay_s: delay of the payment channels it takes, seconds; 0 when it takes none.
        terms: SHA-256 of its terms of service, 32 bytes; `NO_DIGEST` for none.
    """

    name: str
    public_key: bytes
    endpoints: tuple[str, ...]
    wallet: Address
    fee_permille: int
    status: OperatorStatus = OperatorStatus.ACTIVE
    channel_delay_s: int = 0
    terms: bytes = NO_DIGEST

    def __post_init__(self) -> None:
        _check_text("name", self.name, NAME_MAX)
        if not 1 <= len(self.endpoints) <= ENDPOINTS_MAX:
            raise ValueError(f"an operator must have 1 to {ENDPOINTS_MAX} endpoints, got {len(self.endpoints)}")
        for endpoint in self.endpoints:
            _check_text("endpoint", endpoint, ENDPOINT_MAX)
        check_key("public_key", self.public_key)
        check_key("terms", self.terms)
        if self.wallet.wc != 0:
            raise ValueError(f"the operator's wallet must be in the basechain, not in {self.wallet.wc}")
        if not 0 <= self.fee_permille <= FEE_PERMILLE_MAX:
            raise ValueError(f"fee_permille must be 0 to {FEE_PERMILLE_MAX}, got {self.fee_permille}")
        OperatorStatus(self.status)
        check_uint("channel_delay_s", self.channel_delay_s, 32)

    def cell(self) -> Cell:
        """The terms as the registry keeps them."""
        endpoints: Cell | None = None
        for endpoint in reversed(self.endpoints):
            endpoints = _store_text(begin_cell(), endpoint).store_maybe_ref(endpoints).end_cell()
        return (
            begin_cell()
            .store_bytes(self.wallet.hash_part)
            .store_bytes(self.public_key)
            .store_uint(self.fee_permille, 16)
            .store_uint(self.status, 8)
            .store_uint(self.channel_delay_s, 32)
            .store_ref(_store_text(begin_cell(), self.name).store_bytes(self.terms).end_cell())
            .store_ref(endpoints)
            .end_cell()
        )

    @classmethod
    def parse(cls, s: Slice) -> OperatorTerms:
        """Read the cell."""
        check_bits(s, 256 + 256 + 16 + 8 + 32)
        wallet, public_key = Address((0, s.load_bytes(32))), s.load_bytes(32)
        fee_permille, status, delay = s.load_uint(16), OperatorStatus(s.load_uint(8)), s.load_uint(32)
        profile, endpoints = s.load_ref().begin_parse(), tuple(_load_endpoints(s.load_ref()))
        check_end(s)
        name = _load_text(profile)
        check_bits(profile, 256)
        terms = profile.load_bytes(32)
        check_end(profile)
        return cls(
            name=name,
            public_key=public_key,
            endpoints=endpoints,
            wallet=wallet,
            fee_permille=fee_permille,
            status=status,
            channel_delay_s=delay,
            terms=terms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCheckpoint:
    """The transparency log as governance saw it: its Ed25519 key (32 bytes), number of entries, root (32 bytes)."""

    log: bytes
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_key("log", self.log)
        check_key("root", self.root)
        check_uint("size", self.size, 64)

    def store(self, builder: Builder) -> Builder:
        """Append it."""
        return builder.store_bytes(self.log).store_uint(self.size, 64).store_bytes(self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What governance published beside the lists: the SHA-256 of its policy file, and a checkpoint of the log.

    Both are there to be compared with what a reader has; neither replaces it.
    """

    digest: bytes = NO_DIGEST
    checkpoint: LogCheckpoint | None = None

    def __post_init__(self) -> None:
        check_key("digest", self.digest)

    def cell(self) -> Cell:
        """The policy as the registry keeps it."""
        builder = begin_cell().store_bytes(self.digest).store_bit(self.checkpoint is not None)
        return (self.checkpoint.store(builder) if self.checkpoint else builder).end_cell()

    @classmethod
    def parse(cls, s: Slice) -> Policy:
        """Read the cell."""
        digest, checkpoint = s.load_bytes(32), None
        if s.load_bit():
            check_bits(s, CHECKPOINT_BITS)
            checkpoint = LogCheckpoint(log=s.load_bytes(32), size=s.load_uint(64), root=s.load_bytes(32))
        check_end(s)
        return cls(digest=digest, checkpoint=checkpoint)


def store_tariff(builder: Builder, tariff: Tariff) -> Builder:
    """Append four prices."""
    return (
        builder.store_uint(tariff.prompt_price, 64)
        .store_uint(tariff.cached_price, 64)
        .store_uint(tariff.completion_price, 64)
        .store_uint(tariff.reasoning_price, 64)
    )


def load_tariff(s: Slice) -> Tariff:
    """Read four prices."""
    prompt, cached, completion, reasoning = (s.load_uint(64) for _ in range(4))
    return Tariff(prompt_price=prompt, cached_price=cached, completion_price=completion, reasoning_price=reasoning)


def check_key(name: str, value: bytes) -> bytes:
    """The 32 bytes; ValueError for any other number of them."""
    if len(value) != 32:
        raise ValueError(f"{name} has 32 bytes, got {len(value)}")
    return value


def check_uint(name: str, value: int, bits: int) -> int:
    """The number, when it fits; ValueError otherwise."""
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must be 0 to {(1 << bits) - 1}, got {value}")
    return value


def _load_endpoints(cell: Cell | None) -> list[str]:
    endpoints: list[str] = []
    while cell is not None:
        if len(endpoints) == ENDPOINTS_MAX:
            raise ValueError(f"an operator has more than {ENDPOINTS_MAX} endpoints")
        s = cell.begin_parse()
        endpoints.append(_load_text(s))
        cell = s.load_maybe_ref()
        check_end(s)
    return endpoints


def _store_text(builder: Builder, text: str) -> Builder:
    data = text.encode()
    return builder.store_uint(len(data), 8).store_bytes(data)


def _load_text(s: Slice) -> str:
    length = s.load_uint(8)
    data: bytes = s.load_bytes(length)
    if len(data) != length:
        raise ValueError("a text is cut short")
    return data.decode()


def _check_text(name: str, text: str, size_max: int) -> None:
    if not 0 < len(text.encode()) <= size_max or not text.isprintable():
        raise ValueError(f"{name} must be 1 to {size_max} bytes of printable text, got {text!r}")
