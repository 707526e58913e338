"""The sealed request envelope: what a client and an enclave say through parties that must not read it.

    request  = u16 size | header | 32-byte commitment | u8 0 or 64 | account signature | u8 k | k * entry | chunk...
    entry    = 8-byte host id | u16 size | wrap
    response = 16-byte nonce | chunk...                          chunks: see attestation/chunks.py

A fresh content key encrypts the body; a wrap carries that key to one host. Wraps are of three kinds: ONE_SHOT (HPKE),
and OPENING and SESSION (under a session key, see attestation/session.py). The layout is docs/protocol/envelope.md.

- The digest of header and commitment goes into every derived key, so no part of the header can be altered.
- The commitment ties the one content key to the header: a client cannot give different hosts different requests.
- The request hash covers header, commitment and chunks, not the wraps: a relay may strip those of other hosts.
- A one-shot request is signed by the account, so that nobody else can spend its lease.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from struct import Struct, error, pack, unpack_from

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.chunks import KEY, ChunkOpener, ChunkSealer, derive
from attestation.errors import (
    AccountSignatureError,
    EnvelopeAuthenticationError,
    MalformedEnvelopeError,
    NotRecipientError,
)
from attestation.xwing import HOST_ID, OVERHEAD, HostKey, Recipient

NONCE = 16
SIGNATURE = 64
HPKE_WRAP = KEY + OVERHEAD
HEADER_MAX = 4096
WRAP_MAX = 2048
HOSTS_MAX = 8
VERSION = 1
NUMBER_MAX = (1 << 63) - 1
HEADER = Struct(">B32s16s32sQQ")  # version, model, lease, account, price cap, expires; the grant follows

Random = Callable[[int], bytes]  # n -> n unpredictable bytes, as os.urandom


class WrapKind(IntEnum):
    """First byte of a wrap: how the content key reaches the host."""

    ONE_SHOT = 0
    OPENING = 1
    SESSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The public part of a request. Relay and enclave read it; every bit of it is authenticated."""

    model: bytes  # manifest root, 32
    lease: bytes  # 16
    account: bytes  # the client's Ed25519 public key, 32
    price_cap: int  # nanotons: the enclave refuses what could cost more
    expires: int  # unix seconds: no enclave begins the request after this
    grant: bytes = b""  # the operator's signed grant; needed until the host knows the lease

    def __post_init__(self) -> None:
        if (len(self.model), len(self.lease), len(self.account)) != (32, 16, 32):
            raise ValueError("model and account take 32 bytes, lease takes 16")
        if not 0 <= self.price_cap <= NUMBER_MAX or not 0 <= self.expires <= NUMBER_MAX:
            raise ValueError("price_cap and expires are integers from 0 to 2**63 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRequest:
    """Bytes to send, and what the sender keeps to read the answer."""

    data: bytes
    content_key: bytes = field(repr=False)
    request_hash: bytes
    sessions: Mapping[bytes, bytes] = field(default_factory=dict)  # host id -> id of the session that wraps for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request as one host finds it, before any key was used; nothing in it is authenticated yet."""

    header: Header
    head: bytes  # header bytes and commitment
    digest: bytes  # of head
    signature: bytes  # 64 bytes or none
    host_id: bytes
    wrap: bytes  # for this host, with its kind
    chunks: bytes

    @property
    def commitment(self) -> bytes:
        """Names the content key without telling it, 32 bytes; different for every request."""
        return self.head[-KEY:]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRequest:
    """A request that opened whole."""

    header: Header
    body: bytes = field(repr=False)
    content_key: bytes = field(repr=False)
    request_hash: bytes


def encode_header(header: Header) -> bytes:
    """Fixed layout: u8 version | model | lease | account | u64 price cap | u64 expires | grant."""
    fixed = (header.model, header.lease, header.account, header.price_cap, header.expires)
    return HEADER.pack(VERSION, *fixed) + header.grant


def parse_header(data: bytes) -> Header:
    """The inverse; raises `MalformedEnvelopeError`."""
    if not HEADER.size <= len(data) <= HEADER_MAX:
        raise MalformedEnvelopeError(f"the header has {len(data)} bytes, not {HEADER.size} to {HEADER_MAX}")
    version, model, lease, account, price_cap, expires = HEADER.unpack_from(data)
    if version != VERSION:
        raise MalformedEnvelopeError(f"the envelope has version {version}, this host reads version {VERSION}")
    if max(price_cap, expires) > NUMBER_MAX:
        raise MalformedEnvelopeError("price cap or expiry is above 2**63 - 1")
    return Header(
        model=model, lease=lease, account=account, price_cap=price_cap, expires=expires, grant=data[HEADER.size :]
    )


def seal_request(
    header: Header, body: bytes, recipients: Sequence[Recipient], account_key: Ed25519PrivateKey, random: Random
) -> SealedRequest:
    """Seal `body` to every recipient, standing alone: no session before or after (about 120 us a recipient)."""
    draft = Draft(header, body, random(KEY))
    info = _one_shot_info(draft.digest)
    wraps = [(to.host_id, bytes([WrapKind.ONE_SHOT]) + to.encrypt(draft.content_key, info)) for to in recipients]
    return draft.assemble(wraps, signature=account_key.sign(_signed(draft.digest)))


def parse_request(data: bytes, host_id: bytes) -> ParsedRequest:
    """Find what is meant for `host_id`. Uses no key and checks no signature.

    Raises:
        MalformedEnvelopeError: the bytes are not a request, or end too early.
        NotRecipientError: no wrap is for this host.
    """
    try:
        (size,) = unpack_from(">H", data)
        if size > HEADER_MAX:
            raise MalformedEnvelopeError(f"the header has {size} bytes, more than {HEADER_MAX}")
        end = 2 + size + KEY
        signature_size = data[end]
        if signature_size not in (0, SIGNATURE):
            raise MalformedEnvelopeError(f"the account signature has {signature_size} bytes, not 0 or {SIGNATURE}")
        wraps_at = end + 1 + signature_size
        wrap, chunks_at = _find_wrap(data, wraps_at, host_id)
    except (error, IndexError):
        raise MalformedEnvelopeError("the request ends before its body: it was cut short") from None
    head = data[2:end]
    return ParsedRequest(
        header=parse_header(head[:-KEY]),
        head=head,
        digest=_digest(head),
        signature=data[end + 1 : wraps_at],
        host_id=host_id,
        wrap=wrap,
        chunks=data[chunks_at:],
    )


def open_one_shot(request: ParsedRequest, key: HostKey) -> OpenedRequest:
    """Open a request whose wrap stands alone. The caller refuses replays (see `SessionReceiver`).

    (1) account signature (2) content key by HPKE (3) commitment and every chunk up to the last; else `EnvelopeError`.
    """
    if request.wrap[0] != WrapKind.ONE_SHOT or len(request.wrap) != 1 + HPKE_WRAP:
        raise MalformedEnvelopeError("the wrap for this host is not a one-shot wrap")
    check_account_signature(request.header.account, request.signature, _signed(request.digest))  # (1)
    content_key = key.decrypt(request.wrap[1:], _one_shot_info(request.digest))  # (2)
    return open_body(request, content_key)  # (3)


def open_body(request: ParsedRequest, content_key: bytes) -> OpenedRequest:
    """Check that `content_key` is the committed one and open the body to its last chunk; else `EnvelopeError`."""
    if len(content_key) != KEY:
        raise MalformedEnvelopeError(f"a content key has {KEY} bytes")
    if not hmac.compare_digest(request.commitment, _commit(content_key, request.head[:-KEY])):
        raise EnvelopeAuthenticationError("the wrap holds another content key than the header commits to")
    body = ChunkOpener(derive(content_key, b"request", request.digest)).whole(request.chunks)
    return OpenedRequest(
        header=request.header,
        body=body,
        content_key=content_key,
        request_hash=_request_hash(request.digest, request.chunks),
    )


def check_account_signature(account: bytes, signature: bytes, message: bytes) -> None:
    """Raise `AccountSignatureError` unless `account` signed `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(account).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise AccountSignatureError("the account named in the header did not sign this request") from None


class Draft:
    """A sealed body without its wraps: the same body can be wrapped for other hosts without changing its hash."""

    def __init__(self, header: Header, body: bytes, content_key: bytes) -> None:
        public = encode_header(header)
        if len(public) > HEADER_MAX:
            raise ValueError(f"the header has {len(public)} bytes, more than {HEADER_MAX}: the grant is too long")
        self.content_key = content_key
        self._head = public + _commit(content_key, public)
        self.digest = _digest(self._head)
        self._chunks = ChunkSealer(derive(content_key, b"request", self.digest)).whole(body)
        self.request_hash = _request_hash(self.digest, self._chunks)

    def assemble(self, wraps: Iterable[tuple[bytes, bytes]], *, signature: bytes = b"") -> SealedRequest:
        """The request with these (host id, wrap) entries."""
        entries = [host + pack(">H", len(wrap)) + wrap for host, wrap in wraps]
        if not 1 <= len(entries) <= HOSTS_MAX:
            raise ValueError(f"a request is sealed to 1 to {HOSTS_MAX} hosts, not {len(entries)}")
        parts = (
            pack(">H", len(self._head) - KEY),
            self._head,
            bytes([len(signature)]),
            signature,
            bytes([len(entries)]),
            *entries,
            self._chunks,
        )
        return SealedRequest(data=b"".join(parts), content_key=self.content_key, request_hash=self.request_hash)


class ResponseSealer:
    """The enclave's side of an answer. The first chunk comes with the nonce in front."""

    def __init__(self, content_key: bytes, request_hash: bytes, nonce: bytes) -> None:
        """`nonce` is 16 fresh random bytes: the same request answered twice must not use one key twice."""
        self._chunks = ChunkSealer(_response_key(content_key, nonce, request_hash))
        self._unsent = nonce

    def seal(self, frame: bytes, *, last: bool = False) -> bytes:
        """One frame (see attestation/frames.py) as bytes to send."""
        sealed, self._unsent = self._unsent + self._chunks.chunk(frame, last=last), b""
        return sealed


class ResponseOpener:
    """The client's side: frames in order, and whether the answer came to its authenticated end."""

    def __init__(self, content_key: bytes, request_hash: bytes) -> None:
        self._content_key, self._request_hash = content_key, request_hash
        self._nonce = b""
        self._chunks: ChunkOpener | None = None

    @property
    def finished(self) -> bool:
        """Whether the last chunk was opened. A stream that ends while this is False was cut."""
        return self._chunks is not None and self._chunks.finished

    def feed(self, received: bytes) -> list[bytes]:
        """The frames that are complete now; raises `EnvelopeError`."""
        if self._chunks is None:
            self._nonce += received
            if len(self._nonce) < NONCE:
                return []
            nonce, received = self._nonce[:NONCE], self._nonce[NONCE:]
            self._chunks = ChunkOpener(_response_key(self._content_key, nonce, self._request_hash))
        return self._chunks.feed(received)


def _find_wrap(data: bytes, at: int, host_id: bytes) -> tuple[bytes, int]:
    """Our wrap and where the chunks begin."""
    count, at, mine = data[at], at + 1, []
    if not 1 <= count <= HOSTS_MAX:
        raise MalformedEnvelopeError(f"a request is sealed to 1 to {HOSTS_MAX} hosts, not {count}")
    for _ in range(count):
        host, (size,) = data[at : at + HOST_ID], unpack_from(">H", data, at + HOST_ID)
        at += HOST_ID + 2 + size
        if not 1 <= size <= WRAP_MAX or at > len(data):
            raise MalformedEnvelopeError(f"a wrap of {size} bytes: too long, empty or cut short")
        if host == host_id:
            mine.append(data[at - size : at])
    if not mine:
        raise NotRecipientError("no wrap is for this host: take a new lease and seal to the hosts it names")
    if len(mine) > 1:
        raise MalformedEnvelopeError("this host is named twice")
    return mine[0], at


def _digest(head: bytes) -> bytes:
    return sha256(b"chrysalis/1 head\0" + head).digest()


def _commit(content_key: bytes, public: bytes) -> bytes:
    return derive(content_key, b"commit", sha256(public).digest())  # ChaCha20-Poly1305 does not commit to its key


def _signed(digest: bytes) -> bytes:
    return b"chrysalis/1 request signature\0" + digest


def _one_shot_info(digest: bytes) -> bytes:
    return b"chrysalis/1 wrap\0" + digest


def _request_hash(digest: bytes, chunks: bytes) -> bytes:
    return sha256(b"chrysalis/1 request\0" + digest + chunks).digest()


def _response_key(content_key: bytes, nonce: bytes, request_hash: bytes) -> bytes:
    return derive(content_key, b"response", nonce + request_hash)
