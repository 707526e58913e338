"""The registry contract: its state read with proofs, and the messages that change it.

Layouts are in docs/protocol/registry.md, the contract in contracts/registry.fc. The parser is strict: a state that is
not exactly of this layout is refused, also when the chain really holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from pytoniq_core import Address, Builder, Cell, HashMap, Slice, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.errors import UnknownOperatorError
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.cells import leaves, lookup
from billing.ton.client import ChainClient
from billing.ton.contract import check_bits, check_end, check_network, code_of, contract_address, data_layout, data_of
from billing.ton.owner import Ownership, order_body
from billing.ton.proofs import AccountState
from billing.ton.registry_entries import (
    TARIFF_BITS,
    LogCheckpoint,
    Measurement,
    ModelTerms,
    OperatorStatus,
    OperatorTerms,
    Policy,
    check_key,
    check_uint,
    load_tariff,
    store_tariff,
)

__all__ = [
    "CHANGE_VALUE",
    "LogCheckpoint",
    "Measurement",
    "ModelTerms",
    "Operator",
    "OperatorStatus",
    "OperatorTerms",
    "Policy",
    "RegistryState",
    "anchor_body",
    "choose_operator",
    "parse_operator",
    "parse_registry",
    "read_registry",
    "registry_address",
    "registry_init",
    "remove_checkpoint_body",
    "remove_measurement_body",
    "remove_model_body",
    "remove_operator_body",
    "remove_price_body",
    "remove_rim_body",
    "set_checkpoint_body",
    "set_measurement_body",
    "set_model_body",
    "set_operator_body",
    "set_policy_body",
    "set_price_body",
    "set_rim_body",
]

OP_SET_MEASUREMENT, OP_REMOVE_MEASUREMENT = 0x43520001, 0x43520002
OP_SET_RIM, OP_REMOVE_RIM = 0x43520003, 0x43520004
OP_SET_MODEL, OP_REMOVE_MODEL = 0x43520005, 0x43520006
OP_SET_OPERATOR, OP_REMOVE_OPERATOR = 0x43520007, 0x43520008
OP_SET_PRICE, OP_REMOVE_PRICE = 0x43520009, 0x4352000A
OP_SET_POLICY, OP_SET_CHECKPOINT, OP_REMOVE_CHECKPOINT = 0x4352000B, 0x4352000C, 0x4352000D
OP_ANCHOR = 0x43520010

CHANGE_VALUE = Nanotons(50_000_000)  # attached to a change: gas, and rent at the first one; the rest comes back
ENTRIES_MAX = 4096  # more in one list is not read
ID_BITS = 32
NOT_ANCHORED = (0, bytes(32))
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the network.

    Attributes:
        id: its number in the registry, 32 bits; it stays when keys and wallets change.
        prices: what it charges for a model, by manifest root, where that is not the model's own tariff.
        anchor: the last epoch its wallet anchored, and the root of the payees' totals (32 bytes); epoch 0 for none.
    """

    id: int
    terms: OperatorTerms
    prices: Mapping[bytes, Tariff] = field(default_factory=dict)
    anchor: tuple[int, bytes] = NOT_ANCHORED

    def __str__(self) -> str:
        terms = self.terms
        return f"{self.id} ({terms.name}, {terms.status.name.lower()}, key {terms.public_key.hex()})"

    def tariff(self, root: bytes, terms: ModelTerms) -> Tariff:
        """What this operator charges for a model."""
        return self.prices.get(root, terms.tariff)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """Everything the registry says. Measurements, rims and models are under 32 bytes, operators under their ids."""

    network_id: int
    seqno: int  # how often the owner changed something
    ownership: Ownership
    policy: Policy
    measurements: Mapping[bytes, Measurement]
    rims: frozenset[bytes]
    models: Mapping[bytes, ModelTerms]
    operators: Mapping[int, Operator]

    @property
    def owner(self) -> Address:
        """Who may change the registry now."""
        return self.ownership.owner

    def operator_of_key(self, public_key: bytes) -> Operator:
        """The operator that signs with this key.

        Raises:
            UnknownOperatorError: the registry names none, or more than one.
        """
        found = [operator for operator in self.operators.values() if operator.terms.public_key == public_key]
        if len(found) != 1:
            why = f"not exactly one operator has the key {public_key.hex()}"
            raise UnknownOperatorError(why, tuple(map(str, self.operators.values())))
        return found[0]

    def anchor_of(self, wallet: Address) -> tuple[int, bytes]:
        """The last epoch that this treasury anchored, and its root; epoch 0 when there is none."""
        found = (operator.anchor for operator in self.operators.values() if operator.terms.wallet == wallet)
        return next(found, NOT_ANCHORED)


