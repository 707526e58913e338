"""What client and operator sign about a payment channel. Layout: docs/protocol/channel.md.

A voucher is the client's promise: the operator may have taken so much out of this channel in all. It is cumulative, so
only the latest one counts, and bound to one network and one channel. The operator signs when it redeems, and both sign
to close at once. The channel's contract rebuilds these bytes from its own state and checks the same signatures.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.wire import SIGNATURE_SIZE, Reader, append_signature, check_signature, check_size, check_uint, split_signed

VOUCHER_TAG = b"chrysalis/1 voucher"
REDEMPTION_TAG = b"chrysalis/1 redemption"
CLOSE_TAG = b"chrysalis/1 channel close"
VOUCHER_SIZE = len(VOUCHER_TAG) + 4 + 32 + 8 + SIGNATURE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Which payment channel: the network's global id, and the account id of its contract in the basechain."""

    network_id: int
    account: bytes  # 32

    def __post_init__(self) -> None:
        check_network_id(self.network_id)
        check_size("account", self.account, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """How much the operator may have taken out of a channel in all, up to now."""

    channel: Channel
    total: Nanotons

    def __post_init__(self) -> None:
        check_nanotons(self.total, "total")


def check_network_id(network_id: int) -> None:
    """Raise ValueError unless `network_id` is an int of 32 bits, signed."""
    if type(network_id) is not int or not -(1 << 31) <= network_id < 1 << 31:
        raise ValueError(f"network_id must be a signed int of 32 bits, got {network_id!r}")


def encode_voucher(voucher: Voucher) -> bytes:
    """Return the bytes that the client signs."""
    return _record(VOUCHER_TAG, voucher.channel, voucher.total.to_bytes(8, "big"))


def sign_voucher(voucher: Voucher, key: Ed25519PrivateKey) -> bytes:
    """Return the voucher with the client's signature, `VOUCHER_SIZE` bytes."""
    return append_signature(encode_voucher(voucher), key)


def verify_voucher(data: bytes, client_key: bytes) -> Voucher:
    """Return the voucher that the client signed. Whether it is for this channel, and covered, is the caller's to check.

    Args:
        data: the signed voucher, `VOUCHER_SIZE` bytes.
        client_key: Ed25519 public key in the channel's terms, 32 bytes.

    Raises:
        MalformedRecordError: the bytes are not a voucher.
        BadSignatureError: another key signed, or a byte was changed.
    """
    body, signature = split_signed(data, "voucher", size_max=VOUCHER_SIZE)
    reader = Reader(body, "voucher")
    reader.expect(VOUCHER_TAG)
    network_id = int.from_bytes(reader.take(4), "big", signed=True)
    account, total = reader.take(32), reader.take_int(8)
    reader.finish()
    try:
        voucher = Voucher(channel=Channel(network_id=network_id, account=account), total=Nanotons(total))
    except ValueError as error:
        raise MalformedRecordError("voucher", str(error)) from error
    check_signature(body, signature, client_key, "voucher")
    return voucher


def redemption_bytes(channel: Channel, *, redeemed: Nanotons, total: Nanotons, valid_until: int) -> bytes:
    """What the operator signs to redeem a voucher of `total` once, from a channel that has paid `redeemed` so far.

    Args:
        channel: which one.
        redeemed: what its contract says it has paid.
        total: the voucher's.
        valid_until: unix seconds from which on the contract refuses it.
    """
    totals = check_nanotons(redeemed, "redeemed").to_bytes(8, "big") + check_nanotons(total, "total").to_bytes(8, "big")
    return _record(REDEMPTION_TAG, channel, totals + _seconds(valid_until))


def close_bytes(channel: Channel, *, total: Nanotons, valid_until: int) -> bytes:
    """What both sign to close at once: the operator has `total` in all, the client gets the rest.

    Who has signed must treat the split as final until `valid_until`, unix seconds.
    """
    return _record(CLOSE_TAG, channel, check_nanotons(total, "total").to_bytes(8, "big") + _seconds(valid_until))


def _record(tag: bytes, channel: Channel, rest: bytes) -> bytes:
    return tag + channel.network_id.to_bytes(4, "big", signed=True) + channel.account + rest


def _seconds(valid_until: int) -> bytes:
    check_uint("valid_until", valid_until, 32)
    return valid_until.to_bytes(4, "big")
