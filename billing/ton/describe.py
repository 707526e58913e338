"""What a transfer's body says, in words for whoever is about to sign it. Pure."""

from __future__ import annotations

from pytoniq_core import Cell, Slice, begin_cell

from billing.ton import channel, owner, registry, vault
from billing.ton.deposits import DEPOSIT_BITS, OP_DEPOSIT

__all__ = ["comment_body", "describe_body"]

COMMENT_MAX = 120  # bytes of UTF-8: what fits into one cell beside the operation
_OPERATIONS = {
    channel.OP_ANNOUNCE_WITHDRAWAL: "payment channel: announce a withdrawal",
    channel.OP_ANNOUNCE_CLOSE: "payment channel: announce to close",
    channel.OP_CANCEL: "payment channel: cancel what was announced",
    channel.OP_FINISH: "payment channel: take out what was announced",
    vault.OP_CLAIM: "vault: claim",
    vault.OP_PROPOSE_KEY: "vault: propose hot key",
    vault.OP_ADOPT_KEY: "vault: adopt the proposed hot key",
    vault.OP_REVOKE_KEY: "vault: revoke the hot key",
    vault.OP_WITHDRAW: "vault: withdraw the operator's own money",
    owner.OP_PROPOSE_OWNER: "contract: propose owner",
    owner.OP_ACCEPT_OWNER: "contract: become its owner",
    owner.OP_CANCEL_OWNER: "contract: take the proposed owner back",
    registry.OP_SET_MEASUREMENT: "registry: allow a measurement",
    registry.OP_REMOVE_MEASUREMENT: "registry: remove a measurement",
    registry.OP_SET_RIM: "registry: allow a reference manifest",
    registry.OP_REMOVE_RIM: "registry: remove a reference manifest",
    registry.OP_SET_MODEL: "registry: set a model's terms",
    registry.OP_REMOVE_MODEL: "registry: remove a model",
    registry.OP_SET_OPERATOR: "registry: set the operator",
}
ADDRESS_BITS = 267


def comment_body(text: str) -> Cell:
    """The body of a transfer with a comment, as every wallet shows it: 32 zero bits, then UTF-8.

    Raises:
        ValueError: longer than 120 bytes.
    """
    data = text.encode()
    if len(data) > COMMENT_MAX:
        raise ValueError(f"a comment has at most {COMMENT_MAX} bytes, this one {len(data)}")
    return begin_cell().store_uint(0, 32).store_bytes(data).end_cell()


def describe_body(body: Cell | None) -> str:
    """The body in one line; one of an unknown kind is named by operation, size and hash."""
    if body is None or not (len(body.bits) or body.refs):
        return "a plain transfer"
    s = body.begin_parse()
    operation = s.load_uint(32) if len(body.bits) >= 32 else None
    if operation == 0 and not body.refs and len(body.bits) % 8 == 0:
        text = bytes(s.load_bytes(s.remaining_bits // 8)).decode(errors="replace")
        return f"comment: {''.join(letter if letter.isprintable() else '?' for letter in text)}"
    if operation == OP_DEPOSIT and len(body.bits) == DEPOSIT_BITS and not body.refs:
        return f"deposit for account {s.load_bytes(32).hex()}"
    if operation in _OPERATIONS:
        return _OPERATIONS[operation] + _argument(operation, s)
    kind = "no operation" if operation is None else f"operation {operation:08x}"
    return f"unknown contents ({kind}, {len(body.bits)} bits, hash {body.hash.hex()})"


def _argument(operation: int, s: Slice) -> str:
    """What an order is about, where it decides who gets power or money."""
    if operation == vault.OP_PROPOSE_KEY and s.remaining_bits == 64 + 256:
        return f" {s.skip_bits(64).load_bytes(32).hex()}"
    if operation == channel.OP_ANNOUNCE_WITHDRAWAL and s.remaining_bits == 64 + 64:
        return f" of {s.skip_bits(64).load_uint(64)} nanoton"
    if operation == owner.OP_PROPOSE_OWNER and s.remaining_bits == 64 + ADDRESS_BITS:
        return f" {s.skip_bits(64).load_address().to_str(is_user_friendly=False)}"
    return ""
