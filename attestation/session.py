"""Sessions: after the first request of a lease, sealing costs symmetric work only.

    SESSION wrap = u8 2 | 8-byte session id | u64 counter | content key under the session key (48 bytes)
    OPENING wrap = u8 1 | 8-byte session id | u64 counter | content key (48) | opening
    opening      = session key by HPKE (1168) | account signature (64)

The client draws one session key for each host of a lease, never one for several hosts. Until an answer from a host
proves that it knows the session, every request to it carries the opening again: the same bytes, made once, so requests
sent together, or resent to another host, cost nothing more. The id is a digest of the opening. The account's signature
over the opening is what lets it spend the lease; later requests are authenticated by the session key.

The receiver keeps all of this in memory until the lease ends: a restart makes old requests unreadable, not replayable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from struct import Struct, pack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from attestation.chunks import KEY, decrypt, derive
from attestation.errors import (
    EnvelopeAuthenticationError,
    EnvelopeExpiredError,
    LeaseUnknownError,
    MalformedEnvelopeError,
    ReplayError,
    SessionLimitError,
    SessionUnknownError,
)
from attestation.sealing import (
    HPKE_WRAP,
    SIGNATURE,
    Draft,
    Header,
    OpenedRequest,
    ParsedRequest,
    Random,
    SealedRequest,
    WrapKind,
    check_account_signature,
    open_body,
    open_one_shot,
)
from attestation.xwing import HostKey, Recipient

SESSION_ID = 8
WINDOW = 1024  # a request may be overtaken by this many later ones
REQUESTS_MAX = 1 << 20  # under one session key; the sender opens another session then
LEASES_MAX = 1 << 16  # that a host remembers at once
SESSIONS_MAX = 64  # of one lease
ONE_SHOTS_MAX = 1 << 14  # of one lease: each costs the host memory until the lease ends
SESSION_WRAP = 1 + SESSION_ID + 8 + KEY + 16
OPENING = HPKE_WRAP + SIGNATURE
_WRAP_HEAD = Struct(f">{SESSION_ID}sQ")
_WRAP_SIZES: dict[int, int] = {WrapKind.OPENING: SESSION_WRAP + OPENING, WrapKind.SESSION: SESSION_WRAP}


class _Sending:
    """One session as its sender sees it: the key, the next counter, and the opening until it is confirmed."""

    def __init__(self, session_id: bytes, key: bytes, opening: bytes) -> None:
        self.id = session_id
        self._aead = _wrap_cipher(key)
        self._opening = opening
        self.count = 0
        self.confirmed = False

    def wrap(self, content_key: bytes, digest: bytes) -> bytes:
        counter, self.count = pack(">Q", self.count), self.count + 1
        sealed = self.id + counter + self._aead.encrypt(bytes(4) + counter, content_key, digest)
        if self.confirmed:
            return bytes([WrapKind.SESSION]) + sealed
        return bytes([WrapKind.OPENING]) + sealed + self._opening


class SessionSender:
    """The client's side of one lease: seals each request to all its hosts at once.

    `random` is `os.urandom` or, in tests, something that can be repeated.
    """

    def __init__(
        self,
        *,
        model: bytes,
        lease: bytes,
        expires: int,
        grant: bytes,
        account_key: Ed25519PrivateKey,
        recipients: Sequence[Recipient],
        random: Random,
    ) -> None:
        self._model, self._lease, self._expires, self._grant = model, lease, expires, grant
        self._account_key = account_key
        self._account = account_key.public_key().public_bytes_raw()
        self._recipients = {recipient.host_id: recipient for recipient in recipients}
        self._random = random
        self._sessions: dict[bytes, _Sending] = {}

    def seal(self, body: bytes, *, price_cap: int) -> SealedRequest:
        """Seal to every host of the lease, opening sessions where there is none yet."""
        sessions = {host: self._session(host) for host in self._recipients}
        known = all(session.confirmed for session in sessions.values())
        header = Header(
            model=self._model,
            lease=self._lease,
            account=self._account,
            price_cap=price_cap,
            expires=self._expires,
            grant=b"" if known else self._grant,
        )
        draft = Draft(header, body, self._random(KEY))
        sealed = draft.assemble((host, by.wrap(draft.content_key, draft.digest)) for host, by in sessions.items())
        return replace(sealed, sessions={host: session.id for host, session in sessions.items()})

    def confirm(self, host_id: bytes, answered: SealedRequest) -> None:
        """Call when this host's answer to `answered` opened: from now on its wrap is 65 bytes."""
        session = self._sessions.get(host_id)
        if session and session.id == answered.sessions[host_id]:
            session.confirmed = True

    def forget(self, host_id: bytes, refused: SealedRequest) -> None:
        """Call when this host said that it does not know the session of `refused`: the next request opens a new one."""
        session = self._sessions.get(host_id)
        if session and session.id == refused.sessions[host_id]:
            del self._sessions[host_id]

    def _session(self, host_id: bytes) -> _Sending:
        session = self._sessions.get(host_id)
        if session is None or session.count >= REQUESTS_MAX:
            session = self._sessions[host_id] = self._open(self._recipients[host_id])
        return session

    def _open(self, recipient: Recipient) -> _Sending:
        key, place = self._random(KEY), _place(recipient.host_id, self._lease, self._account)
        sealed = recipient.encrypt(key, _opening_info(place))
        opening = sealed + self._account_key.sign(_signed(place, sealed))
        return _Sending(_session_id(place, opening), key, opening)


