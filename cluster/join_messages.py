"""What a host that joins and the head say to each other: JSON over TLS, and the bytes that the enclave signs.

    POST /v1/join/challenge    who I am and where my enclave listens       -> a nonce, once the evidence holds
    POST /v1/join/certificate  a certificate request for my own key        -> certificate and token of Ray
    POST /v1/join/bind, /drain, /leave   an order of a host that joined    -> its node, or nothing
    POST /v1/join/standing     what the registry makes of me               -> state and reason

Layouts and codes: docs/protocol/join.md.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from cluster.errors import ConfigError, JoinRefusedError
from cluster.relay import parse_address

PREFIX = "/v1/join/"
JOIN_TAG = b"chrysalis/1 join\0"
ORDER_TAG = b"chrysalis/1 join order\0"
BODY_MAX = 16 << 10
NONCE_SIZE, PIN_SIZE, PROOF_SIZE, HOST_ID_SIZE = 32, 32, 64, 8
CSR_MAX = 4096  # bytes of DER; one of ours has some 250
LABELS_MAX = 16
CLOCK_OFF_MAX = timedelta(seconds=60)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9./_-]{0,62}")
_CONTROL_MAX = 107  # sun_path of unix(7)


class Order(StrEnum):
    """What a host that joined may ask for."""

    BIND = "bind"  # its Ray node is up
    DRAIN = "drain"  # no new work
    LEAVE = "leave"
    STANDING = "standing"  # to be told state and reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest:
    """A host asks to be challenged. Everything in it is its own word."""

    address: str  # IP:PORT of the enclave
    time: datetime  # of the host's clock
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ip(self) -> str:
        """The machine's address."""
        return str(parse_address(self.address).ip)

    @classmethod
    def parse(cls, body: bytes) -> "ChallengeRequest":
        """Read a request body; JoinRefusedError when it is not one."""
        values = _object(body, {"address", "time", "name", "labels"})
        address, labels = _address(values, "address"), values["labels"]
        if not isinstance(labels, dict) or len(labels) > LABELS_MAX:
            raise malformed(f"labels must be an object with at most {LABELS_MAX} names")
        check_labels(labels)
        return cls(address=address, time=_time(values), name=check_name(_text(values, "name", 63)), labels=labels)

    def encode(self) -> bytes:
        """The request body."""
        at = int(self.time.timestamp())
        return _json({"address": self.address, "time": at, "name": self.name, "labels": dict(self.labels)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """A host that was challenged asks for a certificate of its own key."""

    nonce: bytes  # 32, of the challenge
    csr: bytes  # PKCS #10, DER
    proof: bytes  # 64, by the enclave over `join_statement`

    @classmethod
    def parse(cls, body: bytes) -> "CertificateRequest":
        """Read a request body; JoinRefusedError when it is not one."""
        values = _object(body, {"nonce", "csr", "proof"})
        csr = _bytes(values, "csr", None)
        return cls(nonce=_bytes(values, "nonce", NONCE_SIZE), csr=csr, proof=_bytes(values, "proof", PROOF_SIZE))

    def encode(self) -> bytes:
        """The request body."""
        return _json({"nonce": self.nonce.hex(), "csr": self.csr.hex(), "proof": self.proof.hex()})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """An order of a host that joined, signed by its enclave."""

    host_id: bytes  # 8
    time: datetime
    proof: bytes = b""  # 64, by the enclave over `statement`
    node_name: str = ""  # to bind: of the Ray node
    control: str = ""  # to bind: path of the enclave's control socket on the host

    @classmethod
    def parse(cls, body: bytes) -> "OrderRequest":
        """Read a request body; JoinRefusedError when it is not one."""
        values = _object(body, {"host_id", "time", "proof", "node_name", "control"})
        node_name, control = _text(values, "node_name", 63), _text(values, "control", _CONTROL_MAX)
        if control and (not PurePosixPath(control).is_absolute() or not control.isprintable()):
            raise malformed("control must be the absolute path of the enclave's control socket")
        return cls(
            host_id=_bytes(values, "host_id", HOST_ID_SIZE),
            time=_time(values),
            proof=_bytes(values, "proof", PROOF_SIZE),
            node_name=check_name(node_name) if node_name else "",
            control=control,
        )

    def encode(self) -> bytes:
        """The request body."""
        return _json(
            {
                "host_id": self.host_id.hex(),
                "time": int(self.time.timestamp()),
                "proof": self.proof.hex(),
                "node_name": self.node_name,
                "control": self.control,
            }
        )

    def statement(self, order: Order, pin: bytes) -> bytes:
        """What the enclave signs (its own tag before it): this order, of this host, to this cluster, at this time."""
        said = hashlib.sha256(f"{order}\0{self.node_name}\0{self.control}".encode()).digest()
        return ORDER_TAG + pin + self.host_id + int(self.time.timestamp()).to_bytes(8, "big") + said


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a host gets that may join. Secret."""

    certificate: str = field(repr=False)  # PEM: its own, and the joining CA's
    token: str = field(repr=False)
    not_after: datetime
    ray_address: str  # HOST:PORT of the control store
    settings: Mapping[str, str]  # of the cluster, from SHARED_SETTINGS

    @classmethod
    def parse(cls, body: bytes) -> "Credentials":
        """Read an answer; JoinRefusedError when it is not one."""
        values = _object(body, {"certificate", "token", "not_after", "ray_address", "settings"})
        settings = values["settings"]
        if not isinstance(settings, dict) or not settings.keys() <= SHARED_SETTINGS:
            raise malformed("settings holds others than the shared ones")
        check_labels(settings)
        return cls(
            certificate=_text(values, "certificate", BODY_MAX),
            token=_text(values, "token", 1024),
            not_after=_moment(values["not_after"]),
            ray_address=_address(values, "ray_address"),
            settings=settings,
        )

    def encode(self) -> bytes:
        """The answer's body."""
        return _json(
            {
                "certificate": self.certificate,
                "token": self.token,
                "not_after": int(self.not_after.timestamp()),
                "ray_address": self.ray_address,
                "settings": dict(self.settings),
            }
        )


SHARED_SETTINGS = frozenset(  # what Serve's replicas on a host must have as the head has it
    {
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
    }
)


def join_statement(pin: bytes, nonce: bytes, public_key: bytes, address: str) -> bytes:
    """What the enclave signs (its own tag before it): for this challenge this key, and I am at this IP:PORT.

    Args:
        pin: SHA-256 of the cluster's CA, 32 bytes.
        nonce: of the challenge, 32 bytes.
        public_key: SubjectPublicKeyInfo, DER.
        address: as in the challenge request.
    """
    return JOIN_TAG + pin + nonce + hashlib.sha256(public_key).digest() + hashlib.sha256(address.encode()).digest()


def check_clock(theirs: datetime, *, now: datetime) -> None:
    """JoinRefusedError when two clocks are too far apart for certificates and evidence to hold on both sides."""
    if abs(theirs - now) > CLOCK_OFF_MAX:
        seconds = abs(theirs - now).total_seconds()
        raise JoinRefusedError(
            "clock_off",
            f"the clocks of head and host are {seconds:.0f} s apart, and {CLOCK_OFF_MAX.total_seconds():.0f} s are "
            "allowed: set this host's clock (NTP), or ask the operator to look at the head's",
        )


def check_name(name: str) -> str:
    """The name, if it is letters, digits, dots and hyphens; JoinRefusedError otherwise."""
    if not _NAME.fullmatch(name):
        raise malformed(f"{name!r} is not a name: 1 to 63 letters, digits, dots, hyphens")
    return name


def check_labels(labels: Mapping[Any, Any]) -> None:
    """JoinRefusedError unless all names and values are short words, as Ray's labels have to be."""
    for word in (*labels.keys(), *labels.values()):
        if not isinstance(word, str) or not _LABEL.fullmatch(word):
            raise malformed(f"{word!r} is not a label: 1 to 63 letters, digits, dots, hyphens")


def malformed(message: str) -> JoinRefusedError:
    """The refusal of what is not in the protocol."""
    return JoinRefusedError("malformed_request", message)


def _object(body: bytes, keys: set[str]) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.keys() != keys:
        raise malformed(f"send a JSON object of exactly: {', '.join(sorted(keys))}")
    return values


def _text(values: Mapping[str, Any], key: str, size_max: int) -> str:
    value = values[key]
    if not isinstance(value, str) or len(value) > size_max:
        raise malformed(f"{key} must be text of at most {size_max} characters")
    return value


def _address(values: Mapping[str, Any], key: str) -> str:
    text = _text(values, key, 64)
    try:
        parsed = parse_address(text)
    except ConfigError as error:
        raise malformed(f"{key}: {error}") from None
    if str(parsed) != text:
        raise malformed(f"{key}: {text!r} is not written as IP:PORT")
    return text


def _bytes(values: Mapping[str, Any], key: str, size: int | None) -> bytes:
    text = _text(values, key, 2 * (size or CSR_MAX))
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not value or len(value) != (size or len(value)):
        raise malformed(f"{key} must be {size or 'some'} bytes in hexadecimal")
    return value


def _time(values: Mapping[str, Any]) -> datetime:
    return _moment(values["time"])


def _moment(value: object) -> datetime:
    if type(value) is not int or not 0 <= value < 1 << 33:
        raise malformed("a time is a whole number of unix seconds")
    return datetime.fromtimestamp(value, UTC)


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode()
