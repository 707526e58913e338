"""The host's side of joining, on the wire: one HTTPS client that believes one CA, by its fingerprint."""

import json
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cluster.certificates import parse_ip
from cluster.enclave_client import EnclaveControl
from cluster.errors import ConfigError, HeadUnreachableError, JoinLaterError, JoinRefusedError
from cluster.join_messages import (
    NONCE_SIZE,
    PIN_SIZE,
    PREFIX,
    CertificateRequest,
    ChallengeRequest,
    Credentials,
    Order,
    OrderRequest,
    check_clock,
    join_statement,
    malformed,
)
from cluster.relay import Address, parse_address

DEFAULT_PORT = 8444
ANSWER_MAX = 64 << 10
TIMEOUT_S = 90.0  # the head waits for evidence, and starts an actor
CONNECT_S = 10.0


def parse_head(text: str) -> Address:
    """HEAD or HEAD:PORT, an IP address as it stands in the head's certificate; ConfigError otherwise."""
    try:
        return Address(ip=parse_ip(text), port=DEFAULT_PORT)
    except ConfigError:
        return parse_address(text)


def parse_pin(text: str) -> bytes:
    """The fingerprint of the cluster's CA, 32 bytes from hexadecimal (colons are allowed); ConfigError otherwise."""
    try:
        pin = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        pin = b""
    if len(pin) != PIN_SIZE:
        raise ConfigError("the pin is the SHA-256 of the cluster's CA, 64 hexadecimal digits: ask the operator for it")
    return pin


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What joining gave this host. Secret."""

    host_id: bytes
    key: bytes = field(repr=False)  # PEM, made here
    credentials: Credentials
    ca: bytes  # PEM


class JoinClient:
    """Speaks to one head. Use as an async context manager."""

    def __init__(
        self,
        head: Address,
        pin: bytes,
        control: EnclaveControl,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = f"https://{head}{PREFIX}"
        self._pin, self._control, self._clock = pin, control, clock
        self._ca = b""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def challenge(self, address: str, name: str, labels: Mapping[str, str]) -> tuple[bytes, bytes]:
        """Have the head challenge the enclave at `address`; returns its host id and a nonce for `certify`.

        Raises:
            JoinRefusedError: asked, and no; the text says what to do.
            JoinLaterError, HeadUnreachableError: no answer.
        """
        request = ChallengeRequest(address=address, time=self._clock(), name=name, labels=labels)
        answer = _object(await self._post("challenge", request.encode()))
        try:
            host_id, nonce = bytes.fromhex(answer["host_id"]), bytes.fromhex(answer["nonce"])
            check_clock(datetime.fromtimestamp(answer["time"], UTC), now=self._clock())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HeadUnreachableError(f"the head's answer to a challenge is malformed: {error}") from error
        if len(nonce) != NONCE_SIZE:
            raise HeadUnreachableError("the head's answer to a challenge is malformed: no nonce")
        return host_id, nonce

    async def certify(self, address: str, host_id: bytes, nonce: bytes) -> Grant:
        """Make a key, have the enclave speak for it, and get its certificate and Ray's token. Raises as `challenge`."""
        key = ec.generate_private_key(ec.SECP256R1())
        ip = parse_address(address).ip
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip)]), critical=False)
        csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        proof = await self._control.prove(join_statement(self._pin, nonce, public, address))
        request = CertificateRequest(nonce=nonce, csr=csr, proof=proof)
        answer = await self._post("certificate", request.encode())
        return Grant(
            host_id=host_id,
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            credentials=Credentials.parse(answer),
            ca=self._ca,
        )

    async def order(self, order: Order, host_id: bytes, *, node_name: str = "", control: str = "") -> str:
        """Give an order that the enclave signs; returns the id of the Ray node, to bind. Raises as `challenge`."""
        answer = await self._give(order, host_id, node_name=node_name, control=control)
        return str(answer.get("node_id", ""))

    async def standing(self, host_id: bytes) -> tuple[str, str]:
        """State and reason that the registry has for this host. Raises as `challenge`."""
        answer = await self._give(Order.STANDING, host_id)
        return str(answer.get("state", ""))[:64], str(answer.get("reason", ""))[:1000]

    async def _give(self, order: Order, host_id: bytes, *, node_name: str = "", control: str = "") -> dict[str, Any]:
        request = OrderRequest(host_id=host_id, time=self._clock(), node_name=node_name, control=control)
        proof = await self._control.prove(request.statement(order, self._pin))
        return _object(await self._post(order.value, replace(request, proof=proof).encode()))

    async def _post(self, path: str, body: bytes) -> bytes:
        session = await self._open()
        return await _ask(session.post(self._url + path, data=body))

    async def _open(self) -> aiohttp.ClientSession:
        """A session that believes the pinned CA only. Until it is fetched and compared, nothing of ours is sent."""
        if self._session is None:
            blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
            async with _session(blind) as session:
                ca = await _ask(session.get(self._url + "ca"))
            self._ca = check_pin(ca, self._pin)
            context = ssl.create_default_context(cadata=self._ca.decode("ascii"))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            self._session = _session(context)
        return self._session


def check_pin(pem: bytes, pin: bytes) -> bytes:
    """The one certificate in `pem`, PEM, if it is the pinned CA; JoinRefusedError otherwise."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise HeadUnreachableError("what listens there shows no CA: is it the join service of a head?") from None
    found = certificate.fingerprint(hashes.SHA256())
    if not secrets.compare_digest(found, pin):
        raise JoinRefusedError(
            "wrong_pin",
            f"the head shows the CA {found.hex()}, and the pin is {pin.hex()}: ask the operator for address and pin "
            "again, over another way; if both are right, somebody is in between",
        )
    return certificate.public_bytes(Encoding.PEM)


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S)
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, trust_env=False, cookie_jar=jar
    )


async def _ask(request: Any) -> bytes:  # noqa: ANN401  aiohttp's context manager has no public name
    try:
        async with request as answer:
            body = bytearray()
            async for part in answer.content.iter_chunked(1 << 14):
                body += part
                if len(body) > ANSWER_MAX:
                    raise HeadUnreachableError(f"an answer of more than {ANSWER_MAX} bytes is not read")
            status: int = answer.status
    except aiohttp.ClientConnectorCertificateError as error:
        cause = error.certificate_error
        words = getattr(cause, "verify_message", "") or str(cause)
        raise JoinRefusedError(
            "head_certificate",
            f"the head's certificate does not hold ({words}): look at this host's clock and at the head's address; "
            "otherwise the operator has to run `chrysalis cluster certs`",
        ) from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise HeadUnreachableError(
            f"the head does not answer ({type(error).__name__}): is its address right, and its join port open?"
        ) from error
    if status == 200:
        return bytes(body)
    raise _refusal(status, bytes(body))


def _refusal(status: int, body: bytes) -> JoinRefusedError | JoinLaterError:
    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"])[:64], str(error["message"])[:1000]
    except (ValueError, KeyError, TypeError, RecursionError):
        code, message = "malformed_refusal", f"the head answered with status {status} and no reason"
    return JoinLaterError(code, message) if status == 429 or status >= 500 else JoinRefusedError(code, message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise malformed("the head's answer is not a JSON object")
    return values
