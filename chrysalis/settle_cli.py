"""`chrysalis settle`: the operator's treasury and batches from the books, without Ray.

The books have one writer: while the billing actor has them open, `status` and `run` refuse. Exit code 0: done; 1:
refused; 2: could not tell.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chrysalis import books_cli
from chrysalis.key_access import PasswordFile, open_signing_key
from chrysalis.money import progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from billing.books import Books
    from billing.ton.client import ChainClient
    from billing.ton.sender import Sender
    from billing.ton.settler import Settler
    from cluster.config import NetworkConfig

app = typer.Typer(help="The operator's treasury and settlement batches.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The operator's settings, operator.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

REFUSED, UNKNOWN = 1, 2


@app.command()
def address(config: Config, as_json: AsJson = False) -> None:
    """Print where the treasury lives: fund it, and write it into the registry as the operator's wallet."""
    with _exit_codes():
        settings = _load(config)
        _say({"sender": str(settings.settlement.sender), "address": _raw(_treasury(settings))}, as_json)


@app.command()
def status(config: Config, as_json: AsJson = False) -> None:
    """Print the treasury's float, who is owed what, and the batches under way. Changes nothing."""
    with _exit_codes(), progress("reading books and chain"):
        document = asyncio.run(_status(_load(config)))
    _say(document, as_json)


