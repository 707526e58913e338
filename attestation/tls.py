"""TLS contexts that believe evidence instead of certificate authorities. Both ends verify within the handshake.

    server = AttestedContext.server(identity, check)      asyncio.start_server(..., ssl=server)
    client = AttestedContext.client(check, identity)      asyncio.open_connection(..., ssl=client), aiohttp's ssl=client
    peer = peer_of(writer)                                who is at the other end

They are `ssl.SSLContext`s for every asyncio API. Python's `ssl` has no hook for a certificate's content, but asyncio
and uvloop do all their TLS through the object that a context makes, and take its `do_handshake` at its word. Here that
method returns only after the peer's certificate was appraised (`attestation.ratls.check_certificate`), and raises
`PeerRefusedError` otherwise. Until it returned, nothing can be read or written through the object. So:

- OpenSSL checked before that the peer holds the certificate's private key, and that is the only thing it is asked.
- A client refuses before its last handshake message leaves, so for the server the handshake never ends.
- A server has the client's last message by then, and reads nothing behind it. (TLS 1.3 lets a client begin to send
  before it can know whether the server takes its certificate; those bytes are dropped unread.)
- TLS 1.3 only: no renegotiation. No tickets, and a resumed session is refused: every connection is appraised.

Appraising takes 2 ms of the event loop for a CPU and 4 more for each GPU (bench/attested_tls.py); what held once is
kept by the bytes of the certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation.errors import AttestationError, FreshnessError, MalformedEvidenceError
from attestation.floor_store import FloorStore
from attestation.nvidia import ChainCache
from attestation.policy import AppraisalPolicy
from attestation.ratls import Peer, check_certificate, issuer
from attestation.x509 import encode_pem

HANDSHAKE_S = 10.0  # give this to asyncio as `ssl_handshake_timeout`
PEERS_MAX = 1024  # verdicts kept
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: time is checked once, by `check_certificate`, at our clock
_SSL_OBJECT = "ssl_object"

CheckPeer = Callable[[bytes], Peer]


class PeerRefusedError(ssl.SSLCertVerificationError):
    """The peer's certificate does not hold; the connection carried nothing.

    Attributes:
        refusal: the `AttestationError`, with its checks.
    """

    def __init__(self, refusal: AttestationError) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{type(self.refusal).__name__}: {self.refusal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """A TLS key with the certificate that attests it, DER."""

    key: Ed25519PrivateKey = field(repr=False)
    certificate: bytes


class PeerCheck:
    """Appraises certificates under one policy; what held is kept until it ends."""

    def __init__(
        self,
        policy: AppraisalPolicy,
        *,
        clock: Callable[[], datetime],
        host_id: bytes | None = None,
        floors: FloorStore | None = None,
    ) -> None:
        """Prepare for peers under one policy.

        Args:
            policy: what we accept.
            clock: our time.
            host_id: the only host that is taken; a client that knows whom it asks gives it.
            floors: how new vendors' lists have been; raised by every peer that holds.
        """
        self._policy, self._clock, self._host_id, self._floors = policy, clock, host_id, floors
        self._chains, self._peers = ChainCache(), dict[bytes, Peer]()

    def __call__(self, certificate: bytes) -> Peer:
        """Return who holds this certificate.

        Raises:
            AttestationError: it does not hold.
        """
        now, name = self._clock(), hashlib.sha256(certificate).digest()
        known = self._peers.get(name)
        if known is not None and known.verdict.verified_at <= now < known.verdict.not_after:
            return known
        floors = self._floors.floors if self._floors else None
        peer = check_certificate(
            certificate, self._policy, now=now, host_id=self._host_id, chains=self._chains, floors=floors
        )
        if self._floors:
            self._floors.raise_by(peer.verdict.marks)
        while len(self._peers) >= PEERS_MAX:
            self._peers.pop(next(iter(self._peers)))
        self._peers[name] = peer
        return peer


class AttestedObject(ssl.SSLObject):
    """One TLS connection whose handshake ends only with an appraised peer, where the context asks for one."""

    peer: Peer | None = None
    _done = False
    _outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """Go on with the handshake; see `ssl.SSLObject.do_handshake`.

        Raises:
            PeerRefusedError: the peer's certificate does not hold, or it resumed a session.
        """
        super().do_handshake()
        if self._done:
            return
        check = cast("AttestedContext", self.context).check
        try:
            if check is not None:
                self.peer = self._appraise(check)
        except AttestationError as error:
            self._outgoing.read()  # our last message of the handshake, should somebody send what is left
            raise PeerRefusedError(error) from error
        self._done = True

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401  as the base class has it
        """Read decrypted bytes; `RuntimeError` before the handshake ended, which OpenSSL would else end by itself."""
        self._require_done()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:  # noqa: ANN401  as the base class has it
        """Encrypt bytes; `RuntimeError` before the handshake ended."""
        self._require_done()
        return super().write(data)

    def _appraise(self, check: CheckPeer) -> Peer:
        certificate = self.getpeercert(binary_form=True)
        if certificate is None:
            raise MalformedEvidenceError("the peer shows no certificate")
        if self.session_reused:
            raise FreshnessError("the connection resumes an old session, in which nobody shows anything")
        return check(certificate)

    def _require_done(self) -> None:
        if not self._done:
            raise RuntimeError("the TLS handshake has not ended: nothing can be read or written")


class AttestedContext(ssl.SSLContext):
    """A TLS context that appraises its peers; made by `server` or `client`, for asyncio and uvloop."""

    check: CheckPeer | None = None
    _server = False

    @classmethod
    def server(cls, identity: TlsIdentity, check: CheckPeer | None = None) -> Self:
        """Return a context that shows `identity`; with `check` it asks every client for a certificate and appraises it.

        Without `check` clients are strangers, as on a public server.
        """
        context = cls._make(ssl.PROTOCOL_TLS_SERVER, check)
        context._server = True
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        context.use(identity)
        return context

    @classmethod
    def client(cls, check: CheckPeer, identity: TlsIdentity | None = None) -> Self:
        """Return a context that appraises the server, and shows `identity` to servers that ask for one."""
        context = cls._make(ssl.PROTOCOL_TLS_CLIENT, check)
        if identity is not None:
            context.use(identity)
        return context

    @classmethod
    def _make(cls, protocol: int, check: CheckPeer | None) -> Self:
        context = cls(protocol)
        context.check = check
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # names mean nothing here; `PeerCheck` compares the host id
        context.verify_mode = ssl.CERT_NONE if check is None else ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=issuer())
        context.verify_flags |= _NO_CHECK_TIME
        context.sslobject_class = AttestedObject
        return context

    def use(self, identity: TlsIdentity) -> None:
        """Show this identity from now on; connections that are open, or in their handshake, go on as they are."""
        key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = os.memfd_create("tls identity", os.MFD_CLOEXEC)  # Python reads keys from paths only: this is memory
        try:
            os.write(file, encode_pem((identity.certificate,)).encode() + key)
            self.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> AttestedObject:
        """Make one connection; what asyncio calls."""
        if session is not None or server_side != self._server:
            raise ValueError("an attested context takes no old session, and one side only")
        wrapped = super().wrap_bio(incoming, outgoing, server_side, server_hostname)
        assert isinstance(wrapped, AttestedObject)
        wrapped._outgoing = outgoing
        return wrapped

    def wrap_socket(self, *_: object, **__: object) -> ssl.SSLSocket:
        """Refuse: a blocking socket would not appraise its peer."""
        raise RuntimeError("attested contexts are for asyncio: use asyncio.open_connection or start_server")


def peer_of(stream: asyncio.BaseTransport | asyncio.StreamWriter) -> Peer:
    """Return who is at the other end of an attested connection.

    Raises:
        RuntimeError: it is no attested connection, or the peer was not asked who it is.
    """
    wrapped = stream.get_extra_info(_SSL_OBJECT)
    if not isinstance(wrapped, AttestedObject) or wrapped.peer is None:
        raise RuntimeError("the other end of this connection was not attested")
    return wrapped.peer
