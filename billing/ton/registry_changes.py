"""What has to change in a registry so that it says what a document says: a difference in words, and the messages.

The document is a mapping; every section and key is optional, and `null` removes. What it does not name stays.

    measurements: {<hex>: {kind: 1, label: engine image 7}, <hex>: null}
    rims: {<hex>: true, <hex>: null}
    models: {<hex>: {name: tiny, context: 512, prompt_price: 200, completion_price: 600}}  # cached_, reasoning_price
    operators: {7: {name: Acme, public_key: <hex>, endpoints: [https://x.example], wallet: "0:<hex>", fee_permille: 50,
                    status: active, channel_delay_s: 86400, terms: <hex>}}
    prices: {7: {<model's root>: {prompt_price: 100, completion_price: 300}, <root>: null}}
    policy: <hex>                                       # SHA-256 of the published policy file
    checkpoint: {log: <hex>, size: 12, root: <hex>}

Prices are nanotons per million tokens. An operator that exists may be given in part: the rest of its terms stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pytoniq_core import Cell

from billing.tariff import Tariff
from billing.ton.address import parse_address
from billing.ton.registry import (
    LogCheckpoint,
    Measurement,
    ModelTerms,
    OperatorStatus,
    OperatorTerms,
    RegistryState,
    remove_checkpoint_body,
    remove_measurement_body,
    remove_model_body,
    remove_operator_body,
    remove_price_body,
    remove_rim_body,
    set_checkpoint_body,
    set_measurement_body,
    set_model_body,
    set_operator_body,
    set_policy_body,
    set_price_body,
    set_rim_body,
)
from billing.ton.registry_entries import NO_DIGEST

__all__ = ["Change", "describe_operator", "plan_changes"]

_SECTIONS = ("measurements", "rims", "models", "operators", "prices", "policy", "checkpoint")
_PRICES = {"prompt_price", "cached_price", "completion_price", "reasoning_price"}
Plain = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One message to the registry: what there is and what there will be, in words; None for nothing."""

    what: str
    before: str | None
    after: str | None
    body: Cell

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.what}: {self.after}"
        return (
            f"- {self.what}: {self.before}" if self.after is None else f"~ {self.what}: {self.before} -> {self.after}"
        )


def plan_changes(document: object, state: RegistryState) -> tuple[Change, ...]:
    """The messages that make the registry say what the document says, in an order in which each is accepted.

    Raises:
        ValueError: the document has another form, a value the contract would refuse, or removes what is not there.
    """
    sections = _mapping(document, "the document", set(_SECTIONS))
    parts = {
        "measurements": _measurements,
        "rims": _rims,
        "models": _models,
        "operators": _operators,
        "prices": _prices,
        "policy": _policy,
        "checkpoint": _checkpoint,
    }
    found = [change for name in _SECTIONS if name in sections for change in parts[name](sections[name], state)]
    return tuple(change for change in found if change.before != change.after)


def describe_operator(terms: OperatorTerms) -> dict[str, Any]:
    """The terms as a document writes them."""
    return {
        "name": terms.name,
        "public_key": terms.public_key.hex(),
        "endpoints": list(terms.endpoints),
        "wallet": terms.wallet.to_str(is_user_friendly=False),
        "fee_permille": terms.fee_permille,
        "status": terms.status.name.lower(),
        "channel_delay_s": terms.channel_delay_s,
        "terms": terms.terms.hex(),
    }


def _measurements(section: object, state: RegistryState) -> Iterator[Change]:
    for key, value in _entries(section, "measurements", state.measurements):
        before = state.measurements.get(key)
        what, words = f"measurement {key.hex()}", _measurement_words(before)
        if value is None:
            yield Change(what=what, before=words, after=None, body=remove_measurement_body(key))
            continue
        given = _mapping(value, what, {"kind", "label"}, whole=True)
        after = Measurement(kind=_int(given["kind"], f"{what}: kind"), label=_text(given["label"], f"{what}: label"))
        yield Change(what=what, before=words, after=_measurement_words(after), body=set_measurement_body(key, after))


