"""The vault contract: its state read with proofs, and the internal messages of owner and payees.

Layouts are in docs/protocol/vault.md, the contract in contracts/vault.fc; the operator's orders are in
`billing.ton.vault_order`. The parser is strict: a state that is not exactly of this layout is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytoniq_core import Address, Cell, Slice, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.entitlements import Entitlements, PathStep
from billing.money import Nanotons
from billing.ton.cells import leaves, payee_of
from billing.ton.client import ChainClient
from billing.ton.contract import check_bits, check_end, check_network, code_of, contract_address, data_layout, data_of
from billing.ton.owner import Ownership, order_body
from billing.ton.proofs import AccountState

__all__ = [
    "CLAIM_VALUE",
    "RENT_RESERVE",
    "VaultState",
    "adopt_key_body",
    "claim_body",
    "parse_vault",
    "parse_vault_data",
    "propose_key_body",
    "read_vault",
    "revoke_key_body",
    "vault_address",
    "vault_init",
    "withdraw_body",
]

TAG_ORDER = 0x43560020  # what the hot key signs begins with it; the vault keeps it beside the network
OP_CLAIM, OP_PAID = 0x43560001, 0x43560002
OP_PROPOSE_KEY, OP_ADOPT_KEY, OP_REVOKE_KEY, OP_WITHDRAW = 0x43560011, 0x43560012, 0x43560013, 0x43560014

RENT_RESERVE = Nanotons(50_000_000)  # no order, claim or withdrawal touches it
CLAIM_VALUE = Nanotons(20_000_000)  # attached to a claim; twice what the contract insists on, the rest comes back
PAGE_LEAVES, PAGE_KEY_BITS = 960, 23  # an entry of the record of claims: one bit for each leaf; its number
PAGES_MAX = 4096  # more are not read; a root of `billing.entitlements.PAYEES_MAX` payees has some 1100
NO_KEY = bytes(32)
STEPS_PER_CELL = 3  # of a claim's path: a cell has 1023 bits, a step 257


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultState:
    """Everything the vault says. Keys are Ed25519, 32 bytes; amounts are nanotons."""

    network_id: int
    seqno: int  # of the next order; also how many were executed, the epoch of `root`
    public_key: bytes  # who signs orders; `NO_KEY` when the owner has revoked it
    root: bytes  # 32, of the last order's entitlements
    claims: int  # how many were paid
    held: int  # for payees and clients, not to be withdrawn
    claimed: frozenset[int]  # indexes of the leaves of `root` that were paid
    ownership: Ownership
    next_key: bytes  # proposed by the owner; `NO_KEY` for none
    adopt_from: int  # unix seconds


def vault_init(*, network_id: int, owner: Address, public_key: bytes) -> StateInit:
    """Code and data of a new vault; its address follows from them."""
    if len(public_key) != 32 or public_key == NO_KEY:
        raise ValueError("public_key is an Ed25519 key of 32 bytes")
    if owner.wc != 0:
        raise ValueError(f"the owner must be in the basechain, not in {owner.wc}")
    data = (
        begin_cell()
        .store_bit(0)  # nothing claimed
        .store_uint(0, 32)
        .store_bytes(Entitlements(amounts={}).root)
        .store_uint(0, 64 + 32)
        .store_uint(TAG_ORDER, 32)
        .store_int(network_id, 32)
        .store_bytes(public_key)
        .store_ref(Ownership(owner=owner).cell())
        .store_ref(begin_cell().store_uint(0, 256 + 32).end_cell())
        .end_cell()
    )
    return StateInit(code=code_of("vault"), data=data)


def vault_address(init: StateInit) -> Address:
    """Where a vault with this initial state lives."""
    return contract_address(init)


async def read_vault(chain: ChainClient, address: Address) -> VaultState:
    """The vault's state, parsed from its proved data cell.

    Raises:
        WrongContractError: there is no vault of this code at the address, or it is for another network.
        ChainError: the chain could not be asked.
    """
    state = parse_vault(await chain.account(address))
    check_network(address, state.network_id, chain.config.network_id)
    return state


def parse_vault(account: AccountState) -> VaultState:
    """The vault's state in a proved account.

    Raises:
        WrongContractError: the account's code is not the vault's, or its data has another layout.
    """
    return parse_vault_data(data_of(account, "vault"), str(account.address))


def parse_vault_data(data: Cell, where: str) -> VaultState:
    """The state in a vault's data cell; `where` names it in the refusal.

    Raises:
        WrongContractError: the data has another layout.
    """
    with data_layout(where, "vault"):
        return _parse_state(data.begin_parse())


def claim_body(index: int, entitled: int, path: Sequence[PathStep], *, query_id: int = 0) -> Cell:
    """Claim what is anchored for the sender; all three are from the order's `Entitlements`.

    The wallet that sends it must be the payee. Attach `CLAIM_VALUE`.
    """
    cells = [path[i : i + STEPS_PER_CELL] for i in range(0, len(path), STEPS_PER_CELL)] or [()]
    tail: Cell | None = None
    for steps in reversed(cells[1:]):
        tail = _store_steps(begin_cell(), steps, tail)
    head = order_body(OP_CLAIM, query_id).store_uint(index, 32).store_uint(entitled, 64)
    return _store_steps(head, cells[0], tail)


def claim_of(entitlements: Entitlements, payee: Address, *, query_id: int = 0) -> Cell:
    """The claim of one payee under an anchored root.

    Raises:
        KeyError: the payee is entitled to nothing.
    """
    name = payee_of(payee)
    entitled = entitlements.amounts[name]
    return claim_body(entitlements.index(name), entitled, entitlements.path(name), query_id=query_id)


def propose_key_body(public_key: bytes, *, query_id: int = 0) -> Cell:
    """Propose another hot key; the owner may adopt it `billing.ton.owner.HANDOVER_DELAY_S` later."""
    if len(public_key) != 32 or public_key == NO_KEY:
        raise ValueError("public_key is an Ed25519 key of 32 bytes")
    return order_body(OP_PROPOSE_KEY, query_id).store_bytes(public_key).end_cell()


def adopt_key_body(*, query_id: int = 0) -> Cell:
    """Make the proposed key the hot key."""
    return order_body(OP_ADOPT_KEY, query_id).end_cell()


def revoke_key_body(*, query_id: int = 0) -> Cell:
    """Take the hot key's power away at once, and any proposal with it; claims go on."""
    return order_body(OP_REVOKE_KEY, query_id).end_cell()


