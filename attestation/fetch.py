"""Asking vendors' services, and keeping what they signed until it runs out.

Who delivers an endorsement does not matter: what counts is its signature, checked wherever the evidence is verified. So
there is no default address, what is kept is judged by its own expiry and never by HTTP headers, and without a source
(`None`) everything that is kept still works.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from attestation import cbor
from attestation.errors import EndorsementFetchError, MalformedEvidenceError
from attestation.files import read_bounded, write_atomic

RESPONSE_SIZE_MAX = 512 * 1024  # bytes; ten times the largest answer seen
HEADER_SIZE_MAX = 16 * 1024  # of one header that is kept: an issuer chain is 3 KiB
TIMEOUT_S = 20.0
RETRY_AFTER = timedelta(seconds=60)  # after a failure the same is not asked again for this long
FAILURES_MAX = 256
_CACHE_VERSION = 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a service.

    Attributes:
        url: https; plain http to a loopback address only.
        body: what is posted; empty asks with GET.
        content_type: of the body.
        header: response header that is part of the answer; empty when there is none.
        size_max: bytes of the answer that are read.
    """

    url: str
    body: bytes = b""
    content_type: str = ""
    header: str = ""
    size_max: int = RESPONSE_SIZE_MAX

    @property
    def key(self) -> str:
        """The name under which the answer is kept."""
        parts = (self.url.encode(), self.body)
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer nobody has looked at: the body, and the header the request named."""

    body: bytes
    header: str = ""


class Source(Protocol):
    """Answers questions to vendors' services."""

    def fetch(self, request: Request) -> Response:
        """Return the answer; blocks.

        Raises:
            EndorsementFetchError: there is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """The network: TLS with certificate checks, no redirects, no cookies, no proxy of the environment.

    Attributes:
        timeout_s: seconds for one question, from connecting to the last byte.
        ca_file: certificates that are trusted instead of the system's, for a service of one's own.
        proxy: HOST:PORT of an HTTP proxy that tunnels; empty for none.
    """

    timeout_s: float = TIMEOUT_S
    ca_file: Path | None = None
    proxy: str = ""

    def fetch(self, request: Request) -> Response:
        """See `Source`."""
        outcome: queue.SimpleQueue[Response | EndorsementFetchError] = queue.SimpleQueue()
        sockets: list[socket.socket] = []
        worker = threading.Thread(target=self._work, args=(request, sockets, outcome), daemon=True)
        worker.start()
        try:
            answer = outcome.get(timeout=self.timeout_s)
        except queue.Empty:
            for each in sockets:  # wakes the worker, whatever it waits for
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            raise EndorsementFetchError(f"{request.url}: no whole answer in {self.timeout_s} s") from None
        if isinstance(answer, EndorsementFetchError):
            raise answer
        return answer

    def _work(
        self,
        request: Request,
        sockets: list[socket.socket],
        outcome: queue.SimpleQueue[Response | EndorsementFetchError],
    ) -> None:
        try:
            connection = self._connection(request.url)
            with contextlib.closing(connection):
                connection.connect()
                sockets.append(connection.sock)
                outcome.put(_ask(connection, request))
        except EndorsementFetchError as error:
            outcome.put(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcome.put(EndorsementFetchError(f"{request.url}: {type(error).__name__}: {error}"))

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(check_url(url))
        host, port = str(parts.hostname), parts.port
        through, _, through_port = self.proxy.rpartition(":")
        first = (through, int(through_port)) if self.proxy else (host, port)
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        connection = http.client.HTTPSConnection(*first, timeout=self.timeout_s, context=context)
        if self.proxy:
            connection.set_tunnel(host, port)
        return connection


def check_url(url: str) -> str:
    """Return an address that may be asked.

    Raises:
        ValueError: neither https nor http to a loopback address, or with a password, a fragment or odd characters.
    """
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url or parts.username is not None or parts.fragment:
        raise ValueError(f"{url[:80]!r} is no plain URL")
    if not parts.hostname or (
        parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname))
    ):
        raise ValueError(f"{url[:80]!r}: want https://, or http:// to a loopback address")
    return url


@dataclass(slots=True, kw_only=True)
class Fetcher:
    """Answers from the cache while they are good, from the source when they are not.

    Attributes:
        folder: where answers are kept, one file each; nothing is kept with None.
        source: who is asked; None never asks: offline.
        refresh_before: an answer this close to its end is asked for anew, and used if that fails.
    """

    folder: Path | None
    source: Source | None
    refresh_before: timedelta = timedelta(0)
    _failures: OrderedDict[str, tuple[datetime, str]] = field(default_factory=OrderedDict)

    def get(
        self, request: Request, parse: Callable[[Response], _T], expiry: Callable[[_T], datetime], *, now: datetime
    ) -> _T:
        """Return the parsed answer to a question, good at `now`.

        Args:
            request: the question.
            parse: reads an answer; raises MalformedEvidenceError when it is none.
            expiry: when the material in it runs out, as its signer says.
            now: our time.

        Raises:
            EndorsementFetchError: nothing good is kept, and there is no source, or it gave nothing good.
        """
        kept = self._kept(request, parse)
        if kept is not None and expiry(kept) > now + self.refresh_before:
            return kept
        try:
            return self._ask(request, parse, expiry, now)
        except EndorsementFetchError as error:
            if kept is not None and expiry(kept) > now:
                return kept
            ended = f"; what is kept ended {expiry(kept).isoformat()}" if kept is not None else ""
            raise EndorsementFetchError(f"{error}{ended}") from error

    def forget(self, *requests: Request) -> None:
        """Throw away what is kept for these questions: it did not verify."""
        for request in requests:
            if self.folder is not None:
                (self.folder / request.key).unlink(missing_ok=True)

    def _ask(
        self, request: Request, parse: Callable[[Response], _T], expiry: Callable[[_T], datetime], now: datetime
    ) -> _T:
        if self.source is None:
            raise EndorsementFetchError(f"{request.url}: offline")
        failed = self._failures.get(request.key)
        if failed is not None and now - failed[0] < RETRY_AFTER:
            raise EndorsementFetchError(f"{failed[1]} (not asked again yet)")
        try:
            response = self.source.fetch(request)
            answer = _good(request, response, parse, expiry, now)
        except EndorsementFetchError as error:
            self._remember_failure(request, now, str(error))
            raise
        self._failures.pop(request.key, None)
        self._keep(request, response)
        return answer

    def _remember_failure(self, request: Request, now: datetime, why: str) -> None:
        self._failures[request.key] = now, why
        self._failures.move_to_end(request.key)
        if len(self._failures) > FAILURES_MAX:
            self._failures.popitem(last=False)

    def _kept(self, request: Request, parse: Callable[[Response], _T]) -> _T | None:
        """Return a kept answer; a file that is damaged, or of another question, counts as none."""
        if self.folder is None:
            return None
        try:
            data = read_bounded(self.folder / request.key, cbor.SIZE_MAX)
            match cbor.decode(data):
                case {"v": 1, "url": request.url, "body": request.body, "answer": bytes(body), "header": str(header)}:
                    return parse(Response(body=body, header=header))
        except (OSError, MalformedEvidenceError):
            pass
        return None

    def _keep(self, request: Request, response: Response) -> None:
        if self.folder is None:
            return
        document: Mapping[str, cbor.Value] = {
            "v": _CACHE_VERSION,
            "url": request.url,
            "body": request.body,
            "answer": response.body,
            "header": response.header,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / request.key, cbor.encode(document))
        except OSError as error:
            raise EndorsementFetchError(f"cannot keep answers in {self.folder}: {error.strerror}") from error


def _good(
    request: Request,
    response: Response,
    parse: Callable[[Response], _T],
    expiry: Callable[[_T], datetime],
    now: datetime,
) -> _T:
    if len(response.body) > request.size_max:
        raise EndorsementFetchError(f"{request.url}: more than {request.size_max} bytes")
    try:
        answer = parse(response)
    except MalformedEvidenceError as error:
        raise EndorsementFetchError(f"{request.url}: not what was asked for: {error}") from error
    if expiry(answer) <= now:
        raise EndorsementFetchError(f"{request.url}: what it sent ended {expiry(answer).isoformat()}")
    return answer


def _ask(connection: http.client.HTTPConnection, request: Request) -> Response:
    parts = urlsplit(request.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"accept-encoding": "identity", "user-agent": "chrysalis"}
    if request.body:
        headers["content-type"] = request.content_type
    connection.request("POST" if request.body else "GET", target, request.body or None, headers)
    with contextlib.closing(connection.getresponse()) as answer:
        return _read(answer, request)


def _read(answer: http.client.HTTPResponse, request: Request) -> Response:
    if answer.status != http.client.OK:
        raise EndorsementFetchError(f"{request.url}: status {answer.status}")
    header = (answer.getheader(request.header) or "") if request.header else ""
    if len(header) > HEADER_SIZE_MAX:
        raise EndorsementFetchError(f"{request.url}: header {request.header} of {len(header)} characters")
    body = answer.read(request.size_max + 1)
    if len(body) > request.size_max:
        raise EndorsementFetchError(f"{request.url}: more than {request.size_max} bytes")
    if answer.length:  # the length it announced did not come
        raise EndorsementFetchError(f"{request.url}: the answer was cut short")
    return Response(body=body, header=header)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
