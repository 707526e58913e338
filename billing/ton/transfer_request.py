"""A transfer as a file: planned where the chain can be read, signed where the key is, sent from where the network is.

The file is JSON and names everything the signature covers, so that whoever signs or sends it sees what it does, and a
signed file can be checked without trusting anybody. Layout: docs/KEYS.md. Pure.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pytoniq_core import Cell
from pytoniq_core.tlb.account import StateInit

from billing.errors import BadRequestFileError, BillingError
from billing.money import Nanotons, check_nanotons
from billing.ton.address import parse_address
from billing.ton.cells import MESSAGE_BYTES_MAX
from billing.ton.wallet import TRANSFERS_MAX, Transfer, Wallet
from billing.voucher import check_network_id
from billing.wire import SIGNATURE_SIZE, check_size, check_uint

__all__ = ["REQUEST_SIZE_MAX", "TransferRequest", "parse_request"]

VERSION = 1
REQUEST_SIZE_MAX = 4 * MESSAGE_BYTES_MAX
PURPOSE_MAX = 200  # letters
_UNSIGNED = bytes(SIGNATURE_SIZE)
_FIELDS = {
    "chrysalis_transfer": int,
    "network_id": int,
    "public_key": str,
    "seqno": int,
    "deploy": bool,
    "valid_until": int,
    "purpose": str,
    "transfers": list,
    "signature": str,
}
_TRANSFER_FIELDS = {"to": str, "amount": int, "bounce": bool, "body": str, "state_init": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """One message of one wallet. `signature` is 64 bytes, or empty as long as nobody signed."""

    network_id: int
    public_key: bytes  # of the wallet, 32
    seqno: int  # the wallet's number that this message must carry: it takes one message for each
    deploy: bool  # the wallet's first message carries its code
    valid_until: int  # unix seconds after which the wallet refuses it
    purpose: str  # in words, by whoever planned it; nothing is decided by it
    transfers: tuple[Transfer, ...]
    signature: bytes = b""

    def __post_init__(self) -> None:
        check_network_id(self.network_id)
        check_size("public_key", self.public_key, 32)
        check_uint("seqno", self.seqno, 32)
        check_uint("valid_until", self.valid_until, 32)
        if self.signature:
            check_size("signature", self.signature, SIGNATURE_SIZE)
        if not 0 < len(self.transfers) <= TRANSFERS_MAX:
            raise ValueError(f"a message makes 1 to {TRANSFERS_MAX} transfers, got {len(self.transfers)}")
        if len(self.purpose) > PURPOSE_MAX or not self.purpose.isprintable():
            raise ValueError(f"purpose is at most {PURPOSE_MAX} printable letters")
        check_nanotons(self.amount, "the sum of the transfers")

    @property
    def wallet(self) -> Wallet:
        """Who pays."""
        return Wallet(public_key=self.public_key, network_id=self.network_id)

    @property
    def amount(self) -> Nanotons:
        """What leaves the wallet, without fees."""
        return Nanotons(sum(transfer.amount for transfer in self.transfers))

    def message(self) -> bytes:
        """The external message as a bag of cells; with 64 zero bytes for a signature that is not there yet."""
        wallet = self.wallet
        order = wallet.order(self.transfers, seqno=self.seqno, valid_until=self.valid_until)
        return wallet.external(order, self.signature or _UNSIGNED, deploy=self.deploy)

    @property
    def message_hash(self) -> bytes:
        """What the chain will know the signed message by, 32 bytes."""
        return bytes(Cell.one_from_boc(self.message()).hash)

    def sign(self, key: Ed25519PrivateKey) -> TransferRequest:
        """The same, signed.

        Raises:
            BadRequestFileError: the key is of another wallet.
        """
        public_key = key.public_key().public_bytes_raw()
        if public_key != self.public_key:
            raise BadRequestFileError(f"it is for the wallet of {self.public_key.hex()}, the key is {public_key.hex()}")
        return replace(self, signature=key.sign(self._signed_hash()))

    def check_signed(self) -> None:
        """Check that the wallet's key signed it.

        Raises:
            BadRequestFileError: nobody did, or something was changed since.
        """
        if not self.signature:
            raise BadRequestFileError("nobody signed it: run chrysalis wallet sign where the key is")
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.signature, self._signed_hash())
        except (InvalidSignature, ValueError):
            raise BadRequestFileError("its signature is not over what it says: it was changed, sign it again") from None

    def encode(self) -> bytes:
        """The file's content."""
        document = {
            "chrysalis_transfer": VERSION,
            "network_id": self.network_id,
            "public_key": self.public_key.hex(),
            "seqno": self.seqno,
            "deploy": self.deploy,
            "valid_until": self.valid_until,
            "purpose": self.purpose,
            "transfers": [_transfer_fields(transfer) for transfer in self.transfers],
            "signature": self.signature.hex(),
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    def _signed_hash(self) -> bytes:
        order = self.wallet.order(self.transfers, seqno=self.seqno, valid_until=self.valid_until)
        return bytes(order.end_cell().hash)


def parse_request(data: bytes) -> TransferRequest:
    """The request in a file's content. Whether it is signed, in time and for this network is not looked at.

    Raises:
        BadRequestFileError: malformed.
    """
    if len(data) > REQUEST_SIZE_MAX:
        raise BadRequestFileError(f"{len(data)} bytes, at most {REQUEST_SIZE_MAX} are read")
    try:
        return _parse(data)
    except BadRequestFileError:
        raise
    except (ValueError, RecursionError, BillingError) as error:
        raise BadRequestFileError(str(error)) from error


def _parse(data: bytes) -> TransferRequest:
    values = _check_fields(json.loads(data), "the file", _FIELDS)
    if values["chrysalis_transfer"] != VERSION:
        raise BadRequestFileError(f"version {values['chrysalis_transfer']}, this program reads {VERSION}")
    network_id = values["network_id"]
    request = TransferRequest(
        network_id=network_id,
        public_key=_hex(values["public_key"]),
        seqno=values["seqno"],
        deploy=values["deploy"],
        valid_until=values["valid_until"],
        purpose=values["purpose"],
        transfers=tuple(_parse_transfer(fields, network_id) for fields in values["transfers"]),
        signature=_hex(values["signature"]),
    )
    if request.encode() != _same_form(data):
        raise BadRequestFileError("it is not in the form that this program writes")
    return request


def _same_form(data: bytes) -> bytes:
    """The content however a mail program broke its lines; anything else must be as written."""
    return json.dumps(json.loads(data), indent=1).encode() + b"\n"


def _transfer_fields(transfer: Transfer) -> dict[str, Any]:
    init = transfer.state_init
    return {
        "to": transfer.destination.to_str(is_user_friendly=False),
        "amount": transfer.amount,
        "bounce": transfer.bounce,
        "body": _encode_cell(transfer.body),
        "state_init": _encode_cell(init.serialize() if init is not None else None),
    }


def _parse_transfer(fields: object, network_id: int) -> Transfer:
    values = _check_fields(fields, "a transfer", _TRANSFER_FIELDS)
    init = _parse_cell(values["state_init"])
    return Transfer(
        destination=parse_address(values["to"], network_id=network_id).address,
        amount=check_nanotons(values["amount"], "amount"),
        bounce=values["bounce"],
        body=_parse_cell(values["body"]),
        state_init=_parse_init(init) if init is not None else None,
    )


def _encode_cell(cell: Cell | None) -> str:
    return "" if cell is None else base64.b64encode(cell.to_boc()).decode()


def _parse_cell(text: str) -> Cell | None:
    if not text:
        return None
    try:
        return Cell.one_from_boc(base64.b64decode(text, validate=True))
    except Exception as error:  # pytoniq-core raises bare Exception on malformed cells
        raise BadRequestFileError("a cell in it is damaged") from error


def _parse_init(cell: Cell) -> StateInit:
    try:
        return StateInit.deserialize(cell.begin_parse())
    except Exception as error:  # as above
        raise BadRequestFileError("a contract's code and data in it are damaged") from error


def _check_fields(values: object, what: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != set(kinds):
        raise BadRequestFileError(f"{what} has exactly the fields {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise BadRequestFileError(f"{name} must be {kind.__name__}")
    return values


def _hex(text: str) -> bytes:
    if not re.fullmatch(r"([0-9a-f]{2}){0,64}", text):
        raise BadRequestFileError("a key or signature in it is not hexadecimal")
    return bytes.fromhex(text)
