"""The lines of a batch: OpenAI's batch input read as a stream, its output lines made. Pure but for the reading.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ..., "messages": [...]}}
    {"id": ..., "custom_id": "a", "response": {"status_code", "request_id", "body"}, "error": null, "chrysalis": {...}}

Source: OpenAI API reference, Batch, "The request input object" and "The request output object".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from attestation.frames import Endpoint
from billing.money import Nanotons
from billing.tariff import Usage, quote
from client.config import BODY_LIMIT
from client.errors import AnswerError, BatchError, BatchInputError, ClientError
from client.openai import PATHS, error_body, load_object
from client.registry import ModelOffer

LINE_MAX = BODY_LIMIT + (64 << 10)  # bytes; what stands around a body needs less
CUSTOM_ID_MAX = 512  # characters
COMPLETION_DEFAULT = 16  # max_tokens of /v1/completions when it is not given, as in the OpenAI API
TEMPLATE_TOKENS, MESSAGE_TOKENS = 64, 16  # what a chat template may add, beside a token for each byte
_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of a batch."""

    number: int  # from 1
    custom_id: str
    endpoint: Endpoint
    model: str  # empty when the body names none: the line will be answered with an error
    body: bytes  # JSON
    prompt_tokens_max: int  # a token has at least one byte
    completion_tokens_max: int | None  # None: what the model's context leaves

    def price_max(self, offer: ModelOffer, coefficient: int) -> Nanotons:
        """Return the most that the line can cost at a host with this coefficient."""
        prompt, completion = self.usage_max(offer.context)
        return quote(prompt, completion, offer.tariff, coefficient)

    def usage_max(self, context: int) -> tuple[int, int]:
        """Return the most tokens of prompt and completion, which share the model's context."""
        prompt = min(self.prompt_tokens_max, context)
        given = self.completion_tokens_max
        return prompt, context if given is None else min(given, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLine:
    """A line as it stands in the file."""

    number: int  # from 1, blank lines counted
    start: int  # offset in the file, bytes
    data: bytes


def read_lines(file: BinaryIO) -> Iterator[RawLine]:
    """Yield the lines that are not blank; holds one at a time.

    Raises:
        BatchInputError: one is longer than LINE_MAX.
    """
    start = number = 0
    while data := file.readline(LINE_MAX + 1):
        number += 1
        if len(data) > LINE_MAX:
            raise BatchInputError(number, f"it has more than {LINE_MAX} bytes: hosts read no longer requests")
        if data.strip():
            yield RawLine(number=number, start=start, data=data)
        start += len(data)


def parse_line(number: int, data: bytes) -> BatchLine:
    """Read one line of the input.

    What its body means is judged when it is asked: that gives the line an error of its own, not the batch.

    Raises:
        BatchInputError: it is not a request of a batch.
    """
    try:
        fields = load_object(data.strip())
    except ClientError:
        raise BatchInputError(number, "it is not one JSON object in UTF-8 with unique keys") from None
    if fields.keys() != _FIELDS:
        wrong = ", ".join(sorted(fields.keys() ^ _FIELDS))[:200]
        raise BatchInputError(number, f"it needs exactly custom_id, method, url and body; look at: {wrong}")
    custom_id, body = fields["custom_id"], fields["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_MAX:
        raise BatchInputError(number, f"custom_id must be text of 1 to {CUSTOM_ID_MAX} characters")
    if fields["method"] != "POST":
        raise BatchInputError(number, 'method must be "POST"')
    endpoint = PATHS.get(fields["url"]) if isinstance(fields["url"], str) else None
    if endpoint is None:
        raise BatchInputError(number, f"url must be one of {', '.join(PATHS)}")
    if not isinstance(body, dict):
        raise BatchInputError(number, "body must be a JSON object")
    try:
        custom_id.encode()
        encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise BatchInputError(number, "it contains half of a surrogate pair: write whole characters") from None
    messages, model = body.get("messages"), body.get("model")
    extra = TEMPLATE_TOKENS + MESSAGE_TOKENS * (len(messages) if isinstance(messages, list) else 0)
    return BatchLine(
        number=number,
        custom_id=custom_id,
        endpoint=endpoint,
        model=model if isinstance(model, str) else "",
        body=encoded,
        prompt_tokens_max=len(encoded) + extra,
        completion_tokens_max=_completion_max(body, endpoint),
    )


def _completion_max(body: dict[str, Any], endpoint: Endpoint) -> int | None:
    given = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    counts = [value for value in given if type(value) is int and value > 0]
    if counts:
        return max(counts)
    return COMPLETION_DEFAULT if endpoint is Endpoint.COMPLETIONS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """What a line came to: `output` is its line of the output, with the line break."""

    status: int  # as HTTP: 200 means answered
    code: str  # of the error; empty when answered
    price: Nanotons
    output: bytes


def make_answer(
    line: BatchLine,
    name: str,
    payload: bytes,
    *,
    host: str,
    receipt: str,
    usage: Usage,
    price: Nanotons,
    copies: Sequence[Mapping[str, Any]] = (),
) -> LineResult:
    """Return the result of an answered line.

    Args:
        line: the request.
        name: its id, as in the client's book of receipts.
        payload: the answer, one JSON object.
        host: the verified host's id, hex.
        receipt: the request hash, hex.
        usage: what the receipt counts.
        price: what the receipt asks; with copies, what those that are credited ask together.
        copies: of a line of the open tier, what each came to.

    Raises:
        AnswerError: the host's answer is not a JSON object.
    """
    try:
        body = load_object(payload)
    except ClientError as error:
        raise AnswerError(host, "it is not one JSON object") from error
    paid = {
        "host": host,
        "receipt": receipt,
        "price_nanotons": price,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if copies:
        paid["copies"] = list(copies)
    return LineResult(status=200, code="", price=price, output=_output(line, name, 200, body, paid))


def make_error(line: BatchLine, name: str, error: ClientError) -> LineResult:
    """Return the result of a line that ended in an error; it stands where OpenAI's own errors of HTTP stand."""
    output = _output(line, name, error.status, error_body(error), None)
    return LineResult(status=error.status, code=error.code, price=Nanotons(0), output=output)


def _output(line: BatchLine, name: str, status: int, body: dict[str, Any], paid: dict[str, Any] | None) -> bytes:
    row = {
        "id": name,
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": name, "body": body},
        "error": None,
        "chrysalis": paid,
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def open_input(path: Path) -> BinaryIO:
    """Open the input.

    Raises:
        BatchError: it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise BatchError(f"cannot read {path}: {error.strerror}; name a file of requests") from error
