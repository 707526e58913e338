"""Where answers get their receipts: those that are ready at about the same moment share a signature and a write.

    add, add, add -> next turn of the event loop -> one signature -> one journal write -> each answer is told

A receipt is journaled before its answer ends, so that who earns keeps the proof.
"""

import asyncio
from collections.abc import Callable, Sequence

from billing.receipt import BATCH_MAX
from enclave.errors import RequestError
from enclave.journal import ReceiptJournal

Sign = Callable[[Sequence[bytes]], list[bytes]]  # receipt bodies -> signed receipts
Done = Callable[[bytes], None]


class ReceiptDesk:
    """Signs receipts and keeps them."""

    def __init__(self, sign: Sign, journal: ReceiptJournal) -> None:
        """`sign` takes 1 to `BATCH_MAX` bodies."""
        self._sign, self._journal = sign, journal
        self._waiting: list[tuple[bytes, Done, asyncio.Future[None]]] = []

    def add(self, body: bytes, done: Done) -> asyncio.Future[None]:
        """Have a receipt made; await the result.

        `done` is called with the signed receipt as soon as it is journaled, before anything else happens to the answer.
        Whoever cancels the future before that gets no receipt made.

        Raises:
            RequestError: (from the future) it could not be stored, so it does not exist.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(loop.call_soon, self._flush)  # a turn later: requests that have just come are in it too
        made = loop.create_future()
        self._waiting.append((body, done, made))
        return made

    def make(self, body: bytes) -> bytes:
        """A receipt at once, on its own.

        Raises:
            RequestError: it could not be stored, so it does not exist.
        """
        [signed] = self._make([body])
        return signed

    def _flush(self) -> None:
        waiting, self._waiting = [item for item in self._waiting if not item[2].done()], []
        for start in range(0, len(waiting), BATCH_MAX):
            self._serve(waiting[start : start + BATCH_MAX])

    def _serve(self, waiting: Sequence[tuple[bytes, Done, "asyncio.Future[None]"]]) -> None:
        try:
            receipts = self._make([body for body, _, _ in waiting])
        except Exception as error:  # noqa: BLE001  each answer raises it where it waits
            for _, _, made in waiting:
                made.set_exception(error)
            return
        for receipt, (_, done, made) in zip(receipts, waiting, strict=True):
            try:
                done(receipt)
            except Exception as error:  # noqa: BLE001  as above; the other answers go on
                made.set_exception(error)
            else:
                made.set_result(None)

    def _make(self, bodies: Sequence[bytes]) -> list[bytes]:
        receipts = self._sign(bodies)
        try:
            self._journal.append(*receipts)
        except OSError:
            raise RequestError("the host could not store the receipt", "receipt_not_stored") from None
        return receipts
