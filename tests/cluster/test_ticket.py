import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ticket import Ticket, TicketError, check_ticket, make_ticket

KEY, NOW = bytes(range(32)), 1_800_000_000
TICKET = Ticket(host_id=b"h" * 8, account=b"a" * 32, lease=b"l" * 16, expires=NOW + 60)


def made(ticket: Ticket = TICKET, key: bytes = KEY) -> str:
    return make_ticket(key, host_id=ticket.host_id, account=ticket.account, lease=ticket.lease, expires=ticket.expires)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_ticket_says_what_was_signed() -> None:
    assert check_ticket(KEY, made(), now=NOW) == TICKET


def test_an_expired_ticket_is_refused() -> None:
    with pytest.raises(TicketError, match="expired"):
        check_ticket(KEY, made(), now=TICKET.expires)


def test_a_ticket_of_another_operator_is_refused() -> None:
    with pytest.raises(TicketError, match="not signed"):
        check_ticket(KEY, made(key=bytes(32)), now=NOW)


@given(st.data())
def test_a_ticket_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    ticket = made()
    place = data.draw(st.integers(0, len(ticket) - 2))  # the last one carries two unused bits
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != ticket[place]))
    with pytest.raises(TicketError):
        check_ticket(KEY, ticket[:place] + other + ticket[place + 1 :], now=NOW)


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512", "typ": "JWT"}, {"alg": "none", "typ": "JWT"}])
def test_a_ticket_that_names_another_algorithm_is_refused(header: dict[str, str]) -> None:
    claims = made().split(".")[1]
    for signature in ("", made().split(".")[2]):
        with pytest.raises(TicketError):
            check_ticket(KEY, f"{part(header)}.{claims}.{signature}", now=NOW)


@given(st.text(max_size=200))
def test_nothing_but_a_ticket_error_comes_from_bad_text(text: str) -> None:
    with pytest.raises(TicketError):
        check_ticket(KEY, text, now=NOW)


def test_a_short_ticket_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        made(key=b"short")


def test_a_ticket_for_something_that_is_no_host_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="host must be 8 bytes"):
        make_ticket(KEY, host_id=b"h", account=b"a" * 32, lease=b"l" * 16, expires=NOW)
