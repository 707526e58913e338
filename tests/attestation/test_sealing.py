"""The envelope: it opens only whole, only for its hosts, and only when its account signed it."""

import random
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import chunks
from attestation.chunks import BUCKET, ChunkOpener, ChunkSealer
from attestation.errors import (
    AccountSignatureError,
    EnvelopeAuthenticationError,
    EnvelopeError,
    MalformedEnvelopeError,
    NotRecipientError,
)
from attestation.frames import (
    Endpoint,
    FrameType,
    ResponseHash,
    encode_frame,
    encode_plain_request,
    parse_frame,
    parse_plain_request,
)
from attestation.sealing import (
    Draft,
    Header,
    ResponseOpener,
    ResponseSealer,
    SealedRequest,
    WrapKind,
    encode_header,
    open_one_shot,
    parse_header,
    parse_request,
    seal_request,
)
from attestation.xwing import HostKey, Recipient

HOSTS = (b"host-one", b"host-two", b"host-tre")
KEYS = {host: HostKey.from_seed(host * 4) for host in HOSTS}
RECIPIENTS = tuple(Recipient(host, key.public) for host, key in KEYS.items())
ACCOUNT_KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
HEADER = Header(
    model=b"m" * 32,
    lease=b"l" * 16,
    account=ACCOUNT_KEY.public_key().public_bytes_raw(),
    price_cap=5_000_000,
    expires=1_800_000_000,
    grant=b"grant" * 40,
)
RANDOM = random.Random(1).randbytes


def seal(body: bytes = b"hello", header: Header = HEADER, key: Ed25519PrivateKey = ACCOUNT_KEY) -> SealedRequest:
    return seal_request(header, body, RECIPIENTS, key, RANDOM)


def unseal(data: bytes, host: bytes = HOSTS[0]) -> bytes:
    return open_one_shot(parse_request(data, host), KEYS[host]).body


@pytest.mark.parametrize("size", [0, 1, BUCKET - 4, BUCKET - 3, 3000, (1 << 20) + 1])
def test_every_host_opens_the_same_request(size: int) -> None:
    body = bytes(size)
    sealed = seal(body)
    for host in HOSTS:
        opened = open_one_shot(parse_request(sealed.data, host), KEYS[host])
        assert (opened.body, opened.header) == (body, HEADER)
        assert (opened.content_key, opened.request_hash) == (sealed.content_key, sealed.request_hash)


def test_the_size_on_the_wire_tells_the_length_only_by_the_bucket() -> None:
    assert len(seal(b"").data) == len(seal(bytes(BUCKET - 4)).data)
    assert len(seal(b"").data) + BUCKET == len(seal(bytes(BUCKET - 3)).data)


def test_a_relay_may_strip_the_wraps_of_other_hosts() -> None:
    sealed = seal()
    request = parse_request(sealed.data, HOSTS[1])
    at = sealed.data.index(HOSTS[0]) - 1
    entry = HOSTS[1] + len(request.wrap).to_bytes(2, "big") + request.wrap
    stripped = sealed.data[:at] + b"\x01" + entry + request.chunks
    assert open_one_shot(parse_request(stripped, HOSTS[1]), KEYS[HOSTS[1]]).request_hash == sealed.request_hash


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_request_opens_only_whole(data: st.DataObject) -> None:
    sealed = seal(b"body" * data.draw(st.integers(0, 200), label="length")).data
    begin, last = sealed.index(HOSTS[1]), sealed.index(HOSTS[2])
    foreign = last + 10 + int.from_bytes(sealed[last + 8 : last + 10], "big") - begin  # entries of the other hosts
    at = data.draw(st.integers(0, len(sealed) - 1 - foreign), label="at")
    at = at if at < begin else at + foreign
    with pytest.raises(EnvelopeError):
        unseal(sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255), label="flip")]) + sealed[at + 1 :])
    with pytest.raises(EnvelopeError):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1), label="cut")])
    with pytest.raises(EnvelopeError):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=300), label="appended"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_bytes_that_are_no_request_raise_nothing_but_the_envelope_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        parse_request(data, HOSTS[0])