@app.command()
def run(
    config: Config,
    force: Annotated[bool, typer.Option("--force", help="Pay everyone who is owed anything.")] = False,
    timeout_s: Annotated[float, typer.Option(help="How long to see the batches through.", min=1)] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Finish open batches, pay who is due, and wait until the chain confirmed it."""
    with _exit_codes(), progress("paying who is due, until the chain confirmed it"):
        document = asyncio.run(_run(_load(config), force, timeout_s))
    _say(document, as_json)


@app.command()
def withdraw(
    config: Config,
    amount: Annotated[int, typer.Argument(help="Nanotons; at most what `settle status` calls movable.", min=1)],
    owner_key: Annotated[Path, typer.Option(help="Key file of the owner's wallet, docs/KEYS.md. Keep it elsewhere.")],
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Move money of the operator's own from the vault to its cold owner."""
    with _exit_codes():
        settings = _load(config)
        key = open_signing_key(owner_key, password_file, network_id=settings.chain.network_id)
        with progress("waiting until the vault has paid its owner"):
            document = asyncio.run(_withdraw(settings, amount, key))
    _say(document, as_json)


@app.command()
def move_books(
    config: Config, to: books_cli.To, to_password: books_cli.PasswordFile = None, as_json: AsJson = False
) -> None:
    """Move the books into a database or back into a file: copied, verified, the old ones retired. Stop billing."""
    with _exit_codes():
        document = books_cli.move(_load(config), to, to_password)
    _say(document, as_json)


async def _status(settings: "NetworkConfig") -> dict[str, Any]:
    async with _open(settings) as (chain, books, settler, treasury):
        state = await chain.account(treasury.address)
        report = settler.float_of(state)
        return {
            "address": _raw(treasury),
            "balance": report.balance,
            "books": books.ledger.treasury(),
            "surplus": report.surplus,
            "movable": report.movable,
            "refill": report.refill,
            "alarms": list(report.alarms()),
            "owed": sum(payable.amount for payable in books.ledger.payables()),
            "payees": len(books.ledger.payables()),
            "open": [f"{b.id} {b.state} {len(b.payouts)} payouts {b.amount}" for b in books.open_batches()],
        }


async def _run(settings: "NetworkConfig", force: bool, timeout_s: float) -> dict[str, Any]:
    from dataclasses import replace

    from billing.money import Nanotons

    policy = settings.settlement.policy
    if force:
        policy = replace(policy, threshold=Nanotons(1), dust=Nanotons(1))
    async with _open(settings) as (_, books, settler, _treasury):
        await settler.settle(timeout_s=timeout_s)
        planned = await settler.plan(policy)
        report = await settler.settle(timeout_s=timeout_s)
        batches = [books.batches()[batch.id] for batch in planned]
        paid = [payout for batch in batches for payout in batch.payouts if payout.state == "paid"]
        return {
            "batches": [f"{batch.id} {batch.state}" for batch in batches],
            "payouts": len(paid),
            "amount": sum(payout.amount for payout in paid),
            "difference": report.reconciliation.difference,
            "alarms": list(report.float.alarms()),
        }


async def _withdraw(settings: "NetworkConfig", amount: int, key: "Ed25519PrivateKey") -> dict[str, Any]:
    from billing.entries import OPERATOR_CAPITAL
    from billing.errors import InsufficientFundsError
    from billing.money import Nanotons
    from billing.ton.vault import CLAIM_VALUE, read_vault, withdraw_body
    from billing.ton.wallet import Transfer, Wallet, pay

    owner = Wallet(public_key=key.public_key().public_bytes_raw(), network_id=settings.chain.network_id)
    async with _open(settings) as (chain, books, settler, treasury):
        vault = await read_vault(chain, treasury.address)
        if vault.ownership.owner != owner.address:
            raise ValueError(f"the vault's owner is {vault.ownership.owner}, this key's wallet is {owner.address}")
        before = await chain.account(treasury.address)
        movable = min(books.ledger.balance(OPERATOR_CAPITAL), before.balance - settler.float_of(before).needed)
        if amount > movable:
            raise InsufficientFundsError("operator:capital", max(movable, 0), amount)
        order = Transfer(destination=treasury.address, amount=CLAIM_VALUE, body=withdraw_body(Nanotons(amount)))
        await pay(chain, owner, key, [order], now=datetime.now(UTC))
        after = await chain.wait_for(treasury.address, lambda state: state.last_lt > before.last_lt)
        return {"withdrawn": before.balance - after.balance, "to": owner.address.to_str(is_user_friendly=False)}


@asynccontextmanager
async def _open(settings: "NetworkConfig") -> "AsyncIterator[tuple[ChainClient, Books, Settler, Sender]]":
    from pytoniq_core import Address

    from billing.books import Books
    from billing.ton.client import ChainClient
    from billing.ton.settler import Settler
    from cluster.config import read_signing_key

    treasury = _treasury(settings)
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Books.open(settings.books) as books:
        async with await ChainClient.connect(settings.chain) as chain:
            settler = Settler(
                chain=chain,
                books=books,
                wallet=treasury,
                key=read_signing_key(settings.treasury_key),
                registry=Address(settings.registry),
                limits=settings.settlement.limits,
                acknowledged=settings.settlement.acknowledged,
            )
            yield chain, books, settler, treasury


def _load(path: Path) -> "NetworkConfig":
    from cluster.config import NetworkConfig

    return NetworkConfig.load(path)


def _treasury(settings: "NetworkConfig") -> "Sender":
    from cluster.config import read_signing_key
    from cluster.settlement_config import make_treasury

    return make_treasury(
        settings.settlement,
        public_key=read_signing_key(settings.treasury_key).public_key().public_bytes_raw(),
        network_id=settings.chain.network_id,
        state=settings.state,
    )


def _raw(treasury: "Sender") -> str:
    text: str = treasury.address.to_str(is_user_friendly=False)
    return text


@contextmanager
def _exit_codes() -> Iterator[None]:
    from billing.errors import BillingError, ChainError
    from cluster.errors import ConfigError

    try:
        yield
    except BillingError as error:
        typer.echo(f"refused: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from error
    except (ChainError, ConfigError, OSError, ValueError, TimeoutError) as error:
        typer.echo(f"could not tell: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(UNKNOWN) from error


def _say(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document))
        return
    for name, value in document.items():
        for line in value if isinstance(value, list) else [value]:
            typer.echo(f"{name}: {line}")
