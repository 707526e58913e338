"""The relay's HAProxy configuration, rendered from a few settings. Pure: hosts, secrets and sockets come later.

A request takes this way: path and method, ticket (signature, algorithm, expiry, host), host map, the account's rate;
then straight to the address the map holds. Every refusal has the OpenAI error shape and says what to do.

Three traps shape it. Without a destination HAProxy would connect to the client's own destination, that is itself,
for ever: a host id that is not in the map is answered 404 before. A chunked or upgraded request could mean something
else to the next server: only bodies with a length pass, and only HTTP/1. The ticket is for the relay alone: it is
removed, so that no host can spend an account's rate.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SECRET_VARIABLE = "CHRYSALIS_TICKET_SECRET"  # noqa: S105  a name; the secret itself is never on disk
HOSTS_MAX = 65_536  # whose outcomes are counted at once
ACCOUNTS_MAX = 100_000  # accounts counted at once; the one idle longest is forgotten first
RATE_PERIOD_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What one relay lets through."""

    requests_per_account: int = 6000  # in RATE_PERIOD_S
    body_bytes: int = 4 << 20
    connections: int = 2000
    threads: int = 2
    silence_s: int = 300  # longest pause inside an answer
    connect_s: int = 2

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"relay_limits: {name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFiles:
    """Where the relay keeps its files: a folder nobody else can enter."""

    folder: Path

    @property
    def config(self) -> Path:
        """HAProxy's configuration."""
        return self.folder / "haproxy.cfg"

    @property
    def hosts(self) -> Path:
        """The map's name; its content lives in HAProxy's memory."""
        return self.folder / "hosts.map"

    @property
    def admin(self) -> Path:
        """The admin socket."""
        return self.folder / "admin.sock"

    @property
    def log(self) -> Path:
        """What HAProxy says when it cannot start."""
        return self.folder / "haproxy.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP status with an OpenAI error body."""

    status: int
    type: str
    code: str
    message: str

    def __str__(self) -> str:
        """The rest of an HAProxy line that returns it."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        body = json.dumps({"error": error}).replace("\\", "\\\\").replace('"', '\\"')
        return f'status {self.status} content-type application/json string "{body}"'


def _request(status: int, code: str, message: str) -> Refusal:
    return Refusal(status=status, type="invalid_request_error", code=code, message=message)


def _ticket(status: int, code: str, message: str) -> Refusal:
    return Refusal(status=status, type="authentication_error", code=code, message=message)


def _server(status: int, code: str, message: str) -> Refusal:
    return Refusal(status=status, type="server_error", code=code, message=message)


NO_PATH = _request(404, "not_found", "the relay knows POST /h/<host id>/sealed and /h/<host id>/evidence only")
NO_METHOD = _request(405, "method_not_allowed", "use POST")
NO_LENGTH = _request(411, "length_required", "send the body with a content-length, not in chunks")
TOO_LARGE = _request(413, "request_too_large", "the body is larger than this relay takes: send a shorter prompt")
NO_TICKET = _ticket(401, "ticket_missing", "send the ticket of your lease as Authorization: Bearer")
BAD_TICKET = _ticket(401, "ticket_invalid", "the ticket was not signed by this operator: take a new lease")
OLD_TICKET = _ticket(401, "ticket_expired", "the ticket has expired: take a new lease")
OTHER_HOST = _ticket(403, "ticket_for_another_host", "this ticket is for another host: use the one of this host")
NO_HOST = _request(404, "host_gone", "this host is not in service: use another candidate or take a new lease")
TOO_FAST = Refusal(
    status=429,
    type="rate_limit_error",
    code="rate_limited",
    message=f"this account sends too many requests in {RATE_PERIOD_S} s: wait a second",
)
OWN_ERRORS = (  # what HAProxy answers by itself
    _request(400, "bad_request", "this is not a valid HTTP/1.1 request"),
    _request(408, "request_timeout", "the request did not arrive in time"),
    _server(500, "relay_error", "the relay failed: try again"),
    _server(502, "host_failed", "the host broke off before it answered: use another candidate"),
    _server(503, "host_unreachable", "the host cannot be reached: use another candidate"),
    _server(504, "host_silent", "the host did not answer in time: use another candidate"),
)


def render_config(files: RelayFiles, limits: RelayLimits, *, listener: int) -> str:
    """The whole configuration file.

    Args:
        files: the relay's own folder.
        limits: what it lets through.
        listener: number of the inherited file descriptor that already listens.
    """
    own_errors = "\n".join(f"    http-error {error}" for error in OWN_ERRORS)
    return f"""\
