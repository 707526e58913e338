"""The open side of an enclave behind attested TLS, beside the plain one that relays use.

The key lives in memory, for minutes. Its certificate carries evidence and the receipt key's signature
(docs/protocol/ratls.md); a new one is shown from half of its life on, without touching open connections.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.ratls import TlsKeyStatement, build_certificate
from attestation.tls import HANDSHAKE_S, AttestedContext, TlsIdentity
from enclave.errors import RequestError
from enclave.evidence import EvidenceDesk
from enclave.front import Connection, Front, Handler
from enclave.keys import EnclaveKeys

logger = logging.getLogger(__name__)

RENEW_S = 120.0  # half of what is left of a certificate when it is new
RETRY_S = 10.0  # after hardware that did not attest


class TlsFront(Front):
    """A front whose connections begin with an attested handshake."""

    def __init__(
        self, handler: Handler, *, keys: EnclaveKeys, evidence: EvidenceDesk, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(handler)
        self._keys, self._evidence, self._clock = keys, evidence, clock
        self._renewal: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; returns the address in use.

        Raises:
            UnavailableError: the hardware does not attest.
            ValueError: its evidence does not fit into a certificate.
        """
        context = AttestedContext.server(await self._make_identity())
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=1024, ssl=context, ssl_handshake_timeout=HANDSHAKE_S
        )
        self._started(server)
        self._renewal = asyncio.create_task(self._renew(context))
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    async def stop(self, grace_s: float) -> None:
        """See `Front.stop`."""
        if self._renewal is not None:
            self._renewal.cancel()
        await super().stop(grace_s)

    async def _renew(self, context: AttestedContext) -> None:
        wait_s = RENEW_S
        while True:
            await asyncio.sleep(wait_s)
            try:
                context.use(await self._make_identity())
                wait_s = RENEW_S
            except (RequestError, ValueError) as error:  # the old certificate runs out, and clients turn away
                logger.error("the TLS certificate is not renewed: %s", error)  # noqa: TRY400
                wait_s = RETRY_S

    async def _make_identity(self) -> TlsIdentity:
        key = Ed25519PrivateKey.generate()
        statement = TlsKeyStatement.of(key.public_key().public_bytes_raw(), self._clock())
        evidence = await self._evidence.answer(statement.nonce)
        signature = statement.sign(self._keys.receipt)
        certificate = await asyncio.to_thread(build_certificate, statement, evidence=evidence, signature=signature)
        return TlsIdentity(key=key, certificate=certificate)
