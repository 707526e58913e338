"""The part of `chrysalis channel` that signs off the chain: vouchers, redeeming them, closing together.

Exit codes: chrysalis/money.py. Redemption and close are messages that the channel itself pays for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis.channel_state import TON_FIELDS, ChannelAddress, read_state, state_fields
from chrysalis.key_access import PasswordFile
from chrysalis.money import AsJson, Key, Network, Session, Yes, confirm, exit_codes, say

if TYPE_CHECKING:
    from billing.ton.channel import ChannelTerms

Total = Annotated[str, typer.Argument(help="What the operator has in all, redeemed before or not; TON or nanotons.")]
NewFile = Annotated[Path, typer.Option("--to", help="New file for what is signed.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `chrysalis channel`."""
    for command in (voucher, redeem, offer_close, close):
        app.command()(command)


def voucher(
    channel: ChannelAddress,
    total: Total,
    key: Key,
    network: Network,
    to: NewFile,
    *,
    password_file: PasswordFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Client: sign that the operator may have `total` out of the channel in all. Nothing takes it back."""
    from billing.errors import ChannelRefusesError
    from billing.key_files import create_key_file
    from billing.money import format_ton, parse_amount
    from billing.voucher import Voucher, sign_voucher

    with exit_codes():
        session, value = Session.load(network, key, password_file, yes=yes, as_json=as_json), parse_amount(total)
        state = read_state(session.network, channel)
        _check_signer(session.public_key, state.terms, only_client=True)
        if not state.redeemed < value <= state.redeemed + state.payable:
            least, most = format_ton(state.redeemed), format_ton(state.redeemed + state.payable)
            raise ChannelRefusesError(f"a total here is above {least} TON, what was redeemed, and at most {most} TON")
        typer.echo(f"channel:  {channel}\ntotal:    {format_ton(value)} TON, for ever", err=True)
        confirm(yes, "Sign it?")
        private = session.signing_key()
        create_key_file(to, sign_voucher(Voucher(channel=state.terms.channel, total=value), private).hex().encode())
        typer.echo(f"{to}: whoever has it and the operator's key can redeem it", err=True)
        say({"signed": str(to), "channel": channel, "total": value}, as_json, ton=("total",))


def redeem(
    channel: ChannelAddress,
    file: Annotated[Path, typer.Argument(help="The voucher that the client signed.")],
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Operator: have the channel pay what a voucher promises beyond what was redeemed; the key is the operator's."""
    from billing.errors import MalformedRecordError
    from billing.money import format_ton
    from billing.ton.channel_desk import redeem as redeem_voucher
    from billing.voucher import verify_voucher
    from chrysalis.channel_close import read_small_file

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json)
        try:
            signed = bytes.fromhex(read_small_file(file))
        except ValueError as error:
            raise MalformedRecordError("voucher", f"{file} is not hexadecimal") from error
        state = read_state(session.network, channel)
        _check_signer(session.public_key, state.terms, only_operator=True)
        total = verify_voucher(signed, state.terms.client_key).total
        due = max(min(total - state.redeemed, state.payable), 0)
        typer.echo(f"to:       {state.terms.operator}\namount:   {format_ton(due)} TON less some 0.005 fees", err=True)
        confirm(yes)
        private = session.signing_key()
        after = session.run(
            lambda chain: redeem_voucher(chain, state.terms, signed, private),
            "waiting until the channel has paid",
        )
        say(state_fields(after), as_json, ton=TON_FIELDS)


def offer_close(
    channel: ChannelAddress,
    total: Total,
    key: Key,
    network: Network,
    to: NewFile,
    *,
    valid_s: Annotated[
        int, typer.Option(help="How long the offer binds whoever signs it.", min=60, max=604_800)
    ] = 3600,
    password_file: PasswordFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Either side: offer to close at once, the operator having `total` in all and the client the rest."""
    from billing.key_files import create_key_file
    from billing.money import format_ton, parse_amount
    from chrysalis.channel_close import CloseOffer

    with exit_codes():
        session, value = Session.load(network, key, password_file, yes=yes, as_json=as_json), parse_amount(total)
        state = read_state(session.network, channel)
        _check_signer(session.public_key, state.terms)
        typer.echo(f"channel:  {channel}\ntotal:    {format_ton(value)} TON to the operator; the rest back", err=True)
        confirm(yes, "Sign it?")
        offer = CloseOffer(channel=state.terms.channel, total=value, valid_until=state.proved_at + valid_s)
        private = session.signing_key()
        create_key_file(to, offer.sign(private).encode())
        document = {"signed": str(to), "channel": channel, "total": value, "valid_until": offer.valid_until}
        document |= {"next": f"the other side runs chrysalis channel close {channel} {to}"}
        say(document, as_json, ton=("total",))


def close(
    channel: ChannelAddress,
    file: Annotated[Path, typer.Argument(help="What the other side signed with `offer-close`.")],
    key: Key,
    network: Network,
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Either side: accept an offer, and close the channel at once and for good."""
    from billing.money import format_ton
    from billing.ton.channel_desk import close_together
    from chrysalis.channel_close import parse_offer, read_small_file

    with exit_codes():
        session = Session.load(network, key, password_file, yes=yes, as_json=as_json)
        state = read_state(session.network, channel)
        offer = parse_offer(read_small_file(file))
        _check_signer(session.public_key, state.terms)
        offer.check(state.terms, other_than=session.public_key)
        typer.echo(
            f"channel:  {channel}\ntotal:    {format_ton(offer.total)} TON to the operator; the rest back", err=True
        )
        confirm(yes, "Close it?")
        private = session.signing_key()
        after = session.run(
            lambda chain: close_together(chain, state.terms, offer.order(state.terms, private)),
            "waiting until the channel is closed",
        )
        say(state_fields(after), as_json, ton=TON_FIELDS)


def _check_signer(
    public_key: bytes, terms: "ChannelTerms", *, only_client: bool = False, only_operator: bool = False
) -> None:
    """Refuse a key that has no say in a channel, before its password is asked."""
    from billing.errors import ChannelRefusesError

    allowed = {} if only_operator else {terms.client_key: "client"}
    allowed |= {} if only_client else {terms.operator_key: "operator"}
    if public_key not in allowed:
        who = " or ".join(f"the {name}'s key is {key.hex()}" for key, name in allowed.items())
        raise ChannelRefusesError(f"{who}; this one is {public_key.hex()}")
