"""Requests as files: whatever is changed is refused, and no file raises anything but its error."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Address, Cell, begin_cell

from billing.errors import BadAddressError, BadAmountError, BadRequestFileError
from billing.money import NANOTONS_MAX, Nanotons, format_ton, parse_amount
from billing.ton.address import format_address, parse_address
from billing.ton.channel import announce_withdrawal_body
from billing.ton.client import DEVNET, MAINNET, TESTNET
from billing.ton.deposits import deposit_body
from billing.ton.describe import comment_body, describe_body
from billing.ton.owner import propose_owner_body
from billing.ton.transfer_request import TransferRequest, parse_request
from billing.ton.vault import propose_key_body
from billing.ton.wallet import Transfer
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, vault_sender

ADDRESS = Address((0, b"\x51" * 32))
REQUEST = TransferRequest(
    network_id=DEVNET,
    public_key=CLIENT_KEY.public_key().public_bytes_raw(),
    seqno=7,
    deploy=False,
    valid_until=1_790_000_000,
    purpose="a test",
    transfers=(
        Transfer(destination=ADDRESS, amount=Nanotons(5), body=comment_body("hi")),
        Transfer(destination=ADDRESS, amount=Nanotons(6), bounce=False),
    ),
)
SIGNED = REQUEST.sign(CLIENT_KEY)


def test_a_file_says_all_of_a_request(tmp_path) -> None:
    for request in (REQUEST, SIGNED):
        assert parse_request(request.encode()) == request
    init = vault_sender(tmp_path).init
    first = Transfer(destination=ADDRESS, amount=Nanotons(1), state_init=init)
    deploy = replace(REQUEST, transfers=(first,), deploy=True)
    assert parse_request(deploy.encode()).message() == deploy.message()


def test_the_message_is_the_one_that_the_wallet_signs_itself() -> None:
    own = REQUEST.wallet.sign(REQUEST.transfers, key=CLIENT_KEY, seqno=7, valid_until=1_790_000_000, deploy=False)
    assert SIGNED.message() == own
    assert SIGNED.message_hash == Cell.one_from_boc(own).hash


@pytest.mark.parametrize(
    "changes",
    [
        {"seqno": 8},
        {"valid_until": 1_790_000_001},
        {"network_id": MAINNET},
        {"public_key": OWNER_KEY.public_key().public_bytes_raw()},
        {"transfers": REQUEST.transfers[:1]},
        {"transfers": REQUEST.transfers[::-1]},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_signature_is_over_all_that_counts(changes: dict[str, object]) -> None:
    SIGNED.check_signed()
    with pytest.raises(BadRequestFileError):
        replace(SIGNED, **changes).check_signed()


def test_another_key_signs_nothing() -> None:
    with pytest.raises(BadRequestFileError, match="it is for the wallet of"):
        REQUEST.sign(OWNER_KEY)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(SIGNED.encode()) - 1), st.integers(0, 255)).map(
        lambda at: SIGNED.encode()[: at[0]] + bytes([at[1]]) + SIGNED.encode()[at[0] + 1 :]
    )
)
def test_a_hostile_file_raises_its_error_or_is_checked_like_any_other(data: bytes) -> None:
    try:
        request = parse_request(data)
        request.check_signed()
    except BadRequestFileError:
        return
    assert request.message() == SIGNED.message()  # at most its purpose, which decides nothing, is another


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 5000, b"x" * 300_000, b"null", b"{}", b'{"seqno": NaN}'])
def test_json_that_is_made_to_hurt_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequestFileError):
        parse_request(data)


@pytest.mark.parametrize("body", ["AAAA", "!!", "te6cckEBAQEAAgAAAEysuc0=" * 2])
def test_a_damaged_cell_is_refused(body: str) -> None:
    document = json.loads(REQUEST.encode())
    document["transfers"][0]["body"] = body
    with pytest.raises(BadRequestFileError):
        parse_request(json.dumps(document).encode())


@pytest.mark.parametrize("depth", [600, 1000, 3000])
def test_a_deep_cell_never_ends_the_program(depth: int) -> None:
    """Its bag of cells is written by hand here: building it in memory would be the deepest recursion of all."""
    cells = b"".join(bytes([1, 0]) + (i + 1).to_bytes(2, "big") for i in range(depth - 1)) + bytes([0, 0])
    sizes = depth.to_bytes(2, "big") + (1).to_bytes(2, "big") + (0).to_bytes(2, "big")
    boc = bytes.fromhex("b5ee9c72") + bytes([2, 3]) + sizes + len(cells).to_bytes(3, "big") + bytes(2) + cells
    document = json.loads(REQUEST.encode())
    document["transfers"][0]["body"] = base64.b64encode(boc).decode()
    with pytest.raises(BadRequestFileError):
        parse_request(json.dumps(document).encode())


def test_the_sum_of_transfers_is_an_amount() -> None:
    most = Transfer(destination=ADDRESS, amount=Nanotons(NANOTONS_MAX))
    with pytest.raises(ValueError, match="the sum"):
        replace(REQUEST, transfers=(most, most))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "a plain transfer"),
        (comment_body("rent\x1b[2J"), "comment: rent?[2J"),
        (deposit_body(b"\xab" * 32), "deposit for account " + "ab" * 32),
        (propose_key_body(b"\xcd" * 32), "vault: propose hot key " + "cd" * 32),
        (propose_owner_body(ADDRESS), "contract: propose owner 0:" + "51" * 32),
        (announce_withdrawal_body(Nanotons(9)), "payment channel: announce a withdrawal of 9 nanoton"),
        (begin_cell().store_uint(0xDEADBEEF, 32).end_cell(), "unknown contents (operation deadbeef"),
        (begin_cell().store_uint(1, 3).end_cell(), "unknown contents (no operation"),
    ],
)
def test_a_body_is_said_in_words_that_cannot_be_forged(body: Cell | None, words: str) -> None:
    assert describe_body(body).startswith(words)


FRIENDLY = ADDRESS.to_str(is_bounceable=True)


def test_an_address_is_read_in_all_its_forms() -> None:
    for text, bounceable in (
        (FRIENDLY, True),
        (ADDRESS.to_str(is_bounceable=False), False),
        (ADDRESS.to_str(is_url_safe=False), True),
        (ADDRESS.to_str(is_user_friendly=False), None),
    ):
        given = parse_address(text, network_id=MAINNET)
        assert (given.address, given.bounceable) == (ADDRESS, bounceable)
    test_only = format_address(ADDRESS, network_id=TESTNET, bounceable=False)
    assert parse_address(test_only, network_id=DEVNET).bounceable is False
    with pytest.raises(BadAddressError, match="test networks only"):
        parse_address(test_only, network_id=MAINNET)


@pytest.mark.parametrize("at", range(48))
def test_a_mistyped_letter_is_always_found(at: int) -> None:
    for letter in "AbZ9_-":
        text = FRIENDLY[:at] + letter + FRIENDLY[at + 1 :]
        if text != FRIENDLY:
            with pytest.raises(BadAddressError):
                parse_address(text, network_id=MAINNET)


@pytest.mark.parametrize(
    "text",
    ["", "0:", "0:" + "5" * 63, "0:" + "5" * 65, "1:" + "51" * 32, "-1:" + "51" * 32, "0 :" + "51" * 32, FRIENDLY + "=",
     FRIENDLY[:-1], " " + FRIENDLY, "0:" + "g" * 64, "\u0660:" + "51" * 32, Address((-1, b"\x51" * 32)).to_str()],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadAddressError):
        parse_address(text, network_id=MAINNET)


@given(st.integers(1, NANOTONS_MAX))
def test_amounts_are_exact_in_both_forms(amount: int) -> None:
    assert parse_amount(format_ton(amount)) == parse_amount(f"{amount}nano") == amount


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "-1", "+1", "1e9", "1,5", "0x10", "inf", "nan", "1.0000000001", "1_000", "\u0661", ".5", "1.5nano",
     "9223372036854775808nano", "9223372036.854775808", "0nano", "nano", "9" * 5000, "1 TON"],
)  # fmt: skip
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadAmountError):
        parse_amount(text)
