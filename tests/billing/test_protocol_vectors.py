"""docs/protocol/receipt.md says what the code does."""

import re
from dataclasses import replace
from pathlib import Path

from billing.grant import sign_grant, verify_grant
from billing.lease_request import LeaseRequest, lease_request_bytes, sign_lease_request
from billing.money import Nanotons
from billing.receipt import RECEIPT_SIZE, Receipt, encode_receipt, sign_receipt, sign_receipts, verify_receipt
from billing.statement import Role
from billing.ton.statement_request import StatementRequest, statement_request_bytes
from billing.verdict import sign_verdict, verify_verdict
from tests.billing.support import (
    ACCOUNT,
    HOST_KEY,
    NOW,
    OPERATOR,
    THOUGHTFUL,
    key,
    make_grant,
    make_receipt,
    make_verdict,
    public,
)

PAGE = Path(__file__).parents[2] / "docs" / "protocol" / "receipt.md"
GRANT = make_grant(7, tariff=THOUGHTFUL)


def page_receipt(number: int) -> Receipt:
    return make_receipt(GRANT, number, cached=3, reasoning=4)


def vector(name: str) -> bytes:
    found = re.search(rf"```vector {name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"the page has no vector {name}"
    return bytes.fromhex("".join(found[1].split()))


def test_the_receipt_of_the_page_is_the_receipt_of_the_code() -> None:
    receipt = page_receipt(1)
    assert sign_receipt(receipt, HOST_KEY) == vector("receipt")
    assert verify_receipt(vector("receipt"), public(2)) == receipt
    assert len(vector("receipt")) == RECEIPT_SIZE == 348


def test_the_batched_receipt_of_the_page_is_the_one_of_the_code() -> None:
    receipts = [page_receipt(number) for number in range(3)]
    signed = sign_receipts([encode_receipt(receipt) for receipt in receipts], HOST_KEY)
    assert signed[1] == vector("receipt-in-batch")
    assert verify_receipt(vector("receipt-in-batch"), public(2)) == receipts[1]


def test_the_grant_of_the_page_is_the_grant_of_the_code() -> None:
    assert sign_grant(GRANT, OPERATOR) == vector("grant")
    assert verify_grant(vector("grant"), public(1)) == GRANT
    assert len(vector("grant")) == 234 + 20 * 3


def test_the_reviewed_grant_of_the_page_is_the_grant_of_the_code() -> None:
    reviewed = replace(GRANT, review=True)
    assert sign_grant(reviewed, OPERATOR) == vector("reviewed-grant")
    assert verify_grant(vector("reviewed-grant"), public(1)) == reviewed
    assert len(vector("reviewed-grant")) == 243 + 20 * 3


def test_the_verdict_of_the_page_is_the_verdict_of_the_code() -> None:
    verdict = make_verdict(9, [page_receipt(1), page_receipt(2)], [page_receipt(3)])
    assert sign_verdict(verdict, key(3)) == vector("verdict")
    assert verify_verdict(vector("verdict"), public(1)) == verdict


def test_the_lease_request_of_the_page_is_the_lease_request_of_the_code() -> None:
    request = LeaseRequest(
        operator=public(1),
        account=ACCOUNT,
        model="translator",
        tier="confidential",
        hosts=3,
        budget=Nanotons(120_000),
        request_id=b"r" * 16,
        issued_at=NOW,
    )
    assert lease_request_bytes(request) == vector("lease-request")
    assert sign_lease_request(request, key(3))["signature"] == vector("lease-request-signature").hex()


def test_the_statement_request_of_the_page_is_the_one_of_the_code() -> None:
    request = StatementRequest(
        operator=public(1), role=Role.CLIENT, key=ACCOUNT, start=NOW, end=NOW + 86_400, issued_at=NOW + 86_400
    )
    assert statement_request_bytes(request) == vector("statement-request")