def choose_operator(operators: Mapping[int, Operator], wanted: str, *, also_closed: bool = False) -> Operator:
    """The operator that takes leases and is meant: by its id, by its public key in hex, or as the only active one.

    Args:
        operators: those of the registry.
        wanted: an id or a key; empty for the only active one.
        also_closed: one that is named may be closing or suspended: it owes statements and money all the same.

    Raises:
        UnknownOperatorError: none or several are meant, or the one that is meant takes no leases.
    """
    known = tuple(str(operators[number]) for number in sorted(operators))
    active = [each for each in operators.values() if each.terms.status is OperatorStatus.ACTIVE]
    if not wanted:
        if len(active) == 1:
            return active[0]
        why = "several operators are active: say which, by id or key" if active else "no operator is active"
        raise UnknownOperatorError(why, known)
    found = [each for each in operators.values() if wanted.lower() in (str(each.id), each.terms.public_key.hex())]
    if len(found) != 1:
        raise UnknownOperatorError(f"{len(found) or 'no'} operators have the id or key {wanted!r}", known)
    if found[0] not in active and not also_closed:
        raise UnknownOperatorError(f"operator {wanted} is {found[0].terms.status.name.lower()}: use another", known)
    return found[0]


def registry_init(
    *, network_id: int, owner: Address, operators: Mapping[int, OperatorTerms] = MappingProxyType({})
) -> StateInit:
    """Code and data of a registry that allows nothing yet; its address follows from them.

    Raises:
        ValueError: two operators share a wallet.
    """
    anchors = {int.from_bytes(terms.wallet.hash_part, "big"): bytes(8 + 32) for terms in operators.values()}
    if len(anchors) != len(operators):
        raise ValueError("each operator must have a wallet of its own: anchors are told apart by it")
    entries = {
        check_uint("operator id", operator_id, ID_BITS): begin_cell().store_bit(0).store_ref(terms.cell())
        for operator_id, terms in operators.items()
    }
    lists = begin_cell().store_uint(0, 3).store_dict(_dictionary(ID_BITS, entries)).end_cell()
    data = (
        begin_cell()
        .store_int(network_id, 32)
        .store_uint(0, 32)
        .store_ref(Ownership(owner=owner).cell())
        .store_ref(Policy().cell())
        .store_ref(lists)
        .store_dict(_dictionary(256, {key: begin_cell().store_bytes(value) for key, value in anchors.items()}))
        .end_cell()
    )
    return StateInit(code=code_of("registry"), data=data)


def _dictionary(key_bits: int, entries: Mapping[int, Builder]) -> Cell | None:
    dictionary = HashMap(key_bits, value_serializer=lambda value, builder: builder.store_cell(value.end_cell()))
    for key, value in entries.items():
        dictionary.set(key, value)
    return dictionary.serialize() if entries else None


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


def parse_operator(account: AccountState, operator_id: int) -> Operator:
    """One operator in a proved account; of the others, only the path to this one is looked at.

    Raises:
        UnknownOperatorError: there is none of this id.
        WrongContractError: the account's code is not the registry's, or the data on the way has another layout.
    """
    data = data_of(account, "registry")
    with data_layout(str(account.address), "registry"):
        s = data.begin_parse()
        lists = [s.load_ref() for _ in range(3)][-1].begin_parse()
        operators = [lists.load_maybe_ref() for _ in range(4)][-1]
        leaf = lookup(operators, operator_id, ID_BITS) if operators else None
        if leaf is not None:
            anchors = s.skip_bits(32 + 32).load_maybe_ref()
            return _parse_operator(operator_id, leaf, lambda wallet: _anchor_under(anchors, wallet))
    raise UnknownOperatorError(f"no operator has the id {operator_id}", ())


def set_measurement_body(measurement_id: bytes, measurement: Measurement, *, query_id: int = 0) -> Cell:
    """Allow a measurement."""
    body = order_body(OP_SET_MEASUREMENT, query_id).store_bytes(_key(measurement_id))
    return measurement.store(body).end_cell()


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
    return order_body(OP_SET_MODEL, query_id).store_bytes(_key(root)).store_ref(terms.cell()).end_cell()


def remove_model_body(root: bytes, *, query_id: int = 0) -> Cell:
    """Offer a model no longer."""
    return order_body(OP_REMOVE_MODEL, query_id).store_bytes(_key(root)).end_cell()


def set_operator_body(operator_id: int, terms: OperatorTerms, *, query_id: int = 0) -> Cell:
    """Name an operator, or change its terms. Its prices stay, and its anchor goes along to another wallet."""
    return _operator_order(OP_SET_OPERATOR, operator_id, query_id).store_ref(terms.cell()).end_cell()


def remove_operator_body(operator_id: int, *, query_id: int = 0) -> Cell:
    """Name an operator no longer; its prices and its anchor are forgotten."""
    return _operator_order(OP_REMOVE_OPERATOR, operator_id, query_id).end_cell()


