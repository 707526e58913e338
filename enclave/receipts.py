"""Where answers get their receipts: those that are ready at about the same moment share a signature and a write.

    add, add, add -> next turns of the event loop -> one signature -> one journal write -> each answer is told

A receipt is journaled before its answer ends, so that who earns keeps the proof.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from billing.receipt import BATCH_MAX
from enclave.errors import RequestError
from enclave.journal import ReceiptJournal

Sign = Callable[[Sequence[bytes]], list[bytes]]  # receipt bodies -> signed receipts


@dataclass(slots=True)
class Order:
    """A receipt that is asked for. No future: an answer's task need not live until then, and waking it costs 5 us."""

    body: bytes
    done: Callable[[bytes], None]
    failed: Callable[[Exception], None]
    withdrawn: bool = False  # set by whoever does not want the receipt any more


class ReceiptDesk:
    """Signs receipts and keeps them."""

    def __init__(self, sign: Sign, journal: ReceiptJournal) -> None:
        """`sign` takes 1 to `BATCH_MAX` bodies."""
        self._sign, self._journal = sign, journal
        self._orders: list[Order] = []

    def add(self, body: bytes, done: Callable[[bytes], None], failed: Callable[[Exception], None]) -> Order:
        """Have a receipt made within the next turns of the event loop, unless the order is withdrawn before.

        Either `done` is called with the signed receipt as soon as it is journaled, before anything else happens to the
        answer, or `failed` with a `RequestError` when it could not be stored and so does not exist, or with whatever
        `done` raised.
        """
        if not self._orders:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush)  # a turn later: requests that have just come are in it too
        order = Order(body, done, failed)
        self._orders.append(order)
        return order

    def make(self, body: bytes) -> bytes:
        """A receipt at once, on its own.

        Raises:
            RequestError: it could not be stored, so it does not exist.
        """
        [signed] = self._make([body])
        return signed

    def _flush(self) -> None:
        orders, self._orders = [order for order in self._orders if not order.withdrawn], []
        for start in range(0, len(orders), BATCH_MAX):
            self._serve(orders[start : start + BATCH_MAX])

    def _serve(self, orders: Sequence[Order]) -> None:
        try:
            receipts = self._make([order.body for order in orders])
        except Exception as error:  # noqa: BLE001  each answer says so
            for order in orders:
                order.failed(error)
            return
        for order, receipt in zip(orders, receipts, strict=True):
            try:
                order.done(receipt)
            except Exception as error:  # noqa: BLE001  as above; the other answers go on
                order.failed(error)

    def _make(self, bodies: Sequence[bytes]) -> list[bytes]:
        receipts = self._sign(bodies)
        try:
            self._journal.append(*receipts)
        except OSError:
            raise RequestError("the host could not store the receipt", "receipt_not_stored") from None
        return receipts
