"""What two answers of open hosts are compared by. Pure.

Chats and completions: the text alone, for ids, times and counts differ between hosts that agree. With the numeric rule
the text is read as numbers, as when a model is asked for scores.
"""

from __future__ import annotations

import math
import re

from attestation.frames import Endpoint
from client.batch_file import BatchLine
from client.errors import BadRequestError, ClientError
from client.openai import load_object
from client.redundancy import Agreement

NUMBERS_MAX = 100_000
NOTHING = (math.nan,)  # the value of an answer that is none: it agrees with nothing, not even itself
_BETWEEN = re.compile(r"[\s,;\[\]()]+")


def check_comparable(line: BatchLine) -> None:
    """Raise BadRequestError unless honest hosts give the same answer to a line: sampling has to be greedy."""
    temperature = load_object(line.body).get("temperature")
    if type(temperature) not in {int, float} or temperature != 0:
        raise BadRequestError(
            "copies at open hosts are compared, and sampled answers differ: set temperature to 0",
            "invalid_value",
            "temperature",
        )


def read_value(endpoint: Endpoint, answer: bytes, agreement: Agreement) -> bytes | tuple[float, ...]:
    """Return what an answer, one JSON object, is compared by; `NOTHING` when it is none of this endpoint."""
    try:
        (choice,) = load_object(answer)["choices"]
        text = choice["message"]["content"] if endpoint is Endpoint.CHAT_COMPLETIONS else choice["text"]
    except (ClientError, KeyError, TypeError, ValueError):
        return NOTHING
    if not isinstance(text, str):
        return NOTHING
    if agreement is Agreement.EXACT:
        return text.encode("utf-8", "surrogatepass")
    return _numbers(text)


def _numbers(text: str) -> tuple[float, ...]:
    words = [word for word in _BETWEEN.split(text) if word]
    if not 0 < len(words) <= NUMBERS_MAX:
        return NOTHING
    try:
        return tuple(map(float, words))
    except ValueError:
        return NOTHING
