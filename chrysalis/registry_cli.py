"""`chrysalis registry`: read the registry contract with proofs, and change it as its owner.

Changes are written in a YAML file, see billing/ton/registry_changes.py. What will change is shown before anything is
signed. Exit codes: chrysalis/money.py. With --offline the owner's key stays on a machine without network.
"""

from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from chrysalis.key_access import PasswordFile
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
    run_on_chain,
    say,
)
from chrysalis.network_file import NetworkFile
from chrysalis.owner_cli import OwnerStep, owner

if TYPE_CHECKING:
    from billing.ton.client import ChainClient
    from billing.ton.registry import RegistryState
    from billing.ton.registry_changes import Change

app = typer.Typer(help="The registry contract: what is allowed, who operates, at which prices.", no_args_is_help=True)

DOCUMENT_MAX = 1 << 20  # bytes of a file of changes
CHANGES_MAX = 100  # in one message of the owner's wallet
File = Annotated[Path, typer.Argument(help="YAML file of changes, see billing/ton/registry_changes.py.")]


class HandOver(StrEnum):
    """Steps of a hand-over."""

    PROPOSE = "propose"
    ACCEPT = "accept"
    CANCEL = "cancel"


class Status(StrEnum):
    """What governance says about an operator."""

    ACTIVE = "active"
    CLOSING = "closing"
    SUSPENDED = "suspended"


