"""Reads OpenAI request bodies strictly: what the engine cannot honour is refused by name, never silently dropped."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from attestation.frames import Endpoint
from enclave.engine.base import STOPS_MAX, Message
from enclave.errors import BadRequestError

MESSAGES_MAX = 256
PARTS_MAX = 64
MODEL_NAME_MAX = 256
TOKENS_MAX = 1 << 24
COMPLETION_DEFAULT = 16  # max_tokens of /v1/completions when it is not given, as in the OpenAI API
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ChatAsk(NamedTuple):
    """What a client asks for, before it is tokens; a tuple, because making one costs a third of a frozen dataclass."""

    endpoint: Endpoint
    model: str  # as the client calls it; the header's manifest root decides
    messages: tuple[Message, ...] = ()  # of a chat
    prompt: str = ""  # of a plain completion
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False


def parse_ask(endpoint: Endpoint, body: bytes) -> ChatAsk:
    """Read a body of /v1/chat/completions or /v1/completions.

    A field that is null counts as absent. Fields that carry no meaning for the answer (`user`, `metadata`) are ignored;
    fields of features that do not exist here are accepted only with the value that switches them off.

    Raises:
        BadRequestError: with the field's name as `param`; the message never quotes a value.
    """
    raw = _load(body)
    chat = endpoint is Endpoint.CHAT_COMPLETIONS
    readers = _CHAT_READERS if chat else _COMPLETION_READERS
    fields: dict[str, Any] = {}
    for name, value in raw.items():
        if value is None:
            continue
        reader = readers.get(name)
        if reader is not None:
            fields[name] = reader(value, name)
        else:
            _check_neutral(name, value, raw)
    return ChatAsk(
        endpoint=endpoint,
        model=_required(fields, "model"),
        messages=_required(fields, "messages") if chat else (),
        prompt="" if chat else _required(fields, "prompt"),
        max_tokens=_max_tokens(fields, None if chat else COMPLETION_DEFAULT),
        temperature=fields.get("temperature", 1.0),
        top_p=fields.get("top_p", 1.0),
        stop=fields.get("stop", ()),
        stream=fields.get("stream", False),
        include_usage=_include_usage(fields),
    )


_Neutral = Callable[[Any, Mapping[str, Any]], bool]
_NEUTRAL: dict[str, _Neutral] = {
    "n": lambda value, _: value == 1 and type(value) is int,
    "best_of": lambda value, _: value == 1 and type(value) is int,
    "store": lambda value, _: value is False,
    "echo": lambda value, _: value is False,
    "logprobs": lambda value, _: value is False,
    "frequency_penalty": lambda value, _: value == 0,
    "presence_penalty": lambda value, _: value == 0,
    "logit_bias": lambda value, _: value == {},
    "tools": lambda value, _: value == [],
    "tool_choice": lambda value, _: value in ("none", "auto"),
    "parallel_tool_calls": lambda value, _: isinstance(value, bool),
    "response_format": lambda value, _: value == {"type": "text"},
    "modalities": lambda value, _: value == ["text"],
    "service_tier": lambda value, _: value in ("auto", "default"),
    "seed": lambda value, raw: type(value) is int and raw.get("temperature") == 0,  # greedy: the same answer anyway
    "safety_identifier": lambda value, _: isinstance(value, str),
    "prompt_cache_key": lambda value, _: isinstance(value, str),
}


def _check_neutral(name: str, value: object, raw: Mapping[str, Any]) -> None:
    """A field of something that does not exist here may be sent only with the value that switches it off."""
    neutral = _NEUTRAL.get(name)
    if neutral is None:
        _refuse("this field is not supported: leave it out", name[:64], "unknown_parameter")
    if not neutral(value, raw):
        _refuse("this host cannot do what the field asks for: leave it out", name, "unsupported_value")


_MESSAGE_FIELDS = {"role", "content", "name", "refusal", "annotations"}  # the last three are ignored


def _load(body: bytes) -> dict[str, Any]:
    if not body:
        raise BadRequestError("the body is empty: send a JSON object", "empty_body")
    try:
        text = body.decode().strip(" \t\n\r")
        raw, end = _DECODER.raw_decode(text)  # `decode` looks for white space twice more
    except (ValueError, RecursionError):
        text, raw, end = "", None, -1
    if end != len(text):
        raise BadRequestError(
            "the body is not a JSON object in UTF-8 with unique keys and finite numbers", "invalid_json"
        )
    if not isinstance(raw, dict):
        raise BadRequestError("the body must be a JSON object", "invalid_json")
    return raw


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)  # made once: that costs


def _refuse(message: str, param: str, code: str = "invalid_value") -> NoReturn:
    raise BadRequestError(message, code, param.encode(errors="replace").decode())


def _required(fields: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401  JSON
    if name not in fields:
        _refuse(f"{name} is missing", name, "missing_required_parameter")
    return fields[name]


def _text(value: object, param: str, longest: int | None = None) -> str:
    if not isinstance(value, str):
        _refuse("must be text", param, "invalid_type")
    if longest is not None and not 1 <= len(value) <= longest:
        _refuse(f"must have 1 to {longest} characters", param)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse("must be text without lone surrogates", param)
    return value


def _model(value: object, param: str) -> str:
    return _text(value, param, MODEL_NAME_MAX)


def _messages(value: object, param: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MESSAGES_MAX:
        _refuse(f"must be a list of 1 to {MESSAGES_MAX} messages", param, "invalid_type")
    return tuple([_message(message, f"{param}[{at}]") for at, message in enumerate(value)])


def _message(value: object, param: str) -> Message:
    if not isinstance(value, dict):
        _refuse("must be an object with role and content", param, "invalid_type")
    if not value.keys() <= _MESSAGE_FIELDS and (
        unknown := {name for name, item in value.items() if item not in (None, [])} - _MESSAGE_FIELDS
    ):
        _refuse("this field is not supported: leave it out", f"{param}.{min(unknown)[:64]}", "unknown_parameter")
    role = ROLES.get(value["role"]) if isinstance(value.get("role"), str) else None
    if role is None:
        _refuse(f"must be one of {', '.join(ROLES)}", f"{param}.role")
    return {"role": role, "content": _content(value.get("content"), f"{param}.content")}


def _content(value: object, param: str) -> str:
    if not isinstance(value, list):
        return _text(value, param)
    if not 1 <= len(value) <= PARTS_MAX:
        _refuse(f"must be text, or a list of 1 to {PARTS_MAX} parts", param)
    for part in value:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            _refuse('each part must be {"type": "text", "text": ...}: other kinds are not supported', param)
    return "".join(_text(part["text"], param) for part in value)


def _prompt(value: object, param: str) -> str:
    if isinstance(value, list):
        if len(value) != 1:
            _refuse("must be one text: send one request for each prompt", param)
        return _text(value[0], param)
    return _text(value, param)


def _tokens(value: object, param: str) -> int:
    if type(value) is not int or not 1 <= value <= TOKENS_MAX:
        _refuse(f"must be a whole number from 1 to {TOKENS_MAX}", param)
    return value


def _number(value: object, param: str) -> float:
    if type(value) not in (int, float) or abs(value) > 1e6:  # type: ignore[arg-type]  # type() narrows nothing
        _refuse("must be a number", param, "invalid_type")
    return float(value)  # type: ignore[arg-type]  # as above


def _flag(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        _refuse("must be true or false", param, "invalid_type")
    return value


def _stop(value: object, param: str) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > STOPS_MAX:
        _refuse(f"must be text, or a list of at most {STOPS_MAX} texts", param)
    return tuple([_text(stop, param, 128) for stop in stops])


def _stream_options(value: object, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse("must be an object, and only with stream", param)
    if unknown := value.keys() - {"include_usage", "include_obfuscation"}:  # frames are padded in any case
        _refuse("this field is not supported: leave it out", f"{param}.{min(unknown)[:64]}", "unknown_parameter")
    if value.get("include_usage") is not None:
        _flag(value["include_usage"], "include_usage")
    return value


def _ignored(_: object, __: str) -> None:
    """A field without a meaning for the answer."""


_Reader = Callable[[Any, str], Any]
_READERS: dict[str, _Reader] = {
    "model": _model,
    "max_tokens": _tokens,
    "temperature": _number,
    "top_p": _number,
    "stop": _stop,
    "stream": _flag,
    "stream_options": _stream_options,
    "user": _ignored,
    "metadata": _ignored,
}
_CHAT_READERS: dict[str, _Reader] = {**_READERS, "messages": _messages, "max_completion_tokens": _tokens}
_COMPLETION_READERS: dict[str, _Reader] = {**_READERS, "prompt": _prompt}


def _max_tokens(fields: Mapping[str, Any], default: int | None) -> int | None:
    old, new = fields.get("max_tokens"), fields.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        _refuse("max_tokens and max_completion_tokens differ: send one of them", "max_tokens")
    return old or new or default


def _include_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    if not options:
        return False
    if not fields.get("stream"):
        _refuse("must be an object, and only with stream", "stream_options")
    return options.get("include_usage") is True
