"""The two kinds of journal record, entries and batches, as bytes and back."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from billing.batch import Anchor, Batch, BatchState, Payout, PayoutState, SignedMessage
from billing.entries import Entry, encode_entry, parse_entry
from billing.errors import BillingError, MalformedRecordError

Record: TypeAlias = Entry | Batch
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


def encode_record(record: Record) -> bytes:
    """Return the record as canonical JSON."""
    fields = {"entry": encode_entry(record)} if isinstance(record, Entry) else {"batch": _encode_batch(record)}
    return _encode(fields).encode()


def parse_record(data: bytes) -> Record:
    """Return the record of `encode_record`'s bytes.

    Raises:
        MalformedRecordError: the bytes are not a record.
    """
    try:
        ((kind, fields),) = json.loads(data).items()
        if kind == "entry":
            return parse_entry(fields)
        if kind == "batch":
            return _parse_batch(fields)
    except BillingError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MalformedRecordError("journal record", str(error)) from error
    raise MalformedRecordError("journal record", f"unknown kind {kind[:32]!r}")


def _encode_batch(batch: Batch) -> dict[str, Any]:
    message, anchor = batch.message, batch.anchor
    return {
        "sequence": batch.sequence,
        "payouts": [[p.payee.hex(), p.amount, p.state.value] for p in batch.payouts],
        "planned_at": batch.planned_at,
        "state": batch.state.value,
        "anchor": anchor and [anchor.epoch, anchor.root.hex()],
        "message": message
        and {
            "query_id": message.query_id,
            "created_at": message.created_at,
            "timeout_s": message.timeout_s,
            "boc": message.boc.hex(),
            "message_hash": message.message_hash.hex(),
            "after_lt": message.after_lt,
        },
        "sent_at": batch.sent_at,
        "transaction": batch.transaction.hex(),
    }


def _parse_batch(fields: dict[str, Any]) -> Batch:
    message, anchor = fields["message"], fields["anchor"]
    return Batch(
        sequence=fields["sequence"],
        payouts=tuple(
            Payout(payee=bytes.fromhex(payee), amount=amount, state=PayoutState(state))
            for payee, amount, state in fields["payouts"]
        ),
        planned_at=fields["planned_at"],
        state=BatchState(fields["state"]),
        anchor=anchor and Anchor(epoch=anchor[0], root=bytes.fromhex(anchor[1])),
        message=message
        and SignedMessage(
            **{name: message[name] for name in ("query_id", "created_at", "timeout_s", "after_lt")},
            boc=bytes.fromhex(message["boc"]),
            message_hash=bytes.fromhex(message["message_hash"]),
        ),
        sent_at=fields["sent_at"],
        transaction=bytes.fromhex(fields["transaction"]),
    )
