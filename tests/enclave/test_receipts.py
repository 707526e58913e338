"""Receipts that are ready together share a signature and a write; none is made for an answer that was given up."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from billing.receipt import RECEIPT_SIZE, encode_receipt, sign_receipts, verify_receipt
from enclave.errors import RequestError
from enclave.front import Connection
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


class Wire(asyncio.Transport):
    """What a connection wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...


def refuse(error: Exception) -> None:
    raise error


def body(number: int) -> bytes:
    return encode_receipt(RECEIPTS[number])


async def pass_turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_receipts_of_one_turn_share_a_signature_and_each_answer_gets_its_own(
    desk: ReceiptDesk, signer: Signer
) -> None:
    got: dict[int, bytes] = {}
    for n in range(5):
        desk.add(body(n), lambda signed, n=n: got.update({n: signed}), refuse)
    await pass_turns()
    assert signer.batches == [5]
    assert [verify_receipt(got[n], public(2)) for n in range(5)] == RECEIPTS[:5]
    assert [stored.receipt for stored in desk._journal.after(0, 10)] == [got[n] for n in range(5)]


async def test_more_receipts_than_a_batch_takes_are_several_batches(desk: ReceiptDesk, signer: Signer) -> None:
    for n in range(200):
        desk.add(body(n), lambda _: None, refuse)
    await pass_turns()
    assert signer.batches == [128, 72]
    assert len(desk._journal) == 200


async def test_an_answer_given_up_before_its_receipt_is_made_gets_none(desk: ReceiptDesk) -> None:
    done: list[bytes] = []
    desk.add(body(0), done.append, refuse)
    desk.add(body(1), done.append, refuse).withdrawn = True
    await pass_turns()
    assert [verify_receipt(signed, public(2)) for signed in done] == [RECEIPTS[0]]
    assert len(desk._journal) == 1


async def test_when_the_disk_is_full_no_answer_of_the_turn_has_a_receipt(
    desk: ReceiptDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("enclave.journal._write_all", no_space)
    done: list[bytes] = []
    failed: list[Exception] = []
    for n in range(3):
        desk.add(body(n), done.append, failed.append)
    await pass_turns()
    assert [type(error) for error in failed] == [RequestError] * 3
    assert (done, len(desk._journal)) == ([], 0)


async def test_one_answer_that_fails_at_its_end_harms_no_other(desk: ReceiptDesk) -> None:
    done: list[bytes] = []
    failed: list[Exception] = []

    def fail(_: bytes) -> None:
        raise RuntimeError("no")

    desk.add(body(0), fail, failed.append)
    desk.add(body(1), done.append, refuse)
    await pass_turns()
    assert [type(error) for error in failed] == [RuntimeError]
    assert len(done) == 1


async def test_clients_that_leave_before_their_receipts_are_made_pay_nothing_for_an_answer_they_never_saw(
    start: Starter,
) -> None:
    enclave = await start()
    wires = [Wire(), Wire()]
    connections = [Connection(enclave._front) for _ in wires]
    for connection, wire in zip(connections, wires, strict=True):
        data = Client(enclave).seal().data
        connection.connection_made(wire)
        connection.data_received(b"POST /h/00/sealed HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data))
    for _ in range(1000):
        if all(connection.finishes_later for connection in connections):
            break
        await asyncio.sleep(0)
    else:
        pytest.fail("the answers were never left to the receipt desk")
    connections[0].connection_lost(None)
    await pass_turns()
    assert len(enclave.service.journal) == 1
    assert [len(wire.written) for wire in wires] == [0, 1]
    assert (enclave.service.counters.abandoned, enclave.service.counters.served) == (1, 1)
    connections[1].connection_lost(None)


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