@dataclass(slots=True)
class _Receiving:
    """One session as its receiver sees it: the cipher, and which of the last counters were used."""

    aead: ChaCha20Poly1305
    highest: int = -1
    seen: int = 0  # bit n: counter highest - n was used

    def check(self, counter: int) -> None:
        behind = self.highest - counter
        if behind >= WINDOW or (behind >= 0 and self.seen >> behind & 1):
            raise ReplayError("this request was already received, or is older than the session's window: seal it again")

    def mark(self, counter: int) -> None:
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = (self.seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = counter
        else:
            self.seen |= 1 << -ahead


@dataclass(slots=True)
class _Lease:
    """What is remembered about a lease until it ends."""

    account: bytes
    not_after: int
    sessions: dict[bytes, _Receiving] = field(default_factory=dict)
    one_shots: set[bytes] = field(default_factory=set)  # commitments


class SessionReceiver:
    """The enclave's side: opens each request at most once, and only for the account that holds the lease.

    A lease must be admitted first, by whoever checked the operator's grant; nobody else can make it grow.
    Time never goes back: a host owner who turns the clock back must not bring an ended lease to life.
    """

    def __init__(self, key: HostKey, host_id: bytes) -> None:
        self._key, self._host_id = key, host_id
        self._leases: dict[bytes, _Lease] = {}
        self._ended: list[bytes] = []  # forgotten, and not named by `expire` yet
        self._latest = 0

    def admit(self, lease: bytes, account: bytes, not_after: int) -> None:
        """Let `account` use `lease` until `not_after` (unix seconds). Admitting it again changes nothing.

        Raises:
            SessionLimitError: the host remembers too many leases.
        """
        if lease in self._leases:
            return
        if len(self._leases) >= LEASES_MAX:
            self._sweep()
            if len(self._leases) >= LEASES_MAX:
                raise SessionLimitError("this host serves too many leases: try another host of the lease")
        self._leases[lease] = _Lease(account, not_after)

    def expire(self, now: datetime) -> list[bytes]:
        """Forget the leases that have ended, and name those that were forgotten since the last call."""
        self._advance(now)
        self._sweep()
        ended, self._ended = self._ended, []
        return ended

    def open(self, request: ParsedRequest, *, now: datetime) -> OpenedRequest:
        """Open a request once.

        (1) its lease is admitted, not ended, and held by its account (2) the wrap authenticates and was not used before
        (3) commitment and every chunk hold (4) only then is the wrap marked as used, and a new session kept.

        Raises:
            EnvelopeError: one of its kinds; nothing is remembered then.
        """
        lease = self._check_lease(request.header, now)  # (1)
        if request.wrap[0] == WrapKind.ONE_SHOT:
            return self._open_one_shot(request, lease)
        if request.signature:
            raise MalformedEnvelopeError("a request in a session carries no account signature of its own")
        session_id, counter = self._read(request)
        session = self._find_session(request, session_id, lease)
        session.check(counter)
        nonce = bytes(4) + request.wrap[1 + SESSION_ID : 9 + SESSION_ID]
        content_key = decrypt(session.aead, nonce, request.wrap[9 + SESSION_ID : SESSION_WRAP], request.digest)  # (2)
        opened = open_body(request, content_key)  # (3)
        session.mark(counter)  # (4)
        lease.sessions[session_id] = session
        return opened

    def _check_lease(self, header: Header, now: datetime) -> _Lease:
        self._advance(now)
        lease = self._leases.get(header.lease)
        if lease is None:
            raise LeaseUnknownError("this host does not know the lease: send its grant in the header")
        if header.account != lease.account:
            raise EnvelopeAuthenticationError("the lease belongs to another account")
        if not self._latest < header.expires <= lease.not_after:
            raise EnvelopeExpiredError("the request or its lease has expired: take a new lease")
        return lease

    def _open_one_shot(self, request: ParsedRequest, lease: _Lease) -> OpenedRequest:
        if request.commitment in lease.one_shots:
            raise ReplayError("this request was already received: seal it again")
        if len(lease.one_shots) >= ONE_SHOTS_MAX:
            raise SessionLimitError("too many requests without a session on this lease: open a session")
        opened = open_one_shot(request, self._key)
        lease.one_shots.add(request.commitment)
        return opened

    def _read(self, request: ParsedRequest) -> tuple[bytes, int]:
        if _WRAP_SIZES.get(request.wrap[0]) != len(request.wrap):
            raise MalformedEnvelopeError("the wrap for this host is of no kind this version knows")
        session_id, counter = _WRAP_HEAD.unpack_from(request.wrap, 1)
        return session_id, counter

    def _find_session(self, request: ParsedRequest, session_id: bytes, lease: _Lease) -> _Receiving:
        """The session of this id: a known one, or the one that the wrap opens."""
        opening = request.wrap[SESSION_WRAP:]
        if not opening and (session := lease.sessions.get(session_id)):
            return session
        place = _place(self._host_id, request.header.lease, lease.account)
        if opening and session_id != _session_id(place, opening):
            raise EnvelopeAuthenticationError("the session id does not belong to this opening")
        if session := lease.sessions.get(session_id):
            return session
        if not opening:
            raise SessionUnknownError("this host does not know the session: open a new one")
        if len(lease.sessions) >= SESSIONS_MAX:
            raise SessionLimitError(f"more than {SESSIONS_MAX} sessions on this lease: use one of them, or a new lease")
        sealed, signature = opening[:HPKE_WRAP], opening[HPKE_WRAP:]
        check_account_signature(lease.account, signature, _signed(place, sealed))
        return _Receiving(_wrap_cipher(self._key.decrypt(sealed, _opening_info(place))))

    def _advance(self, now: datetime) -> None:
        self._latest = max(self._latest, int(now.timestamp()))

    def _sweep(self) -> None:
        ended = [lease for lease, kept in self._leases.items() if kept.not_after <= self._latest]
        for lease in ended:
            del self._leases[lease]
        self._ended += ended


def _place(host_id: bytes, lease: bytes, account: bytes) -> bytes:
    return host_id + lease + account  # fixed lengths: 8, 16, 32


def _opening_info(place: bytes) -> bytes:
    return b"chrysalis/1 session\0" + place


def _signed(place: bytes, sealed: bytes) -> bytes:
    return b"chrysalis/1 session signature\0" + place + sha256(sealed).digest()


def _session_id(place: bytes, opening: bytes) -> bytes:
    return sha256(b"chrysalis/1 session id\0" + place + opening).digest()[:SESSION_ID]


def _wrap_cipher(session_key: bytes) -> ChaCha20Poly1305:
    if len(session_key) != KEY:
        raise MalformedEnvelopeError(f"a session key has {KEY} bytes")
    return ChaCha20Poly1305(derive(session_key, b"session wrap"))
