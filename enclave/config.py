"""The enclave's settings: one YAML file, read strictly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attestation.endorse import Endorser
from attestation.endorse_settings import parse_endorser
from attestation.errors import PolicyError
from attestation.policy_file import read_job_bundles
from enclave.engine import ENGINES
from enclave.errors import StartError

MODELS_MAX = 16
_REQUIRED = {"listen", "control", "state", "payee", "operator_key", "models", "engine", "hardware"}
_OPTIONAL = {
    "coefficient",
    "max_running",
    "max_waiting",
    "coalesce_ms",
    "context",
    "endorsements",
    "listen_tls",
    "job_policy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveConfig:
    """Settings of one enclave process. Paths are absolute, keys are raw bytes."""

    host: str
    port: int  # 0 lets the system choose
    control: Path  # unix socket for the Ray side of this host, made with mode 0600
    state: Path  # folder for the receipt journal
    payee: bytes  # 33: workchain as one signed byte, account id
    operator_key: bytes  # Ed25519, 32: signs grants
    models: tuple[Path, ...]
    engine: str
    simulated: Path | None  # simulated hardware, None when there is none at all
    coefficient: int = 1000  # thousandths of the tariff: grants that offer less are refused
    max_running: int = 32  # requests in the engine at once
    max_waiting: int = 64  # more that may wait for it
    coalesce_ms: int = 0  # how long to gather events of a stream into one, after the first token
    endorser: Endorser | None = None  # fetches endorsements; None uses what the hardware brings
    tls: tuple[str, int] | None = None  # where attested TLS listens too, for clients that come without the relay
    job_bundles: frozenset[bytes] = frozenset()  # SHA-256 of jobs' code that may run here, as `job_policy` said
    job_policy: Path | None = None  # the file they were read from; it is read again when it changes
    context: int | None = None  # most tokens of prompt and answer; None leaves it to the engine


def load_config(path: Path) -> EnclaveConfig:
    """Read and check a settings file; relative paths are relative to it.

    Raises:
        StartError: unreadable, a key missing, unknown or of the wrong form; the message names the key.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartError(f"cannot read the settings in {path}: {type(error).__name__}") from error
    if not isinstance(raw, dict):
        raise StartError(f"{path} does not hold settings as `key: value`")
    if missing := _REQUIRED - raw.keys():
        raise StartError(f"{path} lacks: {', '.join(sorted(missing))}")
    if unknown := raw.keys() - _REQUIRED - _OPTIONAL:
        raise StartError(f"{path} has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    base = path.resolve().parent
    host, port = _listen(raw["listen"])
    return EnclaveConfig(
        host=host,
        port=port,
        control=base / _text(raw, "control"),
        state=base / _text(raw, "state"),
        payee=_payee(_text(raw, "payee")),
        operator_key=_hex(_text(raw, "operator_key"), 32, "operator_key"),
        models=_models(raw["models"], base),
        engine=_engine(raw["engine"]),
        simulated=_hardware(raw["hardware"], base),
        coefficient=_number(raw, "coefficient", 1000, 0, 1_000_000),
        max_running=_number(raw, "max_running", 32, 1, 4096),
        max_waiting=_number(raw, "max_waiting", 64, 0, 65536),
        coalesce_ms=_number(raw, "coalesce_ms", 0, 0, 1000),
        endorser=_endorser(raw["endorsements"], base, base / _text(raw, "state")) if "endorsements" in raw else None,
        tls=_listen(raw["listen_tls"], "listen_tls") if "listen_tls" in raw else None,
        job_bundles=_job_bundles(base / _text(raw, "job_policy")) if "job_policy" in raw else frozenset(),
        job_policy=base / _text(raw, "job_policy") if "job_policy" in raw else None,
        context=_number(raw, "context", 0, 1, 1 << 24) if "context" in raw else None,
    )


def _endorser(value: object, base: Path, state: Path) -> Endorser:
    try:
        return parse_endorser(value, base, state / "endorsements")
    except ValueError as error:
        raise StartError(str(error)) from error


def _job_bundles(path: Path) -> frozenset[bytes]:
    try:
        return read_job_bundles(path)
    except PolicyError as error:
        raise StartError(f"job_policy: {error}") from error


def _text(raw: dict[str, Any], key: str) -> str:
    if not isinstance(raw[key], str) or not raw[key]:
        raise StartError(f"{key} must be text (put hexadecimal numbers in quotes)")
    return str(raw[key])


def _number(raw: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = raw.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise StartError(f"{key} must be a whole number from {low} to {high}")
    return value


def _hex(text: str, size: int, key: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise StartError(f"{key} must be {size} bytes in hexadecimal")
    return value


def _listen(value: object, key: str = "listen") -> tuple[str, int]:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise StartError(f'{key} must be "address:port", for example "127.0.0.1:0" for any free port')
    return host, int(port)


def _payee(text: str) -> bytes:
    workchain, _, account = text.partition(":")
    if workchain not in {"0", "-1"}:
        raise StartError('payee must be a raw TON address, for example "0:" and 64 hexadecimal digits')
    return int(workchain).to_bytes(1, "big", signed=True) + _hex(account, 32, "payee")


def _models(value: object, base: Path) -> tuple[Path, ...]:
    rows = value if isinstance(value, list) else []
    paths = [row["path"] for row in rows if isinstance(row, dict) and row.keys() == {"path"}]
    if not 1 <= len(rows) <= MODELS_MAX or len(paths) != len(rows) or not all(isinstance(p, str) for p in paths):
        raise StartError(f"models must be a list of 1 to {MODELS_MAX} entries `path: FOLDER`")
    return tuple(base / path for path in paths)


def _engine(value: object) -> str:
    if value not in ENGINES:
        raise StartError(f"engine must be one of: {', '.join(ENGINES)}")
    return str(value)


def _hardware(value: object, base: Path) -> Path | None:
    match value:
        case {"simulated": str(path), **rest} if not rest:
            return base / path
        case {"none": True, **rest} if not rest:
            return None
    raise StartError("hardware must be {simulated: PATH} or {none: true}; real devices are not supported yet")