def _measurement_words(value: Measurement | None) -> str | None:
    return f"kind {value.kind}, {value.label}" if value else None


def _rims(section: object, state: RegistryState) -> Iterator[Change]:
    known = dict.fromkeys(state.rims, True)
    for key, value in _entries(section, "rims", known):
        if value not in (True, None):
            raise ValueError(f"rim {key.hex()}: write true, or null to remove it")
        before, after = ("allowed" if key in known else None), ("allowed" if value else None)
        body = set_rim_body(key) if value else remove_rim_body(key)
        yield Change(what=f"rim {key.hex()}", before=before, after=after, body=body)


def _models(section: object, state: RegistryState) -> Iterator[Change]:
    for root, value in _entries(section, "models", state.models):
        before, what = state.models.get(root), f"model {root.hex()}"
        if value is None:
            yield Change(what=what, before=_model_words(before), after=None, body=remove_model_body(root))
            continue
        given = _mapping(value, what, {"name", "context"} | _PRICES)
        if missing := {"name", "context"} - given.keys():
            raise ValueError(f"{what} lacks {', '.join(sorted(missing))}")
        after = ModelTerms(
            name=_text(given["name"], f"{what}: name"),
            tariff=_tariff({name: given[name] for name in given.keys() & _PRICES}, what),
            context=_int(given["context"], f"{what}: context"),
        )
        yield Change(
            what=what, before=_model_words(before), after=_model_words(after), body=set_model_body(root, after)
        )


def _model_words(value: ModelTerms | None) -> str | None:
    return f"{value.name}, {_tariff_words(value.tariff)}, context {value.context}" if value else None


def _operators(section: object, state: RegistryState) -> Iterator[Change]:
    for number, value in _numbered(section, "operators"):
        operator, what = state.operators.get(number), f"operator {number}"
        before = describe_operator(operator.terms) if operator else None
        if value is None:
            if operator is None:
                raise ValueError(f"{what} is not in the registry: leave it out")
            yield Change(what=what, before=operator.terms.name, after=None, body=remove_operator_body(number))
            continue
        given = {**(before or {}), **_mapping(value, what, {field.name for field in fields(OperatorTerms)})}
        terms = _operator_terms(given, what, state.network_id)
        body = set_operator_body(number, terms)
        if before is None:
            yield Change(what=what, before=None, after=_words(describe_operator(terms)), body=body)
            continue
        after = describe_operator(terms)
        changed = [name for name in after if after[name] != before[name]]
        old, new = ({name: side[name] for name in changed} for side in (before, after))
        yield Change(what=what, before=_words(old), after=_words(new), body=body)


def _operator_terms(given: Plain, what: str, network_id: int) -> OperatorTerms:
    required = {"name", "public_key", "endpoints", "wallet", "fee_permille"}
    if missing := required - given.keys():
        raise ValueError(f"{what} lacks {', '.join(sorted(missing))}")
    statuses = {status.name.lower(): status for status in OperatorStatus}
    status = given.get("status", "active")
    if status not in statuses:
        raise ValueError(f"{what}: status must be one of {', '.join(statuses)}, got {status!r}")
    endpoints = given["endpoints"]
    if type(endpoints) is not list:
        raise ValueError(f"{what}: endpoints must be a list")
    return OperatorTerms(
        name=_text(given["name"], f"{what}: name"),
        public_key=_hex(given["public_key"], f"{what}: public_key"),
        endpoints=tuple(_text(endpoint, f"{what}: endpoints") for endpoint in endpoints),
        wallet=parse_address(_text(given["wallet"], f"{what}: wallet"), network_id=network_id).address,
        fee_permille=_int(given["fee_permille"], f"{what}: fee_permille"),
        status=statuses[status],
        channel_delay_s=_int(given.get("channel_delay_s", 0), f"{what}: channel_delay_s"),
        terms=_hex(given.get("terms", NO_DIGEST.hex()), f"{what}: terms"),
    )


