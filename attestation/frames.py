"""What is said inside the seal: the plaintext of a request and of each chunk of its answer.

    request = u8 endpoint | JSON body as in the OpenAI API
    frame   = u8 type | payload                      one frame is the data of one chunk

An answer is any number of DATA frames and then, in the last chunk, one RECEIPT frame; or one ERROR frame instead.
"""

from enum import IntEnum
from hashlib import sha256
from struct import pack

from attestation.errors import MalformedEnvelopeError


class Endpoint(IntEnum):
    """Which call of the OpenAI API the body belongs to."""

    CHAT_COMPLETIONS = 1
    COMPLETIONS = 2


class FrameType(IntEnum):
    """What the payload of a frame is."""

    DATA = 0  # the JSON answer, or one JSON chunk of a streamed answer
    RECEIPT = 1  # a signed receipt; ends a good answer
    ERROR = 2  # JSON {"status": int, "error": {...}}; ends a failed one


_ENDPOINTS = {bytes([endpoint]): endpoint for endpoint in Endpoint}
_HEADS = {kind: bytes([kind]) for kind in FrameType}


def encode_plain_request(endpoint: Endpoint, body: bytes) -> bytes:
    """The plaintext of a sealed request."""
    return bytes([endpoint]) + body


def parse_plain_request(data: bytes) -> tuple[Endpoint, bytes]:
    """Endpoint and JSON body; raises `MalformedEnvelopeError`."""
    endpoint = _ENDPOINTS.get(data[:1])
    if endpoint is None:
        raise MalformedEnvelopeError("the sealed body does not begin with an endpoint this version knows")
    return endpoint, data[1:]


def encode_frame(kind: FrameType, payload: bytes) -> bytes:
    """The data of one answer chunk."""
    return _HEADS[kind] + payload


def parse_frame(data: bytes) -> tuple[FrameType, bytes]:
    """Type and payload of one answer chunk; raises `MalformedEnvelopeError`."""
    try:
        return FrameType(data[0]), data[1:]
    except (IndexError, ValueError):
        raise MalformedEnvelopeError("an answer frame has no type this version knows") from None


class ResponseHash:
    """SHA-256 over all DATA payloads of an answer, each preceded by its length as u32 big endian."""

    def __init__(self) -> None:
        self._digest = sha256()

    def add(self, payload: bytes) -> None:
        """Take in the next DATA payload."""
        self._digest.update(pack(">I", len(payload)) + payload)

    def digest(self) -> bytes:
        """The hash so far, 32 bytes: what the receipt names."""
        return self._digest.digest()