@app.command()
def show(
    network: Network,
    operator: Annotated[int | None, typer.Option(help="Only the operator of this id.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what the registry says, read with proofs."""
    from billing.errors import UnknownOperatorError

    with exit_codes():
        document = _describe(_read(NetworkFile.load(network)))
        if operator is not None:
            operators = document["operators"]
            if operator not in operators:
                raise UnknownOperatorError(str(operator), tuple(map(str, operators)))
            document = operators[operator]
    if as_json:
        say(document, as_json)
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False, width=160).rstrip())


@app.command()
def propose(file: File, network: Network, *, as_json: AsJson = False) -> None:
    """Show what a file would change; nothing is signed or sent."""
    with exit_codes():
        from billing.ton.registry_changes import plan_changes

        changes = plan_changes(_load(file), _read(NetworkFile.load(network)))
    _say_changes(changes, as_json)


@app.command("set")
def set_entries(
    file: File,
    key: Key,
    network: Network,
    *,
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Make the registry say what a file says: show the difference, ask, send."""
    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _change(session, _load(file))


@app.command("set-policy")
def set_policy(
    policy: Annotated[Path, typer.Argument(help="The policy file that governance publishes.")],
    key: Key,
    network: Network,
    *,
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Name a policy file by its SHA-256; clients whose file is another one are told."""
    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _change(session, {"policy": sha256(_read_file(policy)).hexdigest()})


@app.command("set-status")
def set_status(
    operator: Annotated[int, typer.Argument(help="The operator's id.")],
    status: Annotated[Status, typer.Argument(help="closing: no new leases; suspended: a warning too.")],
    key: Key,
    network: Network,
    *,
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Let an operator take leases, or not."""
    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _change(session, {"operators": {operator: {"status": status.value}}})


@app.command("hand-over")
def hand_over(
    step: Annotated[HandOver, typer.Argument(help="propose, a day later accept by the next owner, or cancel.")],
    key: Key,
    network: Network,
    *,
    new_owner: Annotated[str, typer.Option(help="propose: address of the next owner's wallet.")] = "",
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Hand the registry to another owner, in two steps with a day between."""
    with exit_codes():
        address: str = NetworkFile.load(network).registry_address().to_str(is_user_friendly=False)
    owner(
        OwnerStep(f"{step.value}-owner"),
        address,
        key,
        network,
        new_owner=new_owner,
        password_file=password_file,
        yes=yes,
        offline=offline,
        as_json=as_json,
    )


def _change(session: Session, document: object) -> None:
    """Plan on the state of the moment, show it, and send all of it in one message of the owner's wallet."""
    from billing.errors import WrongContractError
    from billing.ton.registry import CHANGE_VALUE, read_registry
    from billing.ton.registry_changes import plan_changes
    from billing.ton.wallet import Transfer

    address = session.network.registry_address()

    async def plan(chain: "ChainClient") -> Order:
        state = await read_registry(chain, address)
        changes = plan_changes(document, state)
        if state.owner != session.wallet:
            raise WrongContractError(
                str(address), f"its owner is {state.owner}, the wallet of this key is {session.wallet}"
            )
        if not 0 < len(changes) <= CHANGES_MAX:
            raise ValueError(f"{len(changes)} changes: a message carries 1 to {CHANGES_MAX}")
        return Order(
            transfers=tuple(Transfer(destination=address, amount=CHANGE_VALUE, body=each.body) for each in changes),
            purpose=f"{len(changes)} changes of the registry",
            notes=(*map(str, changes), "what the orders' gas leaves comes back"),
            arrived=lambda account: _seqno(account) >= state.seqno + len(changes),
        )

    say(carry_out(session, plan), session.as_json)


def _seqno(account: Any) -> int:  # noqa: ANN401 - a billing.ton.proofs.AccountState
    from billing.ton.registry import parse_registry

    return parse_registry(account).seqno


def _read(network: NetworkFile) -> "RegistryState":
    from billing.ton.registry import read_registry

    address = network.registry_address()
    return run_on_chain(network, lambda chain: read_registry(chain, address), waiting="asking the chain")


def _read_file(path: Path) -> bytes:
    from cluster.errors import ConfigError

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > DOCUMENT_MAX:
        raise ConfigError(f"{path} has {len(data)} bytes, at most {DOCUMENT_MAX} are read")
    return data


def _load(path: Path) -> object:
    from cluster.errors import ConfigError

    try:
        return yaml.safe_load(_read_file(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _say_changes(changes: "tuple[Change, ...]", as_json: bool) -> None:
    if as_json:
        rows = [{"what": each.what, "before": each.before, "after": each.after} for each in changes]
        say({"changes": rows}, as_json)
    else:
        typer.echo("\n".join(map(str, changes)) or "nothing changes")


def _describe(state: "RegistryState") -> dict[str, Any]:
    from billing.ton.registry_changes import describe_operator
    from billing.ton.registry_entries import NO_DIGEST

    policy, handover = state.policy, state.ownership
    return {
        "network": state.network_id,
        "changes": state.seqno,
        "owner": _raw(state.owner),
        "next_owner": _raw(handover.next_owner) if handover.next_owner else None,
        "accept_from": handover.accept_from,
        "policy": None if policy.digest == NO_DIGEST else policy.digest.hex(),
        "checkpoint": {
            "log": policy.checkpoint.log.hex(),
            "size": policy.checkpoint.size,
            "root": policy.checkpoint.root.hex(),
        }
        if policy.checkpoint
        else None,
        "measurements": {
            key.hex(): {"kind": each.kind, "label": each.label} for key, each in state.measurements.items()
        },
        "rims": sorted(digest.hex() for digest in state.rims),
        "models": {
            root.hex(): {"name": each.name, "context": each.context} | _prices(each.tariff)
            for root, each in state.models.items()
        },
        "operators": {
            number: describe_operator(each.terms)
            | {
                "prices": {root.hex(): _prices(tariff) for root, tariff in each.prices.items()},
                "anchor": {"epoch": each.anchor[0], "root": each.anchor[1].hex()},
            }
            for number, each in state.operators.items()
        },
    }


def _prices(tariff: Any) -> dict[str, int]:  # noqa: ANN401 - a billing.tariff.Tariff
    from dataclasses import asdict

    return asdict(tariff)


def _raw(address: Any) -> str:  # noqa: ANN401 - pytoniq-core is untyped
    text: str = address.to_str(is_user_friendly=False)
    return text
