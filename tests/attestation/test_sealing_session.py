"""Sessions: replay windows, who may open one, and what a host remembers."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import session
from attestation.errors import (
    AccountSignatureError,
    EnvelopeAuthenticationError,
    EnvelopeError,
    EnvelopeExpiredError,
    LeaseUnknownError,
    MalformedEnvelopeError,
    NotRecipientError,
    ReplayError,
    SessionLimitError,
    SessionUnknownError,
)
from attestation.sealing import Header, SealedRequest, WrapKind, parse_request, seal_request
from attestation.session import WINDOW, SessionReceiver, SessionSender
from attestation.xwing import HostKey, Recipient

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EXPIRES = int(NOW.timestamp()) + 600
MODEL, LEASE, GRANT = b"m" * 32, b"l" * 16, b"grant" * 40
HOSTS = (b"host-one", b"host-two", b"host-tre")
KEYS = {host: HostKey.from_seed(host * 4) for host in HOSTS}
RECIPIENTS = tuple(Recipient(host, key.public) for host, key in KEYS.items())
ACCOUNT_KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
ACCOUNT = ACCOUNT_KEY.public_key().public_bytes_raw()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def make_sender(account_key: Ed25519PrivateKey = ACCOUNT_KEY, *, expires: int = EXPIRES) -> SessionSender:
    return SessionSender(
        model=MODEL,
        lease=LEASE,
        expires=expires,
        grant=GRANT,
        account_key=account_key,
        recipients=RECIPIENTS,
        random=random.Random(1).randbytes,
    )


def make_receiver(host: bytes = HOSTS[0], *, admitted: bool = True) -> SessionReceiver:
    receiver = SessionReceiver(KEYS[host], host)
    if admitted:
        receiver.admit(LEASE, ACCOUNT, EXPIRES)
    return receiver


def receive(
    receiver: SessionReceiver, sealed: SealedRequest | bytes, host: bytes = HOSTS[0], now: datetime = NOW
) -> bytes:
    data = sealed if isinstance(sealed, bytes) else sealed.data
    return receiver.open(parse_request(data, host), now=now).body


def wrap_kind(sealed: SealedRequest, host: bytes = HOSTS[0]) -> int:
    return parse_request(sealed.data, host).wrap[0]


def test_every_host_of_the_lease_opens_a_request_of_an_unconfirmed_session() -> None:
    sealed = make_sender().seal(b"hello", price_cap=5)
    for host in HOSTS:
        opened = make_receiver(host).open(parse_request(sealed.data, host), now=NOW)
        assert (opened.body, opened.request_hash, opened.content_key) == (
            b"hello",
            sealed.request_hash,
            sealed.content_key,
        )
        assert opened.header.grant == GRANT


def test_confirmed_sessions_need_neither_opening_nor_grant() -> None:
    sender, receiver = make_sender(), make_receiver()
    first = sender.seal(b"first", price_cap=5)
    receive(receiver, first)
    for host in HOSTS:
        sender.confirm(host, first)
    sealed = sender.seal(b"second", price_cap=5)
    assert wrap_kind(sealed) == WrapKind.SESSION
    assert parse_request(sealed.data, HOSTS[0]).header.grant == b""
    assert receive(receiver, sealed) == b"second"
    assert len(sealed.data) < 1000


def test_the_grant_travels_until_every_host_is_confirmed() -> None:
    sender = make_sender()
    sender.confirm(HOSTS[0], sender.seal(b"x", price_cap=5))
    sealed = sender.seal(b"x", price_cap=5)
    assert parse_request(sealed.data, HOSTS[1]).header.grant == GRANT
    assert wrap_kind(sealed, HOSTS[0]) == WrapKind.SESSION
    assert wrap_kind(sealed, HOSTS[1]) == WrapKind.OPENING


def test_requests_sent_together_share_one_session_in_any_order() -> None:
    sender, receiver = make_sender(), make_receiver()
    sealed = [sender.seal(bytes([n]), price_cap=5) for n in range(20)]
    random.Random(2).shuffle(sealed)
    assert sorted(receive(receiver, request) for request in sealed) == [bytes([n]) for n in range(20)]


def test_a_session_the_host_forgot_is_reopened() -> None:
    sender = make_sender()
    sender.confirm(HOSTS[0], sender.seal(b"x", price_cap=5))
    receiver, sealed = make_receiver(), sender.seal(b"x", price_cap=5)
    with pytest.raises(SessionUnknownError):
        receive(receiver, sealed)
    sender.forget(HOSTS[0], sealed)
    assert receive(receiver, sender.seal(b"x", price_cap=5)) == b"x"


def test_a_late_answer_does_not_confirm_or_drop_the_session_that_came_after() -> None:
    sender = make_sender()
    late = sender.seal(b"x", price_cap=5)
    sender.forget(HOSTS[0], late)
    fresh = sender.seal(b"x", price_cap=5)
    sender.confirm(HOSTS[0], late)
    sender.forget(HOSTS[0], late)
    assert wrap_kind(sender.seal(b"x", price_cap=5)) == WrapKind.OPENING
    sender.confirm(HOSTS[0], fresh)
    assert wrap_kind(sender.seal(b"x", price_cap=5)) == WrapKind.SESSION


def test_a_session_is_replaced_after_its_share_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "REQUESTS_MAX", 2)
    sender, receiver = make_sender(), make_receiver()
    kinds = []
    for _ in range(4):
        sealed = sender.seal(b"x", price_cap=5)
        receive(receiver, sealed)
        sender.confirm(HOSTS[0], sealed)
        kinds.append(wrap_kind(sealed))
    assert kinds == [WrapKind.OPENING, WrapKind.SESSION, WrapKind.OPENING, WrapKind.SESSION]


@pytest.mark.parametrize("confirmed", [False, True], ids=["opening", "session"])
def test_a_replayed_session_request_is_refused(confirmed: bool) -> None:
    sender, receiver = make_sender(), make_receiver()
    first = sender.seal(b"first", price_cap=5)
    receive(receiver, first)
    if confirmed:
        sender.confirm(HOSTS[0], first)
    sealed = sender.seal(b"second", price_cap=5)
    receive(receiver, sealed)
    with pytest.raises(ReplayError):
        receive(receiver, sealed)


def test_a_replayed_one_shot_request_is_refused() -> None:
    header = Header(model=MODEL, lease=LEASE, account=ACCOUNT, price_cap=5, expires=EXPIRES, grant=GRANT)
    receiver = make_receiver()
    sealed = seal_request(header, b"x", RECIPIENTS, ACCOUNT_KEY, random.Random(3).randbytes)
    receive(receiver, sealed)
    with pytest.raises(ReplayError):
        receive(receiver, sealed)


def test_a_replay_under_a_copied_opening_finds_the_same_session() -> None:
    sender, receiver = make_sender(), make_receiver()
    first, second = sender.seal(b"1", price_cap=5), sender.seal(b"2", price_cap=5)
    receive(receiver, first)
    receive(receiver, second)  # carries the same opening: must not start a fresh window
    for sealed in (first, second):
        with pytest.raises(ReplayError):
            receive(receiver, sealed)


def test_a_request_older_than_the_window_is_refused() -> None:
    sender, receiver = make_sender(), make_receiver()
    late, in_time, *rest = (sender.seal(b"x", price_cap=5) for _ in range(WINDOW + 1))
    receive(receiver, rest[-1])
    with pytest.raises(ReplayError):
        receive(receiver, late)
    assert receive(receiver, in_time) == b"x"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=120))
def test_each_counter_is_taken_at_most_once_in_any_order(order: list[int]) -> None:
    window = session._Receiving(aead=session._wrap_cipher(bytes(32)))
    taken: set[int] = set()
    for counter in order:
        if counter in taken:
            with pytest.raises(ReplayError):
                window.check(counter)
        else:
            window.check(counter)
            window.mark(counter)
            taken.add(counter)


def test_a_request_that_does_not_open_whole_leaves_no_trace() -> None:
    sender, receiver = make_sender(), make_receiver()
    sealed = sender.seal(b"x", price_cap=5)
    altered = sealed.data[:-1] + bytes([sealed.data[-1] ^ 1])
    with pytest.raises(EnvelopeAuthenticationError):
        receive(receiver, altered)
    assert receive(receiver, sealed) == b"x"


def test_a_thief_without_the_account_key_cannot_open_a_session_on_its_lease() -> None:
    thief = make_sender(OTHER_KEY)
    thief._account = ACCOUNT  # names the victim, signs with its own key
    with pytest.raises(AccountSignatureError):
        receive(make_receiver(), thief.seal(b"x", price_cap=5))


def test_a_thief_with_a_session_of_its_own_cannot_spend_another_lease() -> None:
    receiver = make_receiver()
    thief = make_sender(OTHER_KEY)
    with pytest.raises(EnvelopeAuthenticationError, match="another account"):
        receive(receiver, thief.seal(b"x", price_cap=5))


def test_an_opening_does_not_work_on_another_lease() -> None:
    receiver = make_receiver()
    receiver.admit(b"L" * 16, ACCOUNT, EXPIRES)
    sender = make_sender()
    sender.seal(b"x", price_cap=5)
    sender._lease = b"L" * 16  # keeps the sessions made for the first lease
    with pytest.raises(EnvelopeAuthenticationError):
        receive(receiver, sender.seal(b"x", price_cap=5))


def test_an_opening_for_another_host_is_refused() -> None:
    sealed = make_sender().seal(b"x", price_cap=5).data.replace(HOSTS[0], b"somebody").replace(HOSTS[1], HOSTS[0])
    with pytest.raises(EnvelopeError):
        receive(make_receiver(), sealed)


def test_a_lease_nobody_admitted_is_refused() -> None:
    with pytest.raises(LeaseUnknownError):
        receive(make_receiver(admitted=False), make_sender().seal(b"x", price_cap=5))


def test_an_expired_lease_is_refused() -> None:
    with pytest.raises(EnvelopeExpiredError):
        receive(make_receiver(), make_sender().seal(b"x", price_cap=5), now=NOW + timedelta(seconds=600))


def test_a_request_that_outlives_its_lease_is_refused() -> None:
    with pytest.raises(EnvelopeExpiredError):
        receive(make_receiver(), make_sender(expires=EXPIRES + 1).seal(b"x", price_cap=5))


def test_turning_the_clock_back_does_not_bring_an_ended_lease_to_life() -> None:
    receiver, sealed = make_receiver(), make_sender().seal(b"x", price_cap=5)
    receive(receiver, sealed)
    assert receiver.expire(NOW + timedelta(seconds=601)) == [LEASE]
    receiver.admit(LEASE, ACCOUNT, EXPIRES)
    with pytest.raises(EnvelopeExpiredError):
        receive(receiver, sealed, now=NOW)


def test_a_flood_of_sessions_on_one_lease_is_refused() -> None:
    sender, receiver = make_sender(), make_receiver()
    for _ in range(session.SESSIONS_MAX):
        sealed = sender.seal(b"x", price_cap=5)
        receive(receiver, sealed)
        sender.forget(HOSTS[0], sealed)
    with pytest.raises(SessionLimitError):
        receive(receiver, sender.seal(b"x", price_cap=5))


def test_a_flood_of_leases_is_refused_until_some_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEASES_MAX", 2)
    receiver = make_receiver()
    receiver.admit(b"2" * 16, ACCOUNT, EXPIRES + 900)
    with pytest.raises(SessionLimitError):
        receiver.admit(b"3" * 16, ACCOUNT, EXPIRES)
    receiver.expire(NOW + timedelta(seconds=700))
    receiver.admit(b"3" * 16, ACCOUNT, EXPIRES + 900)


def test_a_flood_of_one_shot_requests_on_one_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ONE_SHOTS_MAX", 1)
    header = Header(model=MODEL, lease=LEASE, account=ACCOUNT, price_cap=5, expires=EXPIRES)
    receiver, randomness = make_receiver(), random.Random(4).randbytes
    receive(receiver, seal_request(header, b"x", RECIPIENTS, ACCOUNT_KEY, randomness))
    with pytest.raises(SessionLimitError):
        receive(receiver, seal_request(header, b"x", RECIPIENTS, ACCOUNT_KEY, randomness))


def test_a_wrap_of_unknown_kind_is_refused() -> None:
    sealed = make_sender().seal(b"x", price_cap=5)
    wrap = parse_request(sealed.data, HOSTS[0]).wrap
    with pytest.raises(MalformedEnvelopeError):
        receive(make_receiver(), sealed.data.replace(wrap, b"\x03" + wrap[1:]))


def test_a_request_for_other_hosts_is_refused() -> None:
    with pytest.raises(NotRecipientError):
        parse_request(make_sender().seal(b"x", price_cap=5).data, b"stranger")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_session_request_opens_only_whole(data: st.DataObject) -> None:
    sender, receiver = make_sender(), make_receiver()
    if data.draw(st.booleans(), label="confirmed"):
        first = sender.seal(b"opens the session", price_cap=5)
        receive(receiver, first)
        sender.confirm(HOSTS[0], first)
    sealed = sender.seal(b"body" * data.draw(st.integers(0, 200)), price_cap=5).data
    begin, end = foreign_bytes(sealed)
    at = data.draw(st.integers(0, len(sealed) - 1 - (end - begin)), label="at")
    at = at if at < begin else at + end - begin
    altered = sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255))]) + sealed[at + 1 :]
    with pytest.raises(EnvelopeError):
        receive(receiver, altered)
    with pytest.raises(EnvelopeError):
        receive(receiver, sealed[: data.draw(st.integers(0, len(sealed) - 1), label="cut")])


def foreign_bytes(sealed: bytes) -> tuple[int, int]:
    """Where the entries of the two other hosts stand: they come after ours, without a gap."""
    begin = sealed.index(HOSTS[1])
    last = sealed.index(HOSTS[2])
    return begin, last + 10 + int.from_bytes(sealed[last + 8 : last + 10], "big")


def test_a_lease_that_made_room_for_another_is_still_named_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEASES_MAX", 1)
    receiver = SessionReceiver(KEYS[HOSTS[0]], HOSTS[0])
    receiver.admit(LEASE, ACCOUNT, EXPIRES)
    receiver._advance(NOW + timedelta(seconds=700))  # as the next request does
    receiver.admit(b"n" * 16, ACCOUNT, EXPIRES + 1000)
    assert receiver.expire(NOW + timedelta(seconds=700)) == [LEASE]  # else its spending would be kept for ever
    assert receiver.expire(NOW + timedelta(seconds=700)) == []
