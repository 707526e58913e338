"""A payment channel as the commands name it, by its address, and as they show it."""

from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis.money import run_on_chain
from chrysalis.network_file import NetworkFile

if TYPE_CHECKING:
    from pytoniq_core import Address

    from billing.ton.channel import ChannelState

ChannelAddress = Annotated[str, typer.Argument(help="The channel's address.")]
TON_FIELDS = ("sent", "fee", "redeemed", "payable", "balance", "withdrawing")


def read_state(network: NetworkFile, channel: str) -> "ChannelState":
    """A channel's proved state.

    Raises:
        WrongContractError: there is no channel, or it is for another network.
    """
    from billing.ton.channel import parse_channel
    from billing.ton.contract import check_network

    address = channel_address(channel, network)
    account = run_on_chain(network, lambda chain: chain.account(address), waiting="asking the chain")
    state = parse_channel(account)
    check_network(address, state.terms.network_id, network.chain.network_id)
    return state


def channel_address(channel: str, network: NetworkFile) -> "Address":
    """The address in an argument."""
    from billing.ton.address import parse_address

    return parse_address(channel, network_id=network.chain.network_id).address


def state_fields(state: "ChannelState") -> dict[str, object]:
    """A state for output; amounts are nanotons."""
    return {
        "channel": state.address.to_str(is_user_friendly=False),
        "status": state.status.name.lower(),
        "redeemed": state.redeemed,
        "payable": state.payable,
        "balance": state.balance,
        "withdrawing": state.amount,
        "due": state.due,
        "delay_s": state.terms.delay_s,
        "client": state.terms.client.to_str(is_user_friendly=False),
        "operator": state.terms.operator.to_str(is_user_friendly=False),
        "block": state.block,
    }
