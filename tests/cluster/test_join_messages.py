"""Messages of joining: what is written is read again, and whatever else arrives is refused by name."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import JoinRefusedError
from cluster.join_messages import (
    BODY_MAX,
    CertificateRequest,
    ChallengeRequest,
    Credentials,
    Order,
    OrderRequest,
    join_statement,
)

TIME = datetime(2026, 5, 1, 12, tzinfo=UTC)
PIN, NONCE, HOST = b"\x11" * 32, b"\x22" * 32, b"\x33" * 8
CHALLENGE = ChallengeRequest(address="10.0.0.2:9443", time=TIME, name="anna", labels={"tee": "tdx"})
CERTIFICATE = CertificateRequest(nonce=NONCE, csr=b"\x30\x00", proof=b"\x44" * 64)
ORDER = OrderRequest(host_id=HOST, time=TIME, proof=b"\x44" * 64, node_name="anna-1", control="/run/c.sock")
CREDENTIALS = Credentials(certificate="PEM", token="secret", not_after=TIME, ray_address="10.0.0.1:6379", settings={})
KINDS = [CHALLENGE, CERTIFICATE, ORDER, CREDENTIALS]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("message", KINDS, ids=lambda message: type(message).__name__)
def test_what_is_written_is_read_again(message) -> None:
    assert type(message).parse(message.encode()) == message
    assert len(message.encode()) < BODY_MAX


@pytest.mark.parametrize("message", KINDS, ids=lambda message: type(message).__name__)
@given(data=st.data())
def test_any_other_value_under_a_key_is_read_or_refused_and_nothing_else(message, data) -> None:
    values = json.loads(message.encode())
    values[data.draw(st.sampled_from(sorted(values)))] = data.draw(VALUES)
    with contextlib.suppress(JoinRefusedError):
        type(message).parse(json.dumps(values).encode())


@pytest.mark.parametrize("message", KINDS, ids=lambda message: type(message).__name__)
@given(st.binary(max_size=64))
def test_noise_is_refused(message, noise) -> None:
    with pytest.raises(JoinRefusedError):
        type(message).parse(noise)


def test_a_host_takes_no_other_settings_than_the_shared_ones() -> None:
    values = json.loads(CREDENTIALS.encode()) | {"settings": {"LD_PRELOAD": "x.so"}}
    with pytest.raises(JoinRefusedError, match="shared ones"):
        Credentials.parse(json.dumps(values).encode())


def test_statements_are_laid_out_as_documented() -> None:
    key = b"a public key"
    at = hashlib.sha256(b"10.0.0.2:9443").digest()
    joined = join_statement(PIN, NONCE, key, "10.0.0.2:9443")
    assert joined == b"chrysalis/1 join\0" + PIN + NONCE + hashlib.sha256(key).digest() + at
    said = hashlib.sha256(b"bind\0anna-1\0/run/c.sock").digest()
    at = int(TIME.timestamp()).to_bytes(8, "big")
    assert ORDER.statement(Order.BIND, PIN) == b"chrysalis/1 join order\0" + PIN + HOST + at + said
    statements = {ORDER.statement(order, PIN) for order in Order}
    assert len(statements) == 4 and max(map(len, {*statements, joined})) <= 256, "what /prove signs"
