"""`chrysalis owner`: what the cold owner of a contract may order about who holds power over it.

Exit codes: chrysalis/money.py. With --offline the owner's key stays on a machine without network.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis.key_access import PasswordFile, read_public_key
from chrysalis.money import (
    AsJson,
    Key,
    Network,
    Offline,
    Order,
    Session,
    Yes,
    carry_out,
    exit_codes,
    say,
)

if TYPE_CHECKING:
    from pytoniq_core import Address

    from billing.ton.client import ChainClient
    from billing.ton.owner import Ownership
    from billing.ton.proofs import AccountState

ORDER_VALUE = 50_000_000  # nanotons attached to an owner's order; what its gas leaves comes back


class OwnerStep(StrEnum):
    """Orders of a contract's owner about who holds power."""

    PROPOSE_KEY = "propose-key"
    ADOPT_KEY = "adopt-key"
    REVOKE_KEY = "revoke-key"
    PROPOSE_OWNER = "propose-owner"
    ACCEPT_OWNER = "accept-owner"
    CANCEL_OWNER = "cancel-owner"


def owner(
    step: Annotated[OwnerStep, typer.Argument(help="What to do; the vault's hot key, or a contract's owner.")],
    contract: Annotated[str, typer.Argument(help="Address of the vault; of any contract of ours for *-owner.")],
    key: Key,
    network: Network,
    *,
    new_key: Annotated[Path | None, typer.Option(help="propose-key: key file; only its public part is read.")] = None,
    new_owner: Annotated[str, typer.Option(help="propose-owner: address of the next owner's wallet.")] = "",
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Replace the hot key of a vault, or hand a contract over; both take effect a day after they are proposed."""
    from billing.money import Nanotons
    from billing.ton.address import parse_address
    from billing.ton.owner import accept_owner_body, cancel_owner_body, propose_owner_body
    from billing.ton.vault import adopt_key_body, propose_key_body, revoke_key_body
    from billing.ton.wallet import Transfer

    if (step is OwnerStep.PROPOSE_KEY) != (new_key is not None) or (step is OwnerStep.PROPOSE_OWNER) != bool(new_owner):
        raise typer.BadParameter("propose-key needs --new-key, propose-owner needs --new-owner, others neither")
    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        net = session.network
        address = parse_address(contract, network_id=net.chain.network_id).address
        if step is OwnerStep.PROPOSE_KEY:
            body = propose_key_body(read_public_key(new_key or Path()))
        elif step is OwnerStep.PROPOSE_OWNER:
            body = propose_owner_body(parse_address(new_owner, network_id=net.chain.network_id).address)
        else:
            bodies = {
                OwnerStep.ADOPT_KEY: adopt_key_body,
                OwnerStep.REVOKE_KEY: revoke_key_body,
                OwnerStep.ACCEPT_OWNER: accept_owner_body,
                OwnerStep.CANCEL_OWNER: cancel_owner_body,
            }
            body = bodies[step]()

        async def plan(chain: "ChainClient") -> Order:
            before = await chain.account(address)
            _check_order(step, before, session.wallet)
            return Order(
                transfers=(Transfer(destination=address, amount=Nanotons(ORDER_VALUE), body=body),),
                purpose=f"{step.value} of {contract}",
                notes=("what the order's gas leaves comes back",),
                arrived=lambda state: state.last_lt > before.last_lt and _power(state) != _power(before),
            )

        say(carry_out(session, plan), as_json)


def _check_order(step: OwnerStep, account: "AccountState", wallet: "Address") -> None:
    """Refuse what the contract would refuse: another's order, one that is too early, or has nothing to be about.

    Raises:
        WrongContractError: it is not a contract of ours, or this wallet has no say there (yet).
    """
    from billing.errors import WrongContractError

    where = str(account.address)
    ownership, hot = _power(account, vault=step.value.endswith("-key"))
    allowed = ownership.next_owner if step is OwnerStep.ACCEPT_OWNER else ownership.owner
    if allowed != wallet:
        raise WrongContractError(where, f"{step.value} is up to {allowed}, the wallet is {wallet}")
    nothing = {
        OwnerStep.ADOPT_KEY: not any(hot.next_key),
        OwnerStep.REVOKE_KEY: not any(hot.key + hot.next_key),
        OwnerStep.CANCEL_OWNER: ownership.next_owner is None,
    }
    if nothing.get(step, False):
        raise WrongContractError(where, f"there is nothing for {step.value} to change")
    due = {OwnerStep.ACCEPT_OWNER: ownership.accept_from, OwnerStep.ADOPT_KEY: hot.adopt_from}.get(step, 0)
    if account.head.time < due:
        raise WrongContractError(where, f"{step.value} is possible from unix time {due} on, it is {account.head.time}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _HotKey:
    """A vault's hot key, the proposed one, and from when on it may be adopted; zeros for other contracts."""

    key: bytes = bytes(32)
    next_key: bytes = bytes(32)
    adopt_from: int = 0


def _power(account: "AccountState", *, vault: bool = False) -> "tuple[Ownership, _HotKey]":
    """Who has power over a contract of ours in this state."""
    from billing.errors import WrongContractError
    from billing.ton.registry import parse_registry
    from billing.ton.vault import parse_vault

    try:
        state = parse_vault(account)
    except WrongContractError:
        if vault:
            raise
        return parse_registry(account).ownership, _HotKey()
    hot = _HotKey(key=state.public_key, next_key=state.next_key, adopt_from=state.adopt_from)
    return state.ownership, hot