def withdraw_body(amount: Nanotons, *, query_id: int = 0) -> Cell:
    """Take money that is held for nobody to the owner."""
    return order_body(OP_WITHDRAW, query_id).store_coins(amount).end_cell()


def _store_steps(builder: Cell, steps: Sequence[PathStep], tail: Cell | None) -> Cell:
    for left, sibling in steps:
        builder.store_bit(int(left)).store_bytes(sibling)
    if tail is not None:
        builder.store_ref(tail)
    return builder.end_cell()


def _parse_state(s: Slice) -> VaultState:
    check_bits(s, 32 + 256 + 64 + 32 + 64 + 256 + 1)
    claimed = _parse_claimed(s.load_ref()) if s.load_bit() else frozenset()
    seqno, root, held = s.load_uint(32), s.load_bytes(32), s.load_uint(64)
    claims, tag, network_id, public_key = s.load_uint(32), s.load_uint(32), s.load_int(32), s.load_bytes(32)
    if tag != TAG_ORDER:
        raise ValueError(f"its orders are tagged {tag:08x}")
    owner, next_key = s.load_ref().begin_parse(), s.load_ref().begin_parse()
    if s.remaining_refs or next_key.remaining_refs:
        raise ValueError("there are more references than belong")
    check_bits(next_key, 256 + 32)
    return VaultState(
        network_id=network_id,
        seqno=seqno,
        public_key=public_key,
        root=root,
        claims=claims,
        held=held,
        claimed=claimed,
        ownership=Ownership.parse(owner),
        next_key=next_key.load_bytes(32),
        adopt_from=next_key.load_uint(32),
    )


def _parse_claimed(root: Cell) -> frozenset[int]:
    """Indexes of the leaves marked in the record of claims."""
    claimed: set[int] = set()
    for read, (page, leaf) in enumerate(leaves(root, PAGE_KEY_BITS)):
        if read == PAGES_MAX:
            raise ValueError(f"its record of claims has more than {PAGES_MAX} pages")
        bits = leaf.load_bits(PAGE_LEAVES).to01()
        check_end(leaf)
        claimed.update(page * PAGE_LEAVES + place for place, bit in enumerate(bits) if bit == "1")
    return frozenset(claimed)
