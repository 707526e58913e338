"""`chrysalis deposit`: prepay an operator, in its treasury or in a payment channel. Exit codes: chrysalis/money.py."""

from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis.key_access import PasswordFile
from chrysalis.money import (
    AsJson,
    Key,
    Network,
    Offline,
    OperatorName,
    Order,
    Session,
    Yes,
    carry_out,
    exit_codes,
    say,
)
from chrysalis.network_file import NetworkFile

if TYPE_CHECKING:
    from pytoniq_core import Address

    from billing.money import Nanotons
    from billing.ton.client import ChainClient


def deposit(
    amount: Annotated[str, typer.Argument(help="TON, as 1.5; or nanotons, as 1500000000nano.")],
    key: Key,
    network: Network,
    account: Annotated[
        str, typer.Option(help="Account to credit: public key, 64 hex digits (default: the wallet's own key).")
    ] = "",
    channel: Annotated[str, typer.Option(help="Into this payment channel instead of the operator's treasury.")] = "",
    *,
    operator: OperatorName = "",
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Prepay: a transfer to the treasury that the registry names, credited to an account; or into a payment channel."""
    from billing.money import parse_amount
    from billing.ton.address import parse_address

    if account and channel:
        raise typer.BadParameter("--account and --channel exclude each other: a channel has its own client")
    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        net, value = session.network, parse_amount(amount)
        if channel:
            address = parse_address(channel, network_id=net.chain.network_id).address
            say(carry_out(session, lambda chain: plan_top_up(chain, address, value)), as_json)
            return
        credited = _parse_account(account) if account else session.public_key
        say(carry_out(session, lambda chain: _plan_deposit(chain, net, operator, credited, value)), as_json)


async def plan_top_up(chain: "ChainClient", address: "Address", amount: "Nanotons") -> Order:
    """A transfer into a payment channel that is proved to be one, and open."""
    from billing.errors import ChannelRefusesError
    from billing.ton.channel import ChannelStatus, parse_channel
    from billing.ton.wallet import Transfer

    state = parse_channel(await chain.account(address))
    if state.status is ChannelStatus.CLOSED:
        raise ChannelRefusesError("it is closed")
    return Order(
        transfers=(Transfer(destination=address, amount=amount),),
        purpose="top up a payment channel",
        arrived=lambda later: parse_channel(later).balance > state.balance,
    )


async def _plan_deposit(
    chain: "ChainClient", network: NetworkFile, operator: str, account: bytes, amount: "Nanotons"
) -> Order:
    from billing.ton.deposits import deposit_transfer
    from billing.ton.registry import choose_operator, read_registry

    registry = await read_registry(chain, network.registry_address())
    wallet = choose_operator(registry.operators, operator).terms.wallet
    return Order(
        transfers=(deposit_transfer(wallet, account, amount),),
        purpose="deposit in the operator's treasury",
        notes=("a deposit in the operator's treasury is spent by leases; no message takes it back",),
    )


def _parse_account(text: str) -> bytes:
    import re

    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter("--account is a public key of 64 hex digits")
    return bytes.fromhex(text)
