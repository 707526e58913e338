"""What the books know about payment channels: what was promised by vouchers, redeemed, and given up.

Pure, rebuilt from entries alone. A voucher credits its client with the increase over what was promised before, and the
same amount stands as a claim in the channel's account: an asset beside the treasury. A redemption moves it there. So a
client can spend exactly what it has signed, and the books balance whether or not vouchers have been redeemed yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from billing.entries import (
    CHAIN_FEES,
    CHANNEL_LOSSES,
    TREASURY,
    Entry,
    EntryKind,
    Posting,
    channel_account,
    client_account,
    move,
)
from billing.errors import VoucherNotLaterError
from billing.money import Nanotons, check_nanotons
from billing.payment import Payment, decode_payment, encode_payment
from billing.wire import SIGNATURE_SIZE, Reader, check_size, check_uint

_ZERO = Nanotons(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedClose:
    """A close that both signed: final until its time is over."""

    total: Nanotons  # what the operator has in all
    valid_until: int  # unix seconds
    client_signature: bytes  # 64
    operator_signature: bytes  # 64

    def __post_init__(self) -> None:
        check_nanotons(self.total, "total")
        check_uint("valid_until", self.valid_until, 32)
        check_size("client_signature", self.client_signature, SIGNATURE_SIZE)
        check_size("operator_signature", self.operator_signature, SIGNATURE_SIZE)


@dataclass(slots=True, kw_only=True)
class ChannelAccount:
    """One payment channel in the books. Amounts are cumulative nanotons."""

    client: bytes  # 32, the account that its vouchers credit
    payment: Payment  # its terms, and the latest voucher
    signed: Nanotons  # the latest voucher's total
    promised: Nanotons  # what was credited, less what a close gave up
    since: int  # when the oldest part of the claim was promised, unix seconds
    redeemed: Nanotons = _ZERO
    closing: AgreedClose | None = None  # the latest one, if no voucher came after it

    @property
    def claim(self) -> Nanotons:
        """What was promised and is not in the treasury yet."""
        return Nanotons(self.promised - self.redeemed)


class ChannelBook:
    """All payment channels of one operator. `plan_*` returns an entry or raises; `record` takes what was applied."""

    def __init__(self) -> None:
        self._channels: dict[bytes, ChannelAccount] = {}
        self._of: dict[bytes, list[bytes]] = {}  # client -> its channels
        self._redemptions: dict[str, Entry] = {}

    def get(self, channel: bytes) -> ChannelAccount | None:
        """Return a channel by its account id (32 bytes), None if no voucher of it was ever booked."""
        return self._channels.get(channel)

    def of_client(self, client: bytes) -> tuple[bytes, ...]:
        """Return the account ids of a client's channels, the latest last."""
        return tuple(self._of.get(client, ()))

    def claims(self) -> Iterator[tuple[bytes, ChannelAccount]]:
        """Yield the channels that owe something on vouchers, with their account ids."""
        yield from ((name, channel) for name, channel in self._channels.items() if channel.claim)

    # --- planning -----------------------------------------------------------------------------------------------

    def plan_voucher(self, channel: bytes, client: bytes, payment: Payment, total: Nanotons, *, now: int) -> Entry:
        """Credit a client with what a voucher adds. That it is genuine and covered was checked before.

        Raises:
            VoucherNotLaterError: one of as much was booked, or that much was redeemed.
        """
        known = self._channels.get(channel)
        seen = max(known.signed, known.promised) if known else 0
        if check_nanotons(total, "total") <= seen:
            raise VoucherNotLaterError(total, seen)
        added = total - (known.promised if known else 0)
        return Entry(
            id=f"voucher:{channel.hex()}:{total}",
            kind=EntryKind.VOUCHER,
            postings=move(added, channel_account(channel), client_account(client)),
            at=now,
            data=encode_payment(payment),
        )

    def plan_redemption(self, name: str, channel: bytes, redeemed: int, received: int, *, now: int) -> Entry:
        """Book what the contract paid into the treasury, proved there; the difference is the redemption's fee.

        What exceeds all vouchers booked (an older copy of the books) is still the client's to spend.

        Args:
            name: the treasury's transaction, logical time and hash.
            channel: a known channel's account id.
            redeemed: the contract's counter after it paid, from the payment's body.
            received: what arrived.
            now: unix seconds.
        """
        known = self._channels[channel]
        if (again := self._redemptions.get(f"redemption:{name}")) is not None:
            return again
        paid = check_nanotons(redeemed, "redeemed") - known.redeemed
        surplus = max(redeemed - known.promised, 0)
        return Entry(
            id=f"redemption:{name}",
            kind=EntryKind.REDEMPTION,
            postings=(
                Posting(account=channel_account(channel), amount=paid - surplus),
                Posting(account=client_account(known.client), amount=surplus),
                Posting(account=TREASURY, amount=-received),
                Posting(account=CHAIN_FEES, amount=received - paid),
            ),
            at=now,
            data=redeemed.to_bytes(8, "big"),
        )

    def plan_close(self, channel: bytes, close: AgreedClose, *, now: int) -> Entry:
        """Give up what the close leaves to the client; the books refuse it if the client has spent or held that."""
        known = self._channels[channel]
        given_up = known.promised - close.total
        if given_up < 0:
            raise ValueError(f"a close at {close.total} promises more than vouchers did, {known.promised}")
        return Entry(
            id=f"close:{channel.hex()}:{close.valid_until}",
            kind=EntryKind.CLOSE,
            postings=move(given_up, client_account(known.client), channel_account(channel)),
            at=now,
            data=_encode_close(close),
        )

    def plan_loss(self, channel: bytes, available: int, *, now: int) -> Entry:
        """Write off the claim on a channel that is closed: first from what its client has not spent (`available`)."""
        known = self._channels[channel]
        unspent = min(known.claim, max(available, 0))
        return Entry(
            id=f"loss:{channel.hex()}:{known.promised}",
            kind=EntryKind.LOSS,
            postings=(
                Posting(account=channel_account(channel), amount=known.claim),
                Posting(account=client_account(known.client), amount=-unspent),
                Posting(account=CHANNEL_LOSSES, amount=unspent - known.claim),
            ),
            at=now,
        )

    # --- applying -----------------------------------------------------------------------------------------------

    def record(self, entry: Entry) -> None:
        """Take in an entry of one of the four kinds above."""
        channel = _named(entry, "channel:")
        if entry.kind is EntryKind.VOUCHER:
            self._record_voucher(channel, entry)
            return
        known = self._channels[channel]
        if entry.kind is EntryKind.REDEMPTION:
            known.redeemed = Nanotons(int.from_bytes(entry.data, "big"))
            known.promised = Nanotons(max(known.promised, known.redeemed))
            known.signed = Nanotons(max(known.signed, known.redeemed))
            known.since = entry.at
            self._redemptions[entry.id] = entry
        elif entry.kind is EntryKind.CLOSE:
            known.closing = _decode_close(entry.data)
            known.promised = known.closing.total
        elif entry.kind is EntryKind.LOSS:
            known.promised = known.redeemed

    def _record_voucher(self, channel: bytes, entry: Entry) -> None:
        client, added = _named(entry, "client:"), max(posting.amount for posting in entry.postings)
        payment, known = decode_payment(entry.data), self._channels.get(channel)
        if known is None:
            total = Nanotons(added)
            self._channels[channel] = ChannelAccount(
                client=client, payment=payment, signed=total, promised=total, since=entry.at
            )
            self._of.setdefault(client, []).append(channel)
            return
        if not known.claim:
            known.since = entry.at
        known.promised = known.signed = Nanotons(known.promised + added)
        known.payment, known.closing = payment, None


def _named(entry: Entry, prefix: str) -> bytes:
    names = (posting.account for posting in entry.postings if posting.account.startswith(prefix))
    return bytes.fromhex(next(names).removeprefix(prefix))


def _encode_close(close: AgreedClose) -> bytes:
    numbers = close.total.to_bytes(8, "big") + close.valid_until.to_bytes(4, "big")
    return numbers + close.client_signature + close.operator_signature


def _decode_close(data: bytes) -> AgreedClose:
    reader = Reader(data, "close")
    total, valid_until = Nanotons(reader.take_int(8)), reader.take_int(4)
    signatures = reader.take(SIGNATURE_SIZE), reader.take(SIGNATURE_SIZE)
    reader.finish()
    return AgreedClose(
        total=total, valid_until=valid_until, client_signature=signatures[0], operator_signature=signatures[1]
    )
