from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.totals import PayeeTotal, totals_hold, totals_path, totals_root


def total(number: int) -> PayeeTotal:
    return PayeeTotal(payee=b"\0" + sha256(b"%d" % number).digest(), earned=number * 7, paid=number * 3)


@given(st.integers(1, 40))
def test_every_total_is_proved_and_no_other_is(size: int) -> None:
    totals = [total(i) for i in range(size)]
    root = totals_root(totals)
    for own in totals:
        index, path = totals_path(totals, own.payee)
        assert totals_hold(own, index=index, size=size, path=path, root=root)
        richer = PayeeTotal(payee=own.payee, earned=own.earned + 1, paid=own.paid)
        assert not totals_hold(richer, index=index, size=size, path=path, root=root)
        assert not totals_hold(own, index=index + 1, size=size, path=path, root=root)
        assert not totals_hold(own, index=index, size=size, path=(*path, b"\0" * 32), root=root)
        assert not path or not totals_hold(own, index=index, size=size, path=path[:-1], root=root)


def test_the_order_of_totals_does_not_matter() -> None:
    assert totals_root([total(1), total(2), total(3)]) == totals_root([total(3), total(1), total(2)])


def test_the_root_follows_rfc_9162() -> None:
    leaves = sorted((total(i) for i in range(3)), key=lambda t: t.payee)
    a, b, c = (sha256(b"\0" + t.leaf()).digest() for t in leaves)
    pair = sha256(b"\1" + a + b).digest()
    assert totals_root(leaves) == sha256(b"\1" + pair + c).digest()
    assert totals_root([]) == sha256(b"").digest()


def test_a_payee_has_one_total() -> None:
    with pytest.raises(ValueError, match="one total"):
        totals_root([total(1), total(1)])
    with pytest.raises(KeyError):
        totals_path([total(1)], b"\0" * 33)
