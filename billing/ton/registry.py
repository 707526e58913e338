"""The registry contract: its state read with proofs, and the messages that change it.

Layouts are in docs/protocol/registry.md, the contract in contracts/registry.fc. The parser is strict: a state that is
not exactly of this layout is refused, also when the chain really holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from pytoniq_core import Address, Cell, Slice, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.cells import leaves
from billing.ton.client import ChainClient
from billing.ton.contract import check_bits, check_end, check_network, code_of, contract_address, data_layout, data_of
from billing.ton.owner import Ownership, order_body
from billing.ton.proofs import AccountState

__all__ = [
    "CHANGE_VALUE",
    "Measurement",
    "ModelTerms",
    "OperatorTerms",
    "RegistryState",
    "anchor_body",
    "operator_body",
    "parse_registry",
    "read_registry",
    "registry_address",
    "registry_init",
    "remove_measurement_body",
    "remove_model_body",
    "remove_rim_body",
    "set_measurement_body",
    "set_model_body",
    "set_rim_body",
]

OP_SET_MEASUREMENT, OP_REMOVE_MEASUREMENT = 0x43520001, 0x43520002
OP_SET_RIM, OP_REMOVE_RIM = 0x43520003, 0x43520004
OP_SET_MODEL, OP_REMOVE_MODEL = 0x43520005, 0x43520006
OP_SET_OPERATOR = 0x43520007
OP_ANCHOR = 0x43520010

CHANGE_VALUE = Nanotons(50_000_000)  # attached to a change: gas, and rent at the first one; the rest comes back
LABEL_MAX, NAME_MAX, ENDPOINT_MAX = 64, 64, 120  # bytes of UTF-8, as the contract checks
ENTRIES_MAX = 4096  # more in one list is not read
FEE_PERMILLE_MAX = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one allowed measurement is: the TEE's kind as a number, and a label for people."""

    kind: int
    label: str

    def __post_init__(self) -> None:
        _check_uint("kind", self.kind, 8)
        _check_text("label", self.label, LABEL_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTerms:
    """A model's name, prices (nanotons per million tokens) and context length in tokens."""

    name: str
    tariff: Tariff
    context: int

    def __post_init__(self) -> None:
        _check_text("name", self.name, NAME_MAX)
        _check_uint("context", self.context, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTerms:
    """Who operates the network: Ed25519 key (32 bytes), where, which wallet pays, and its share in thousandths."""

    public_key: bytes
    endpoint: str
    wallet: Address
    fee_permille: int

    def __post_init__(self) -> None:
        if len(self.public_key) != 32:
            raise ValueError(f"public_key has 32 bytes, got {len(self.public_key)}")
        _check_text("endpoint", self.endpoint, ENDPOINT_MAX)
        if self.wallet.wc != 0:
            raise ValueError(f"the operator's wallet must be in the basechain, not in {self.wallet.wc}")
        if not 0 <= self.fee_permille <= FEE_PERMILLE_MAX:
            raise ValueError(f"fee_permille must be 0 to {FEE_PERMILLE_MAX}, got {self.fee_permille}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """Everything the registry says. Keys of measurements, rims and models are 32 bytes."""

    network_id: int
    seqno: int  # how often the owner changed something
    ownership: Ownership
    measurements: Mapping[bytes, Measurement]
    rims: frozenset[bytes]
    models: Mapping[bytes, ModelTerms]
    operator: OperatorTerms
    anchor_epoch: int
    anchor_root: bytes  # 32

    @property
    def owner(self) -> Address:
        """Who may change the registry now."""
        return self.ownership.owner

    @property
    def anchor(self) -> tuple[int, bytes]:
        """The last epoch anchored, and its root."""
        return self.anchor_epoch, self.anchor_root


def registry_init(*, network_id: int, owner: Address, operator: OperatorTerms) -> StateInit:
    """Code and data of an empty registry; its address follows from them."""
    data = (
        begin_cell()
        .store_int(network_id, 32)
        .store_uint(0, 32)
        .store_ref(Ownership(owner=owner).cell())
        .store_ref(begin_cell().store_uint(0, 3).end_cell())
        .store_ref(_operator_cell(operator))
        .store_ref(begin_cell().store_uint(0, 64).store_uint(0, 256).end_cell())
        .end_cell()
    )
    return StateInit(code=code_of("registry"), data=data)


def registry_address(init: StateInit) -> Address:
    """Where a registry with this initial state lives."""
    return contract_address(init)


async def read_registry(chain: ChainClient, address: Address) -> RegistryState:
    """The registry's state, parsed from its proved data cell.

    Raises:
        WrongContractError: there is no registry of this code at the address, or it is for another network.
        ChainError: the chain could not be asked.
    """
    state = parse_registry(await chain.account(address))
    check_network(address, state.network_id, chain.config.network_id)
    return state


def parse_registry(account: AccountState) -> RegistryState:
    """The registry's state in a proved account.

    Raises:
        WrongContractError: the account's code is not the registry's, or its data has another layout.
    """
    data = data_of(account, "registry")
    with data_layout(str(account.address), "registry"):
        return _parse_state(data.begin_parse())


def set_measurement_body(measurement_id: bytes, measurement: Measurement, *, query_id: int = 0) -> Cell:
    """Allow a measurement."""
    body = order_body(OP_SET_MEASUREMENT, query_id).store_bytes(_key(measurement_id)).store_uint(measurement.kind, 8)
    return _store_text(body, measurement.label).end_cell()


def remove_measurement_body(measurement_id: bytes, *, query_id: int = 0) -> Cell:
    """Allow a measurement no longer."""
    return order_body(OP_REMOVE_MEASUREMENT, query_id).store_bytes(_key(measurement_id)).end_cell()


def set_rim_body(digest: bytes, *, query_id: int = 0) -> Cell:
    """Allow a reference-manifest file by its SHA-256."""
    return order_body(OP_SET_RIM, query_id).store_bytes(_key(digest)).end_cell()


def remove_rim_body(digest: bytes, *, query_id: int = 0) -> Cell:
    """Allow a reference-manifest file no longer."""
    return order_body(OP_REMOVE_RIM, query_id).store_bytes(_key(digest)).end_cell()


def set_model_body(root: bytes, terms: ModelTerms, *, query_id: int = 0) -> Cell:
    """Offer a model by its manifest root, or change its terms."""
    cell = (
        _store_text(begin_cell(), terms.name)
        .store_uint(terms.tariff.prompt_price, 64)
        .store_uint(terms.tariff.cached_price, 64)
        .store_uint(terms.tariff.completion_price, 64)
        .store_uint(terms.tariff.reasoning_price, 64)
        .store_uint(terms.context, 32)
        .end_cell()
    )
    return order_body(OP_SET_MODEL, query_id).store_bytes(_key(root)).store_ref(cell).end_cell()


def remove_model_body(root: bytes, *, query_id: int = 0) -> Cell:
    """Offer a model no longer."""
    return order_body(OP_REMOVE_MODEL, query_id).store_bytes(_key(root)).end_cell()


def operator_body(operator: OperatorTerms, *, query_id: int = 0) -> Cell:
    """Name the operator, its endpoint, wallet and fee."""
    return order_body(OP_SET_OPERATOR, query_id).store_ref(_operator_cell(operator)).end_cell()


def anchor_body(epoch: int, root: bytes, *, query_id: int = 0) -> Cell:
    """Anchor an epoch's Merkle root; only the operator's wallet may send it, with ever later epochs."""
    return order_body(OP_ANCHOR, query_id).store_uint(epoch, 64).store_bytes(_key(root)).end_cell()


def _key(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError(f"a key of the registry has 32 bytes, got {len(value)}")
    return value


def _operator_cell(operator: OperatorTerms) -> Cell:
    builder = begin_cell().store_bytes(operator.public_key).store_uint(operator.fee_permille, 16)
    return _store_text(builder.store_address(operator.wallet), operator.endpoint).end_cell()


def _store_text(builder: Cell, text: str) -> Cell:
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


def _check_uint(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must be 0 to {(1 << bits) - 1}, got {value}")


def _parse_state(s: Slice) -> RegistryState:
    check_bits(s, 32 + 32)
    network_id, seqno = s.load_int(32), s.load_uint(32)
    owner, lists, operator, anchor = (s.load_ref().begin_parse() for _ in range(4))
    check_end(s)
    measurements = _parse_list(lists, _parse_measurement)
    rims = _parse_list(lists, check_end)
    models = _parse_list(lists, lambda leaf: _parse_model(leaf.load_ref().begin_parse(), leaf))
    check_bits(anchor, 64 + 256)
    epoch, root = anchor.load_uint(64), anchor.load_bytes(32)
    for part in (lists, anchor):
        check_end(part)
    return RegistryState(
        network_id=network_id,
        seqno=seqno,
        ownership=Ownership.parse(owner),
        measurements=MappingProxyType(measurements),
        rims=frozenset(rims),
        models=MappingProxyType(models),
        operator=_parse_operator(operator),
        anchor_epoch=epoch,
        anchor_root=root,
    )


def _parse_list(s: Slice, parse: Callable[[Slice], T]) -> dict[bytes, T]:
    if not s.load_bit():
        return {}
    entries: dict[bytes, T] = {}
    for key, leaf in leaves(s.load_ref(), 256):
        if len(entries) == ENTRIES_MAX:
            raise ValueError(f"a list has more than {ENTRIES_MAX} entries")
        entries[key.to_bytes(32, "big")] = parse(leaf)
    return entries


def _parse_measurement(leaf: Slice) -> Measurement:
    measurement = Measurement(kind=leaf.load_uint(8), label=_load_text(leaf))
    check_end(leaf)
    return measurement


def _parse_model(s: Slice, leaf: Slice) -> ModelTerms:
    name = _load_text(s)
    check_bits(s, 4 * 64 + 32)
    prompt_price, cached_price, completion_price, reasoning_price = (s.load_uint(64) for _ in range(4))
    context = s.load_uint(32)
    check_end(s)
    check_end(leaf)
    tariff = Tariff(
        prompt_price=prompt_price,
        cached_price=cached_price,
        completion_price=completion_price,
        reasoning_price=reasoning_price,
    )
    return ModelTerms(name=name, tariff=tariff, context=context)


def _parse_operator(s: Slice) -> OperatorTerms:
    public_key, fee_permille, wallet = s.load_bytes(32), s.load_uint(16), s.load_address()
    operator = OperatorTerms(public_key=public_key, endpoint=_load_text(s), wallet=wallet, fee_permille=fee_permille)
    check_end(s)
    return operator
