"""Receipts that are ready together share a signature and a write; none is made for an answer that was given up."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from billing.receipt import RECEIPT_SIZE, encode_receipt, sign_receipts, verify_receipt
from enclave.errors import RequestError
from enclave.journal import ReceiptJournal
from enclave.receipts import ReceiptDesk
from tests.billing.support import HOST_KEY, make_grant, make_receipt, public
from tests.enclave.support import CHAT, Client, Starter

RECEIPTS = [make_receipt(make_grant(), number) for number in range(200)]


class Signer:
    """Signs, and remembers how many at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, bodies: Sequence[bytes]) -> list[bytes]:
        self.batches.append(len(bodies))
        return sign_receipts(bodies, HOST_KEY)


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def desk(signer: Signer, tmp_path: Path) -> ReceiptDesk:
    return ReceiptDesk(signer, ReceiptJournal.open(tmp_path / "receipts", b"k" * 32))


def body(number: int) -> bytes:
    return encode_receipt(RECEIPTS[number])


async def test_receipts_of_one_turn_share_a_signature_and_each_answer_gets_its_own(
    desk: ReceiptDesk, signer: Signer
) -> None:
    got: dict[int, bytes] = {}
    await asyncio.gather(*(desk.add(body(n), lambda signed, n=n: got.update({n: signed})) for n in range(5)))
    assert signer.batches == [5]
    assert [verify_receipt(got[n], public(2)) for n in range(5)] == RECEIPTS[:5]
    assert [stored.receipt for stored in desk._journal.after(0, 10)] == [got[n] for n in range(5)]


async def test_more_receipts_than_a_batch_takes_are_several_batches(desk: ReceiptDesk, signer: Signer) -> None:
    await asyncio.gather(*(desk.add(body(n), lambda _: None) for n in range(200)))
    assert signer.batches == [128, 72]
    assert len(desk._journal) == 200


async def test_an_answer_given_up_before_its_receipt_is_made_gets_none(desk: ReceiptDesk) -> None:
    done: list[bytes] = []
    kept, dropped = desk.add(body(0), done.append), desk.add(body(1), done.append)
    dropped.cancel()
    await kept
    assert [verify_receipt(signed, public(2)) for signed in done] == [RECEIPTS[0]]
    assert len(desk._journal) == 1


async def test_when_the_disk_is_full_no_answer_of_the_turn_has_a_receipt(
    desk: ReceiptDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("enclave.journal._write_all", no_space)
    done: list[bytes] = []
    results = await asyncio.gather(*(desk.add(body(n), done.append) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [RequestError] * 3
    assert (done, len(desk._journal)) == ([], 0)


async def test_one_answer_that_fails_at_its_end_harms_no_other(desk: ReceiptDesk) -> None:
    done: list[bytes] = []

    def fail(_: bytes) -> None:
        raise RuntimeError("no")

    results = await asyncio.gather(desk.add(body(0), fail), desk.add(body(1), done.append), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, type(None)]
    assert len(done) == 1


async def test_an_answer_that_is_alone_waits_for_nobody(start: Starter) -> None:
    enclave = await start()
    await Client(enclave).ask()
    [stored] = enclave.service.journal.after(0, 10)
    assert len(stored.receipt) == RECEIPT_SIZE


async def test_clients_that_ask_at_once_each_get_the_receipt_of_their_own_answer(start: Starter) -> None:
    enclave = await start()
    clients = [Client(enclave) for _ in range(24)]
    words = [f"word{number} x" for number in range(24)]
    answers = await asyncio.gather(
        *(
            client.ask(CHAT | {"messages": [{"role": "user", "content": text}]})
            for client, text in zip(clients, words, strict=True)
        )
    )
    for client, text, answer in zip(clients, words, answers, strict=True):
        assert answer.text == text
        assert answer.receipt.lease == client.terms["lease"]
        assert answer.receipt.response_hash == answer.response_hash
    kept = [stored.receipt for stored in enclave.service.journal.after(0, 100)]
    assert len(kept) == 24
    assert len({receipt[-64:] for receipt in kept}) < 24  # of Ed25519 signatures
