"""Addresses as people write them, read strictly. Source: TON documentation, "Smart contract addresses" (TEP-2).

Raw form: workchain, colon, 64 hexadecimal digits. User-friendly form: 36 bytes in base64 or base64url: a tag with the
flags "bounceable" and "testnet only", the workchain, the account id, and a CRC-16 over all of it.
"""

from __future__ import annotations

import base64
import re
from binascii import crc_hqx
from dataclasses import dataclass

from pytoniq_core import Address

from billing.errors import BadAddressError
from billing.ton.client import MAINNET

__all__ = ["GivenAddress", "format_address", "parse_address"]

BOUNCEABLE, NON_BOUNCEABLE, TEST_ONLY = 0x11, 0x51, 0x80
BASECHAIN = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAddress:
    """An address, and what its writer said about bouncing; None when the form cannot say it."""

    address: Address
    bounceable: bool | None


def parse_address(text: str, *, network_id: int) -> GivenAddress:
    """The basechain address in `text`, for use on one network.

    Raises:
        BadAddressError: malformed, mistyped, in another workchain, or for test networks only on the mainnet.
    """
    if ":" in text:
        return GivenAddress(address=_raw(text), bounceable=None)
    if not re.fullmatch(r"[A-Za-z0-9+/]{48}|[A-Za-z0-9_-]{48}", text):
        raise BadAddressError(text, "write 48 letters of base64, or 0:<64 hexadecimal digits>")
    data = base64.b64decode(text, altchars=b"-_" if re.search(r"[-_]", text) else b"+/")
    if crc_hqx(data[:34], 0) != int.from_bytes(data[34:], "big"):
        raise BadAddressError(text, "its checksum does not hold, a letter is wrong: copy it again")
    tag, test_only = data[0] & ~TEST_ONLY, bool(data[0] & TEST_ONLY)
    if tag not in {BOUNCEABLE, NON_BOUNCEABLE}:
        raise BadAddressError(text, f"its first byte is {data[0]:02x}, no kind of address that exists")
    if test_only and network_id == MAINNET:
        raise BadAddressError(
            text, "it is for test networks only, and this is the mainnet: ask the receiver for another"
        )
    workchain = int.from_bytes(data[1:2], "big", signed=True)
    return GivenAddress(address=_in_basechain(text, workchain, data[2:34]), bounceable=tag == BOUNCEABLE)


def format_address(address: Address, *, network_id: int, bounceable: bool) -> str:
    """The user-friendly form in base64url; on any network but the mainnet it says so."""
    text: str = address.to_str(is_bounceable=bounceable, is_test_only=network_id != MAINNET)
    return text


def _raw(text: str) -> Address:
    found = re.fullmatch(r"(-?[0-9]{1,3}):([0-9a-fA-F]{64})", text)
    if not found:
        raise BadAddressError(text, "the raw form is a workchain, a colon and 64 hexadecimal digits")
    return _in_basechain(text, int(found[1]), bytes.fromhex(found[2]))


def _in_basechain(text: str, workchain: int, account: bytes) -> Address:
    if workchain != BASECHAIN:
        raise BadAddressError(text, f"it is in workchain {workchain}; money goes to the basechain, {BASECHAIN}, only")
    return Address((workchain, account))