global
    stats socket {files.admin} mode 600 level admin
    maxconn {limits.connections}
    nbthread {limits.threads}
    hard-stop-after 10s

defaults
    mode http
    option http-no-delay
    http-reuse always
    retries 1
    timeout connect {limits.connect_s}s
    timeout client {limits.silence_s}s
    timeout server {limits.silence_s}s
    timeout http-request 10s
    timeout http-keep-alive 60s
{own_errors}

backend accounts
    stick-table type string len 64 size {ACCOUNTS_MAX} expire 10m store http_req_cnt,http_req_rate({RATE_PERIOD_S}s)

backend outcomes
    stick-table type string len 16 size {HOSTS_MAX} expire 60m store gpc(2)

frontend relay
    bind fd@{listener} proto h1
{_rules(files, limits)}
    http-after-response sc-inc-gpc(0,1) if {{ status 200 }}
    http-after-response sc-inc-gpc(1,1) if {{ status ge 500 }}
    default_backend hosts

backend hosts
    http-request set-dst var(txn.address),field(1,|)
    http-request set-dst-port var(txn.address),field(2,|)
    server host 0.0.0.0:0
"""


def _rules(files: RelayFiles, limits: RelayLimits) -> str:
    token = "http_auth_bearer"  # noqa: S105  the name of an HAProxy fetch
    rules = [
        f"http-request return {NO_PATH} unless {{ path -m reg ^/h/[0-9a-f]{{16}}/(sealed|evidence)$ }}",
        f"http-request return {NO_METHOD} unless METH_POST",
        f"http-request return {NO_LENGTH} unless {{ req.hdr_cnt(content-length) eq 1 }}",
        f"http-request return {TOO_LARGE} if {{ req.hdr_val(content-length) gt {limits.body_bytes} }}",
        f"http-request return {NO_TICKET} unless {{ req.hdr_cnt(authorization) eq 1 }}",
        f"http-request set-var(txn.algorithm) {token},jwt_header_query('$.alg')",
        f"http-request set-var(txn.ticket_host) {token},jwt_payload_query('$.host')",
        f"http-request set-var(txn.account) {token},jwt_payload_query('$.account')",
        f"http-request set-var(txn.expires) {token},jwt_payload_query('$.exp','int')",
        "http-request set-var(txn.now) date",
        "http-request set-var(txn.host) path,field(3,/)",
        f"http-request return {BAD_TICKET} unless {{ var(txn.algorithm) -m str HS256 }}",
        f'http-request return {BAD_TICKET} unless {{ {token},jwt_verify(HS256,"${{{SECRET_VARIABLE}}}") -m int 1 }}',
        f"http-request return {BAD_TICKET} unless {{ var(txn.account) -m len 64 }}",
        f"http-request return {OLD_TICKET} unless {{ var(txn.expires),sub(txn.now) -m int gt 0 }}",
        f"http-request return {OTHER_HOST} unless {{ var(txn.ticket_host),strcmp(txn.host) eq 0 }}",
        f"http-request set-var(txn.address) var(txn.host),map_str({files.hosts})",
        f"http-request return {NO_HOST} unless {{ var(txn.address) -m found }}",
        # asked before it is counted: were refusals counted too, an account that keeps asking would stay refused
        f"http-request return {TOO_FAST} if"
        f" {{ var(txn.account),table_http_req_rate(accounts) ge {limits.requests_per_account} }}",
        "http-request track-sc0 var(txn.account) table accounts",
        "http-request track-sc1 var(txn.host) table outcomes if { path_end /sealed }",
        *(f"http-request del-header {name}" for name in ("authorization", "upgrade", "x-forwarded-for", "forwarded")),
    ]
    return "\n".join(f"    {rule}" for rule in rules)