def set_price_body(operator_id: int, root: bytes, tariff: Tariff, *, query_id: int = 0) -> Cell:
    """Let one operator charge its own prices for a model."""
    body = _operator_order(OP_SET_PRICE, operator_id, query_id).store_bytes(_key(root))
    return store_tariff(body, tariff).end_cell()


def remove_price_body(operator_id: int, root: bytes, *, query_id: int = 0) -> Cell:
    """Let one operator charge the model's own tariff again."""
    return _operator_order(OP_REMOVE_PRICE, operator_id, query_id).store_bytes(_key(root)).end_cell()


def set_policy_body(digest: bytes, *, query_id: int = 0) -> Cell:
    """Name the published policy by its SHA-256; 32 zero bytes for none."""
    return order_body(OP_SET_POLICY, query_id).store_bytes(_key(digest)).end_cell()


def set_checkpoint_body(checkpoint: LogCheckpoint, *, query_id: int = 0) -> Cell:
    """Name how the transparency log stands; one of the same log must be of a larger size."""
    return checkpoint.store(order_body(OP_SET_CHECKPOINT, query_id)).end_cell()


def remove_checkpoint_body(*, query_id: int = 0) -> Cell:
    """Name no checkpoint any more."""
    return order_body(OP_REMOVE_CHECKPOINT, query_id).end_cell()


def anchor_body(epoch: int, root: bytes, *, query_id: int = 0) -> Cell:
    """Anchor an epoch's Merkle root; only an operator's wallet may send it, with ever later epochs."""
    return order_body(OP_ANCHOR, query_id).store_uint(epoch, 64).store_bytes(_key(root)).end_cell()


def _operator_order(operation: int, operator_id: int, query_id: int) -> Builder:
    return order_body(operation, query_id).store_uint(check_uint("operator id", operator_id, ID_BITS), ID_BITS)


def _key(value: bytes) -> bytes:
    return check_key("a key of the registry", value)


def _parse_state(s: Slice) -> RegistryState:
    check_bits(s, 32 + 32 + 1)
    network_id, seqno = s.load_int(32), s.load_uint(32)
    owner, policy, lists = (s.load_ref().begin_parse() for _ in range(3))
    anchors = _parse_list(s, 256, _parse_anchor)
    check_end(s)
    measurements = _parse_list(lists, 256, Measurement.parse)
    rims = _parse_list(lists, 256, check_end)
    models = _parse_list(lists, 256, ModelTerms.parse)
    operators = _parse_list(lists, ID_BITS, lambda leaf: leaf)
    check_end(lists)
    entries = {key: _parse_operator(key, leaf, anchors.pop) for key, leaf in operators.items()}
    if anchors:
        raise ValueError(f"{len(anchors)} anchors of wallets that are no operator's")
    return RegistryState(
        network_id=network_id,
        seqno=seqno,
        ownership=Ownership.parse(owner),
        policy=Policy.parse(policy),
        measurements=MappingProxyType(_by_bytes(measurements)),
        rims=frozenset(_by_bytes(rims)),
        models=MappingProxyType(_by_bytes(models)),
        operators=MappingProxyType(entries),
    )


def _by_bytes(entries: Mapping[int, T]) -> dict[bytes, T]:
    return {key.to_bytes(32, "big"): value for key, value in entries.items()}


def _parse_list(s: Slice, key_bits: int, parse: Callable[[Slice], T]) -> dict[int, T]:
    if not s.load_bit():
        return {}
    entries: dict[int, T] = {}
    for key, leaf in leaves(s.load_ref(), key_bits):
        if len(entries) == ENTRIES_MAX:
            raise ValueError(f"a list has more than {ENTRIES_MAX} entries")
        entries[key] = parse(leaf)
    return entries


def _parse_operator(operator_id: int, leaf: Slice, anchor_of: Callable[[int], tuple[int, bytes]]) -> Operator:
    prices = _parse_list(leaf, 256, _parse_price)
    terms = OperatorTerms.parse(leaf.load_ref().begin_parse())
    check_end(leaf)
    anchor = anchor_of(int.from_bytes(terms.wallet.hash_part, "big"))
    return Operator(id=operator_id, terms=terms, prices=MappingProxyType(_by_bytes(prices)), anchor=anchor)


def _parse_price(leaf: Slice) -> Tariff:
    check_bits(leaf, TARIFF_BITS)
    tariff = load_tariff(leaf)
    check_end(leaf)
    return tariff


def _parse_anchor(leaf: Slice) -> tuple[int, bytes]:
    check_bits(leaf, 64 + 256)
    anchor = leaf.load_uint(64), leaf.load_bytes(32)
    check_end(leaf)
    return anchor


def _anchor_under(anchors: Cell | None, wallet: int) -> tuple[int, bytes]:
    leaf = lookup(anchors, wallet, 256) if anchors else None
    if leaf is None:
        raise ValueError("an operator's wallet has no anchor")
    return _parse_anchor(leaf)