def test_different_keys_for_different_hosts_are_caught_by_the_commitment() -> None:
    draft = Draft(HEADER, b"for one", b"k" * 32)
    info, keys = b"chrysalis/1 wrap\0" + draft.digest, (b"k", b"x", b"y")
    wraps = [(to.host_id, b"\0" + to.encrypt(key * 32, info)) for to, key in zip(RECIPIENTS, keys, strict=True)]
    sealed = draft.assemble(wraps, signature=ACCOUNT_KEY.sign(b"chrysalis/1 request signature\0" + draft.digest))
    assert unseal(sealed.data) == b"for one"
    with pytest.raises(EnvelopeAuthenticationError, match="commits"):
        unseal(sealed.data, HOSTS[1])


def test_a_request_signed_by_another_account_is_refused() -> None:
    with pytest.raises(AccountSignatureError):
        unseal(seal(key=Ed25519PrivateKey.from_private_bytes(b"t" * 32)).data)


def test_a_request_without_signature_is_refused() -> None:
    draft = Draft(HEADER, b"x", b"k" * 32)
    info = b"chrysalis/1 wrap\0" + draft.digest
    sealed = draft.assemble([(to.host_id, b"\0" + to.encrypt(b"k" * 32, info)) for to in RECIPIENTS])
    with pytest.raises(AccountSignatureError):
        unseal(sealed.data)


def test_a_wrap_from_another_request_is_refused() -> None:
    one, two = seal(b"one"), seal(b"two")
    wraps = [parse_request(sealed.data, HOSTS[0]).wrap for sealed in (one, two)]
    with pytest.raises(EnvelopeAuthenticationError):
        unseal(one.data.replace(wraps[0], wraps[1]))


def test_a_request_for_another_host_is_refused() -> None:
    with pytest.raises(NotRecipientError):
        parse_request(seal().data, b"stranger")


def test_a_request_under_another_hosts_key_is_refused() -> None:
    with pytest.raises(EnvelopeAuthenticationError):
        open_one_shot(parse_request(seal().data, HOSTS[0]), KEYS[HOSTS[1]])


def test_a_host_named_twice_is_refused() -> None:
    with pytest.raises(MalformedEnvelopeError, match="twice"):
        parse_request(seal().data.replace(HOSTS[1], HOSTS[0]), HOSTS[0])


def test_a_session_wrap_is_no_one_shot_wrap() -> None:
    request = parse_request(seal().data, HOSTS[0])
    with pytest.raises(MalformedEnvelopeError):
        open_one_shot(replace(request, wrap=bytes([WrapKind.SESSION]) + request.wrap[1:]), KEYS[HOSTS[0]])


def test_the_header_survives_its_encoding() -> None:
    assert parse_header(encode_header(HEADER)) == HEADER
    bare = replace(HEADER, grant=b"")
    assert parse_header(encode_header(bare)) == bare


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(encode_header(HEADER)[:96], id="cut"),
        pytest.param(b"\x02" + encode_header(HEADER)[1:], id="another-version"),
        pytest.param(encode_header(HEADER)[:81] + b"\xff" * 16, id="price-beyond-all-money"),
        pytest.param(encode_header(HEADER) + bytes(4096), id="huge-grant"),
    ],
)
def test_a_header_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        parse_header(data)


@pytest.mark.parametrize("change", [{"model": b""}, {"lease": b"l"}, {"price_cap": -1}, {"expires": 1 << 63}])
def test_a_header_with_impossible_values_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"take|integers"):
        replace(HEADER, **change)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=700), min_size=1, max_size=6), st.integers(1, 400))
