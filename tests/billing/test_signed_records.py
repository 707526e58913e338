"""Receipt, grant and lease request: what is signed is what is read, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import wire
from billing.errors import BadSignatureError, BillingError, MalformedRecordError
from billing.grant import Grant, encode_grant, sign_grant, verify_grant
from billing.lease_request import LeaseRequest, sign_lease_request, verify_lease_request
from billing.money import Nanotons
from billing.receipt import (
    BATCH_MAX,
    BODY_SIZE,
    RECEIPT_SIZE_MAX,
    encode_receipt,
    sign_receipt,
    sign_receipts,
    verify_receipt,
)
from billing.tree import hash_leaf
from billing.verdict import sign_verdict, verify_verdict
from billing.wire import KnownSignatures
from tests.billing.support import (
    ACCOUNT,
    HOST_KEY,
    MODEL,
    NOW,
    OPERATOR,
    key,
    make_grant,
    make_receipt,
    make_verdict,
    public,
)

RECEIPT = sign_receipt(make_receipt(make_grant()), HOST_KEY)
GRANT = sign_grant(make_grant(), OPERATOR)
REQUEST = LeaseRequest(
    operator=public(1),
    account=ACCOUNT,
    model="translator",
    tier="confidential",
    hosts=3,
    budget=Nanotons(1000),
    request_id=b"r" * 16,
    issued_at=NOW,
)
REVIEWED = sign_grant(make_grant(review=True), OPERATOR)
VERDICT = sign_verdict(make_verdict(1, [make_receipt(make_grant(), 1)], [make_receipt(make_grant(), 2)]), key(3))
BODIES = [encode_receipt(make_receipt(make_grant(), number)) for number in range(BATCH_MAX)]
RECORDS: list[Any] = [
    pytest.param(RECEIPT, lambda data: verify_receipt(data, public(2)), id="receipt"),
    pytest.param(sign_receipts(BODIES[:3], HOST_KEY)[1], lambda data: verify_receipt(data, public(2)), id="batched"),
    pytest.param(GRANT, lambda data: verify_grant(data, public(1)), id="grant"),
    pytest.param(REVIEWED, lambda data: verify_grant(data, public(1)), id="reviewed-grant"),
    pytest.param(VERDICT, lambda data: verify_verdict(data, public(1)), id="verdict"),
]
Verify = Callable[[bytes], object]


@pytest.mark.parametrize(("data", "verify"), RECORDS)
def test_every_flipped_bit_is_refused(data: bytes, verify: Verify) -> None:
    for at in range(len(data)):
        for bit in range(8):
            forged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(BillingError):
                verify(forged)


@pytest.mark.parametrize(("data", "verify"), RECORDS)
def test_every_truncation_and_every_longer_record_is_refused(data: bytes, verify: Verify) -> None:
    for size in range(len(data)):
        with pytest.raises((MalformedRecordError, BadSignatureError)):
            verify(data[:size])
    with pytest.raises(MalformedRecordError):
        verify(data + b"\0")


@pytest.mark.parametrize(("data", "verify"), RECORDS)
@given(noise=st.binary(max_size=1100))
def test_a_parser_raises_nothing_but_its_errors(data: bytes, verify: Verify, noise: bytes) -> None:
    for forged in (noise, data[: len(noise)] + noise, noise + data[-64:]):
        with pytest.raises((MalformedRecordError, BadSignatureError)):
            verify(forged)


def test_a_receipt_signed_by_another_host_is_refused() -> None:
    with pytest.raises(BadSignatureError):
        verify_receipt(sign_receipt(make_receipt(make_grant()), key(9)), public(2))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 64, 127, 128])
def test_receipts_that_share_a_signature_are_each_read_as_themselves(size: int) -> None:
    signed = sign_receipts(BODIES[:size], HOST_KEY)
    assert [encode_receipt(verify_receipt(data, public(2))) for data in signed] == BODIES[:size]
    assert len({data[-64:] for data in signed}) == 1
    assert max(map(len, signed)) <= RECEIPT_SIZE_MAX


@pytest.mark.parametrize("size", [0, BATCH_MAX + 1])
def test_a_batch_of_none_or_too_many_receipts_is_not_signed(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        sign_receipts([BODIES[0]] * size, HOST_KEY)


def test_a_receipt_that_was_not_in_the_batch_is_refused() -> None:
    signed = sign_receipts(BODIES[:5], HOST_KEY)[2]
    with pytest.raises(BadSignatureError):
        verify_receipt(BODIES[7] + signed[BODY_SIZE:], public(2))


def test_a_receipt_in_another_place_of_its_batch_is_refused() -> None:
    first, second = sign_receipts(BODIES[:2], HOST_KEY)
    with pytest.raises(BadSignatureError):
        verify_receipt(first[:BODY_SIZE] + second[BODY_SIZE:], public(2))


def test_a_batch_signed_by_another_host_is_refused() -> None:
    with pytest.raises(BadSignatureError):
        verify_receipt(sign_receipts(BODIES[:2], key(9))[0], public(2))


def test_a_known_signature_lets_nothing_through_but_what_it_signed() -> None:
    known = KnownSignatures()
    signed = sign_receipts(BODIES[:5], HOST_KEY)
    assert [encode_receipt(verify_receipt(data, public(2), known=known)) for data in signed] == BODIES[:5]
    forged = [
        (BODIES[7] + signed[2][BODY_SIZE:], public(2)),  # another receipt in the same place
        (signed[2], public(9)),  # another host
        (sign_receipts(BODIES[:5], key(9))[2], public(2)),  # the same tree, signed by another host
        (signed[2][:-1] + bytes([signed[2][-1] ^ 1]), public(2)),
    ]
    for data, by in forged:
        with pytest.raises(BadSignatureError):
            verify_receipt(data, by, known=known)


def test_a_shared_signature_is_checked_once_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    check = wire.check_signature
    monkeypatch.setattr(wire, "check_signature", lambda body, *rest: checked.append(body) or check(body, *rest))
    known = KnownSignatures(size=2)
    batches = [sign_receipts(BODIES[at : at + 4], HOST_KEY) for at in (0, 4, 8)]
    for batch in batches:
        for data in batch:
            verify_receipt(data, public(2), known=known)
    assert len(checked) == 3
    verify_receipt(batches[0][0], public(2), known=known)  # forgotten by now
    assert len(checked) == 4


def test_a_batch_of_one_is_no_second_spelling_of_a_receipt() -> None:
    lonely = BODIES[0] + bytes([0, 0, 0, 1]) + HOST_KEY.sign(b"chrysalis/1 receipt batch\0\1" + hash_leaf(BODIES[0]))
    with pytest.raises(MalformedRecordError):
        verify_receipt(lonely, public(2))


def test_a_grant_by_another_operator_is_refused() -> None:
    foreign = replace(make_grant(), operator=public(9))
    with pytest.raises(BadSignatureError):
        verify_grant(sign_grant(foreign, key(9)), public(1))


def test_a_grant_that_names_another_operator_than_its_signer_is_refused() -> None:
    body = encode_grant(replace(make_grant(), operator=public(9)))
    with pytest.raises(MalformedRecordError, match="another operator"):
        verify_grant(body + OPERATOR.sign(body), public(1))


def test_a_grant_cannot_be_signed_by_a_key_it_does_not_name() -> None:
    with pytest.raises(ValueError, match="signing key"):
        sign_grant(make_grant(), key(9))


def test_a_signature_for_one_record_is_worth_nothing_as_another() -> None:
    body = encode_receipt(make_receipt(make_grant()))
    with pytest.raises(MalformedRecordError, match="tag"):
        verify_grant(body + OPERATOR.sign(body), public(1))


@pytest.mark.parametrize("public_key", [b"", b"\0" * 31, b"\xff" * 32])
def test_a_public_key_that_is_none_is_a_bad_signature(public_key: bytes) -> None:
    with pytest.raises(BadSignatureError):
        verify_receipt(RECEIPT, public_key)


def test_the_largest_grant_fits_its_limit() -> None:
    host = make_grant().hosts[0]
    hosts = tuple(replace(host, host_id=bytes([i]) * 8) for i in range(16))
    assert len(sign_grant(replace(make_grant(), hosts=hosts), OPERATOR)) <= 1024
    with pytest.raises(ValueError, match="1 to 16"):
        replace(make_grant(), hosts=(*hosts, replace(host, host_id=b"x" * 8)))


def test_a_grant_names_each_host_once() -> None:
    host = make_grant().hosts[0]
    with pytest.raises(ValueError, match="once"):
        replace(make_grant(), hosts=(host, host))


def test_the_grant_knows_its_hosts_and_its_sum() -> None:
    grant: Grant = make_grant()
    assert grant.amount == 120_000
    assert grant.host(grant.hosts[1].host_id) == grant.hosts[1]
    assert grant.host(b"unknown!") is None


def test_a_lease_request_signed_by_its_account_is_read() -> None:
    assert verify_lease_request(sign_lease_request(REQUEST, key(3)), operator=public(1)) == REQUEST


def test_a_lease_request_for_another_operator_is_refused() -> None:
    with pytest.raises(BadSignatureError):
        verify_lease_request(sign_lease_request(REQUEST, key(3)), operator=public(9))


def test_somebody_else_cannot_order_a_lease_for_an_account() -> None:
    with pytest.raises(BadSignatureError):
        verify_lease_request(sign_lease_request(REQUEST, key(4)), operator=public(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("budget", 1001),
        ("hosts", 2),
        ("model", "translatos"),
        ("tier", "open"),
        ("issued_at", NOW + 1),
        ("request_id", "00" * 16),
        ("account", MODEL.hex()),
    ],
)
def test_a_changed_lease_request_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadSignatureError):
        verify_lease_request(sign_lease_request(REQUEST, key(3)) | {field: value}, operator=public(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("budget", -1),
        ("budget", "1000"),
        ("budget", 1 << 64),
        ("budget", True),
        ("hosts", 0),
        ("hosts", 4),
        ("model", ""),
        ("model", "a\nb"),
        ("model", 7),
        ("tier", "Open"),
        ("account", "zz" * 32),
        ("account", "00"),
        ("signature", None),
        ("signature", "AA" * 64),
        ("issued_at", 1.5),
    ],
)
def test_a_malformed_lease_request_is_refused(field: str, value: object) -> None:
    with pytest.raises(MalformedRecordError):
        verify_lease_request(sign_lease_request(REQUEST, key(3)) | {field: value}, operator=public(1))


def test_a_lease_request_with_a_missing_or_unknown_field_is_refused() -> None:
    body = sign_lease_request(REQUEST, key(3))
    with pytest.raises(MalformedRecordError, match="extra"):
        verify_lease_request(body | {"extra": 1}, operator=public(1))
    del body["tier"]
    with pytest.raises(MalformedRecordError, match="tier"):
        verify_lease_request(body, operator=public(1))