def _prices(section: object, state: RegistryState) -> Iterator[Change]:
    for number, by_model in _numbered(section, "prices"):
        operator = state.operators.get(number)
        known = operator.prices if operator else {}
        for root, value in _entries(by_model, f"prices of operator {number}", known):
            what, before = f"price of operator {number} for model {root.hex()}", known.get(root)
            words = _tariff_words(before) if before else None
            if value is None:
                yield Change(what=what, before=words, after=None, body=remove_price_body(number, root))
                continue
            tariff = _tariff(_mapping(value, what, _PRICES), what)
            yield Change(
                what=what, before=words, after=_tariff_words(tariff), body=set_price_body(number, root, tariff)
            )


def _policy(section: object, state: RegistryState) -> Iterator[Change]:
    after = NO_DIGEST if section is None else _hex(section, "policy")
    words = [None if digest == NO_DIGEST else digest.hex() for digest in (state.policy.digest, after)]
    yield Change(what="policy", before=words[0], after=words[1], body=set_policy_body(after))


def _checkpoint(section: object, state: RegistryState) -> Iterator[Change]:
    before = state.policy.checkpoint
    if section is None:
        yield Change(what="checkpoint", before=_checkpoint_words(before), after=None, body=remove_checkpoint_body())
        return
    given = _mapping(section, "checkpoint", {"log", "size", "root"}, whole=True)
    after = LogCheckpoint(
        log=_hex(given["log"], "checkpoint: log"),
        size=_int(given["size"], "checkpoint: size"),
        root=_hex(given["root"], "checkpoint: root"),
    )
    if before is not None and before != after and before.log == after.log and after.size <= before.size:
        raise ValueError(f"checkpoint: the registry has size {before.size} of this log, which only grows")
    body = set_checkpoint_body(after)
    yield Change(what="checkpoint", before=_checkpoint_words(before), after=_checkpoint_words(after), body=body)


def _checkpoint_words(value: LogCheckpoint | None) -> str | None:
    return f"{value.size} entries, root {value.root.hex()}, log {value.log.hex()}" if value else None


def _tariff(given: Plain, what: str) -> Tariff:
    if missing := {"prompt_price", "completion_price"} - given.keys():
        raise ValueError(f"{what} lacks {', '.join(sorted(missing))}")
    return Tariff(**{name: _int(price, f"{what}: {name}") for name, price in given.items()})


def _tariff_words(tariff: Tariff) -> str:
    return _words(asdict(tariff))


def _words(values: Plain) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _mapping(value: object, what: str, known: set[str], *, whole: bool = False) -> Plain:
    if type(value) is not dict:
        raise ValueError(f"{what} must be a mapping")
    if unknown := value.keys() - known:
        raise ValueError(f"{what} has unknown keys: {', '.join(sorted(map(str, unknown)))}")
    if whole and (missing := known - value.keys()):
        raise ValueError(f"{what} lacks {', '.join(sorted(missing))}")
    return value


def _entries(section: object, what: str, known: Mapping[bytes, object]) -> Iterator[tuple[bytes, object]]:
    if type(section) is not dict:
        raise ValueError(f"{what} must be a mapping")
    for text, value in section.items():
        key = _hex(text, what)
        if value is None and key not in known:
            raise ValueError(f"{what}: {text} is not in the registry: leave it out")
        yield key, value


def _numbered(section: object, what: str) -> Iterator[tuple[int, object]]:
    if type(section) is not dict:
        raise ValueError(f"{what} must be a mapping")
    for number, value in section.items():
        yield _int(number, f"{what}: an id"), value


def _hex(value: object, what: str) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != 32:
        raise ValueError(f"{what}: write 64 hexadecimal digits in quotes, got {value!r}")
    return data


def _int(value: object, what: str) -> int:
    if type(value) is not int:
        raise ValueError(f"{what} must be a whole number, got {value!r}")
    return value


def _text(value: object, what: str) -> str:
    if type(value) is not str:
        raise ValueError(f"{what} must be text, got {value!r}")
    return value
