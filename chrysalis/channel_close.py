"""The offer to close a payment channel at once, as a file: one side signs it, the other accepts."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import ChannelRefusesError, MalformedRecordError
from billing.money import Nanotons, check_nanotons
from billing.ton.channel import ChannelTerms, SignedOrder
from billing.voucher import Channel, close_bytes
from billing.wire import SIGNATURE_SIZE, check_signature

FILE_SIZE_MAX = 4096
_FIELDS = {"chrysalis_close": int, "network_id": int, "channel": str, "total": int, "valid_until": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOffer:
    """What one side signed: the operator has `total` nanotons in all, the client the rest, until `valid_until`."""

    channel: Channel
    total: Nanotons
    valid_until: int  # unix seconds
    signature: bytes = b""  # 64, by the client or the operator

    def sign(self, key: Ed25519PrivateKey) -> "CloseOffer":
        """The same, signed."""
        return replace(self, signature=key.sign(self._bytes()))

    def check(self, terms: ChannelTerms, *, other_than: bytes) -> None:
        """Check that the other side of this channel signed it.

        Raises:
            ChannelRefusesError: it is for another channel.
            BadSignatureError: the other side did not sign this.
        """
        if self.channel != terms.channel:
            raise ChannelRefusesError(f"the offer is for channel {self.channel.account.hex()}")
        other = terms.operator_key if other_than == terms.client_key else terms.client_key
        check_signature(self._bytes(), self.signature, other, "offer to close")

    def order(self, terms: ChannelTerms, key: Ed25519PrivateKey) -> SignedOrder:
        """The order with both signatures; `key` is of the side that accepts."""
        mine, theirs = key.sign(self._bytes()), self.signature
        is_client = key.public_key().public_bytes_raw() == terms.client_key
        return SignedOrder(
            total=self.total,
            valid_until=self.valid_until,
            client_signature=mine if is_client else theirs,
            operator_signature=theirs if is_client else mine,
        )

    def encode(self) -> bytes:
        """The file's content, JSON."""
        document = {
            "chrysalis_close": 1,
            "network_id": self.channel.network_id,
            "channel": self.channel.account.hex(),
            "total": self.total,
            "valid_until": self.valid_until,
            "signature": self.signature.hex(),
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    def _bytes(self) -> bytes:
        return close_bytes(self.channel, total=self.total, valid_until=self.valid_until)


def parse_offer(text: str) -> CloseOffer:
    """The offer in a file's content.

    Raises:
        MalformedRecordError: it is none.
    """
    try:
        values = json.loads(text)
        kinds = _FIELDS | {"signature": str}
        if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != kinds:
            raise MalformedRecordError("offer to close", f"it has exactly the fields {', '.join(kinds)}")
        if values["chrysalis_close"] != 1 or not re.fullmatch(f"[0-9a-f]{{{2 * SIGNATURE_SIZE}}}", values["signature"]):
            raise MalformedRecordError("offer to close", "another version, or no signature")
        return CloseOffer(
            channel=Channel(network_id=values["network_id"], account=bytes.fromhex(values["channel"])),
            total=check_nanotons(values["total"], "total"),
            valid_until=values["valid_until"],
            signature=bytes.fromhex(values["signature"]),
        )
    except (ValueError, RecursionError) as error:
        raise MalformedRecordError("offer to close", str(error)) from error


def read_small_file(path: Path) -> str:
    """The text of a small file.

    Raises:
        MalformedRecordError: it cannot be read, is no text, or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
        text = data.decode("ascii").strip()
    except OSError as error:
        raise MalformedRecordError("file", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise MalformedRecordError("file", f"{path} is not text") from None
    if len(data) > FILE_SIZE_MAX:
        raise MalformedRecordError("file", f"{path} is larger than {FILE_SIZE_MAX} bytes")
    return text
