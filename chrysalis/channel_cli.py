"""`chrysalis channel`: what a client orders of a payment channel. Exit codes: chrysalis/money.py.

A channel is named by its address: everything else is read from its proved state. The orders go through the client's
wallet; what is signed off the chain is in `chrysalis.channel_sign_cli`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis import channel_sign_cli
from chrysalis.channel_state import TON_FIELDS, ChannelAddress, channel_address, read_state, state_fields
from chrysalis.deposit_cli import plan_top_up
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
    from pytoniq_core import Cell

    from billing.ton.channel import ChannelState, ChannelStatus
    from billing.ton.client import ChainClient

app = typer.Typer(help="Payment channels: deposit once, pay by signed vouchers.", no_args_is_help=True)
channel_sign_cli.register(app)

Amount = Annotated[str, typer.Argument(help="TON, as 1.5; or nanotons, as 1500000000nano.")]


@app.command("open")
def open_(
    amount: Amount,
    key: Key,
    network: Network,
    delay_s: Annotated[int, typer.Option(help="From announcing a withdrawal until it can be taken, seconds.")] = 86_400,
    nonce: Annotated[int, typer.Option(help="Another number for each channel between the same two.", min=0)] = 1,
    *,
    operator: OperatorName = "",
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Deploy a channel to the operator that the registry names, with a deposit."""
    from billing.errors import WrongContractError
    from billing.money import Nanotons, format_ton, parse_amount
    from billing.ton.channel import (
        RENT_RESERVE,
        ChannelTerms,
        channel_account,
        channel_init,
        parse_channel,
    )
    from billing.ton.channel_desk import DEPLOY_FEE
    from billing.ton.proofs import AccountState, AccountStatus
    from billing.ton.registry import choose_operator, read_registry
    from billing.ton.wallet import Transfer

    opened: list[str] = []

    def arrived(account: AccountState) -> bool:
        return account.code is not None and parse_channel(account).payable >= value

    async def plan(chain: "ChainClient") -> Order:
        registry = await read_registry(chain, session.network.registry_address())
        chosen = choose_operator(registry.operators, operator).terms
        terms = ChannelTerms(
            network_id=session.network.chain.network_id,
            client=session.wallet,
            client_key=session.public_key,
            operator=chosen.wallet,
            operator_key=chosen.public_key,
            delay_s=delay_s,
            nonce=nonce,
        )
        account = await channel_account(chain, terms)
        if account.status not in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
            raise WrongContractError(str(account.address), f"it is {account.status.value}: top it up, or take --nonce")
        opened.append(account.address.to_str(is_user_friendly=False))
        first = Transfer(
            destination=account.address,
            amount=Nanotons(value + RENT_RESERVE + DEPLOY_FEE),
            state_init=channel_init(terms),
            bounce=False,
        )
        note = f"{format_ton(RENT_RESERVE)} TON of it are for rent, out of vouchers' reach, and come back in the end"
        return Order(transfers=(first,), purpose="open a payment channel", notes=(note,), arrived=arrived)

    with exit_codes():
        session, value = (
            Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline),
            parse_amount(amount),
        )
        done = carry_out(session, plan)
        say({"channel": opened[0]} | done, as_json)


@app.command()
def top_up(
    channel: ChannelAddress,
    amount: Amount,
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Add to a channel's deposit; anybody may."""
    from billing.money import parse_amount

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        address, value = channel_address(channel, session.network), parse_amount(amount)
        say(carry_out(session, lambda chain: plan_top_up(chain, address, value)), as_json)


@app.command()
def show(channel: ChannelAddress, network: Network, as_json: AsJson = False) -> None:
    """A channel's proved state: what was redeemed, what a voucher could get, what is announced."""
    with exit_codes():
        say(state_fields(read_state(NetworkFile.load(network), channel)), as_json, ton=TON_FIELDS)


@app.command()
def withdraw(
    channel: ChannelAddress,
    amount: Amount,
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Client: announce to take an amount out; `finish` does it after the channel's delay."""
    from billing.money import parse_amount
    from billing.ton.channel import ChannelStatus, announce_withdrawal_body

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _order(
            session,
            channel,
            announce_withdrawal_body(parse_amount(amount)),
            ends=(ChannelStatus.WITHDRAWING,),
            purpose="announce a withdrawal",
        )


@app.command()
def close_unilateral(
    channel: ChannelAddress,
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Client: announce to take everything out and close; `finish` does it after the channel's delay."""
    from billing.ton.channel import ChannelStatus, announce_close_body

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _order(session, channel, announce_close_body(), ends=(ChannelStatus.CLOSING,), purpose="announce to close")


@app.command()
def cancel(
    channel: ChannelAddress,
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Client: take nothing out after all."""
    from billing.ton.channel import ChannelStatus, cancel_body

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        _order(session, channel, cancel_body(), ends=(ChannelStatus.OPEN,), purpose="cancel what was announced")


@app.command()
def finish(
    channel: ChannelAddress,
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Client: take out what was announced, once the delay is over."""
    from billing.errors import ChannelRefusesError
    from billing.ton.channel import ChannelStatus, finish_body

    def ready(state: "ChannelState") -> None:
        if state.status not in {ChannelStatus.WITHDRAWING, ChannelStatus.CLOSING}:
            raise ChannelRefusesError("nothing was announced")
        if state.proved_at < state.due:
            raise ChannelRefusesError(f"the delay is over at unix time {state.due}, it is {state.proved_at}")

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json, offline=offline)
        ends = (ChannelStatus.OPEN, ChannelStatus.CLOSED)
        _order(session, channel, finish_body(), ends=ends, purpose="take out what was announced", check=ready)


def _order(
    session: Session,
    channel: str,
    body: "Cell",
    *,
    ends: "tuple[ChannelStatus, ...]",
    purpose: str,
    check: "Callable[[ChannelState], None] | None" = None,
) -> None:
    """Send one of the client's orders and print the channel's state once it shows the order's effect."""
    from billing.errors import ChannelRefusesError
    from billing.ton.channel import ORDER_VALUE, ChannelStatus, parse_channel
    from billing.ton.wallet import Transfer

    address = channel_address(channel, session.network)

    async def plan(chain: "ChainClient") -> Order:
        account = await chain.account(address)
        state = parse_channel(account)
        if state.terms.client != session.wallet:
            raise ChannelRefusesError(f"its client's wallet is {state.terms.client}, the key is of another one")
        if state.status is ChannelStatus.CLOSED:
            raise ChannelRefusesError("it is closed")
        if check is not None:
            check(state)
        return Order(
            transfers=(Transfer(destination=address, amount=ORDER_VALUE, body=body),),
            purpose=purpose,
            notes=("what the order's gas leaves stays yours, in the channel's deposit",),
            arrived=lambda later: later.last_lt > account.last_lt and parse_channel(later).status in ends,
        )

    done = carry_out(session, plan)
    if session.offline is None:
        done |= state_fields(read_state(session.network, channel))
    say(done, session.as_json, ton=TON_FIELDS)
