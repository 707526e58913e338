"""Receipts beside the journal: each kind of disagreement is seen."""

from __future__ import annotations

from dataclasses import replace

from billing.money import Nanotons
from tests.billing.support import make_grant, make_receipt
from tests.faults.cluster.audit import compare

RECEIPTS = [make_receipt(make_grant(), number, host=0) for number in range(3)]


def test_equal_books_agree() -> None:
    audit = compare(RECEIPTS, RECEIPTS)
    assert (audit.verified, audit.paid, audit.unpaid, audit.twice, audit.unlike, audit.unseen) == (3, 3, 0, 0, 0, 0)


def test_an_unpaid_receipt_a_double_charge_and_another_price_are_seen() -> None:
    dearer = replace(RECEIPTS[1], price=Nanotons(RECEIPTS[1].price + 1))
    audit = compare([RECEIPTS[0], RECEIPTS[0], dearer], RECEIPTS)
    assert (audit.unpaid, audit.twice, audit.unlike, audit.unseen) == (1, 1, 1, 0)


def test_a_charge_whose_answer_was_cut_is_counted_apart() -> None:
    assert compare(RECEIPTS, RECEIPTS[:1]).unseen == 2