def test_an_answer_arrives_frame_by_frame_however_it_is_sliced(frames: list[bytes], slice_size: int) -> None:
    sealer = ResponseSealer(b"k" * 32, b"h" * 32, b"n" * 16)
    stream = b"".join(sealer.seal(frame, last=at == len(frames) - 1) for at, frame in enumerate(frames))
    opener, received = ResponseOpener(b"k" * 32, b"h" * 32), []
    for at in range(0, len(stream), slice_size):
        assert not opener.finished
        received += opener.feed(stream[at : at + slice_size])
    assert (received, opener.finished) == (frames, True)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_answer_with_one_flipped_byte_is_refused_or_seen_as_unfinished(at: int, flip: int) -> None:
    sealer = ResponseSealer(b"k" * 32, b"h" * 32, b"n" * 16)
    stream = bytearray(sealer.seal(b"one") + sealer.seal(b"two", last=True))
    stream[at % len(stream)] ^= flip
    opener = ResponseOpener(b"k" * 32, b"h" * 32)
    try:
        opener.feed(bytes(stream))
    except EnvelopeError:
        return
    assert not opener.finished


def test_chunks_swapped_or_dropped_are_refused() -> None:
    sealer = ResponseSealer(b"k" * 32, b"h" * 32, b"n" * 16)
    one, two, three = sealer.seal(b"1"), sealer.seal(b"2"), sealer.seal(b"3", last=True)
    for stream in (one + three, one[:16] + two + one[16:] + three, one + two + two + three):
        with pytest.raises(EnvelopeAuthenticationError):
            ResponseOpener(b"k" * 32, b"h" * 32).feed(stream)
    with pytest.raises(MalformedEnvelopeError):
        ResponseOpener(b"k" * 32, b"h" * 32).feed(one + two + three + b"\0")


def test_an_answer_to_another_request_does_not_open() -> None:
    stream = ResponseSealer(b"k" * 32, b"h" * 32, b"n" * 16).seal(b"x", last=True)
    with pytest.raises(EnvelopeAuthenticationError):
        ResponseOpener(b"k" * 32, b"H" * 32).feed(stream)


def test_padding_that_hides_data_is_refused() -> None:
    sealer = ChunkSealer(b"k" * 32)
    plain = (3).to_bytes(4, "big") + b"abcd" + bytes(BUCKET - 8)
    head = b"\1" + (BUCKET + 16).to_bytes(4, "big")
    with pytest.raises(MalformedEnvelopeError, match="padding"):
        ChunkOpener(b"k" * 32).feed(head + sealer._aead.encrypt(bytes(12), plain, head))


def test_wrong_order_of_calls_is_a_mistake_of_the_caller() -> None:
    sealer = ChunkSealer(b"k" * 32)
    with pytest.raises(ValueError, match="takes"):
        sealer.chunk(bytes(chunks.CHUNK_MAX + 1))
    sealer.chunk(b"", last=True)
    with pytest.raises(RuntimeError):
        sealer.chunk(b"")


def test_a_request_needs_one_to_eight_hosts() -> None:
    for recipients in ((), RECIPIENTS * 3):
        with pytest.raises(ValueError, match="hosts"):
            seal_request(HEADER, b"", recipients, ACCOUNT_KEY, RANDOM)


def test_frames_and_plain_requests_survive_their_encoding() -> None:
    assert parse_frame(encode_frame(FrameType.RECEIPT, b"r")) == (FrameType.RECEIPT, b"r")
    assert parse_plain_request(encode_plain_request(Endpoint.COMPLETIONS, b"{}")) == (Endpoint.COMPLETIONS, b"{}")


@pytest.mark.parametrize("data", [b"", b"\x00{}", b"\xff{}"])
def test_an_unknown_endpoint_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        parse_plain_request(data)


@pytest.mark.parametrize("data", [b"", b"\x03{}"])
def test_an_unknown_frame_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        parse_frame(data)


def test_the_response_hash_tells_frames_apart() -> None:
    one, two = ResponseHash(), ResponseHash()
    one.add(b"ab")
    two.add(b"a")
    two.add(b"b")
    assert one.digest() != two.digest()


def test_a_stream_cut_into_single_bytes_costs_no_copies_of_what_is_there() -> None:
    data = bytes(chunks.CHUNK_MAX)
    stream, opener = ChunkSealer(b"k" * 32).whole(data), ChunkOpener(b"k" * 32)
    began = time.process_time()
    opened = [part for at in range(0, len(stream), 4) for part in opener.feed(stream[at : at + 4])]
    assert time.process_time() - began < 3.0  # it took 260,000 copies of half a megabyte
    assert opened == [data]
    assert opener.finished
