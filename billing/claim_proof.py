"""A claim proof: what one payee may take from a vault, and the path that shows it. Good without the operator.

JSON, one object: network_id, vault ("0:<hex>"), seqno, root, payee ("0:<hex>"), index, entitled, path (list of
"l<hex>" or "r<hex>": on which side the sibling is, and its hash). Whoever holds it can claim as long as `root` is the
vault's root in force.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from billing.entitlements import PAYEES_MAX, Entitlements, PathStep, climb
from billing.errors import MalformedRecordError, NothingToClaimError
from billing.wire import check_size, check_uint

__all__ = ["PROOF_BYTES_MAX", "ClaimProof", "format_address", "parse_address", "prove_claim"]

PROOF_BYTES_MAX = 8 << 10  # a path of 20 steps has 1.5 KB
_STEPS_MAX = PAYEES_MAX.bit_length()
_NUMBERS = ("network_id", "seqno", "index", "entitled")
_FIELDS = {*_NUMBERS, "vault", "root", "payee", "path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimProof:
    """One leaf of a root and its path. Constructed only if the path leads from the leaf to the root."""

    network_id: int
    vault: bytes  # 33
    seqno: int  # of the vault when this was its root
    root: bytes  # 32
    payee: bytes  # 33
    index: int  # of the leaf
    entitled: int  # nanotons
    path: tuple[PathStep, ...]

    def __post_init__(self) -> None:
        check_size("vault", self.vault, 33)
        check_size("root", self.root, 32)
        check_size("payee", self.payee, 33)
        check_uint("seqno", self.seqno, 32)
        check_uint("index", self.index, 32)
        check_uint("entitled", self.entitled, 63)
        if not self.entitled or len(self.path) > _STEPS_MAX:
            raise ValueError(f"a claim is of more than 0 nanoton, and its path has at most {_STEPS_MAX} steps")
        if climb(self.payee, self.index, self.entitled, self.path) != self.root:
            raise ValueError("the path does not lead from this payee's leaf to the root")

    def to_json(self) -> str:
        """The proof as JSON."""
        return json.dumps(
            {
                "network_id": self.network_id,
                "vault": format_address(self.vault),
                "seqno": self.seqno,
                "root": self.root.hex(),
                "payee": format_address(self.payee),
                "index": self.index,
                "entitled": self.entitled,
                "path": [("l" if left else "r") + sibling.hex() for left, sibling in self.path],
            },
            indent=1,
        )

    @classmethod
    def parse(cls, text: str) -> ClaimProof:
        """The proof in `to_json`'s text.

        Raises:
            MalformedRecordError: it is none, or its path does not lead to its root.
        """
        if len(text) > PROOF_BYTES_MAX:
            raise MalformedRecordError("claim proof", f"{len(text)} characters, at most {PROOF_BYTES_MAX} are read")
        try:
            fields = _check_fields(json.loads(text))
            return cls(
                **{name: fields[name] for name in _NUMBERS},
                vault=parse_address(fields["vault"]),
                root=bytes.fromhex(fields["root"]),
                payee=parse_address(fields["payee"]),
                path=tuple(_parse_step(step) for step in fields["path"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MalformedRecordError("claim proof", str(error)) from error


def prove_claim(entitlements: Entitlements, payee: bytes, *, network_id: int, vault: bytes, seqno: int) -> ClaimProof:
    """The proof of one payee under the root of `entitlements`.

    Raises:
        NothingToClaimError: the payee is entitled to nothing.
    """
    if payee not in entitlements.amounts:
        raise NothingToClaimError(format_address(payee), "what was earned is paid out, in a batch, or not anchored yet")
    return ClaimProof(
        network_id=network_id,
        vault=vault,
        seqno=seqno,
        root=entitlements.root,
        payee=payee,
        index=entitlements.index(payee),
        entitled=entitlements.amounts[payee],
        path=entitlements.path(payee),
    )


def format_address(address: bytes) -> str:
    """An address of 33 bytes as workchain:hex."""
    return f"{int.from_bytes(address[:1], 'big', signed=True)}:{address[1:].hex()}"


def parse_address(text: str) -> bytes:
    """The 33 bytes of an address written as workchain:hex.

    Raises:
        ValueError: it is none.
    """
    workchain, colon, account = text.partition(":")
    if not colon or len(account) != 64 or workchain not in {"0", "-1"}:
        raise ValueError("an address is written as 0:<64 hexadecimal digits>")
    return int(workchain).to_bytes(1, "big", signed=True) + bytes.fromhex(account)


def _check_fields(fields: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise ValueError(f"it must be an object of {', '.join(sorted(_FIELDS))}")
    if any(type(fields[name]) is not int for name in _NUMBERS):
        raise ValueError(f"{', '.join(_NUMBERS)} must be whole numbers")
    return fields


def _parse_step(step: str) -> PathStep:
    side, sibling = step[:1], bytes.fromhex(step[1:])
    if side not in {"l", "r"} or len(sibling) != 32:
        raise ValueError("a step is l or r and 32 bytes in hexadecimal")
    return side == "l", sibling
