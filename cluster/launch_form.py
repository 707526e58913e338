"""The form of `cluster.yaml`: keys, addresses and commands, before any file that it names is looked at."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cluster.errors import ConfigError

SIZE_MAX = 1 << 20
SETTINGS_MOUNT, SECRET_MOUNT, TLS_FOLDER = "/etc/chrysalis/ray", "/etc/chrysalis/secret", "/etc/chrysalis/tls"
JOINING_FOLDER = "/etc/chrysalis/joining"  # on the head only
SETTINGS_FILE = f"{SETTINGS_MOUNT}/ray.env"
_START = ("head_start_ray_commands", "worker_start_ray_commands")
_COMMANDS = (*_START, "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
_REQUIRED = {"cluster_name", "provider", "auth", "max_workers", "file_mounts", *_START}
_OPTIONAL = {*_COMMANDS, "min_workers", "rsync_exclude", "rsync_filter", "upscaling_speed", "idle_timeout_minutes"}
_PLACEHOLDER = re.compile(r"(?<![$\w{])[A-Z][A-Z0-9_]*_ADDRESS\b|<[^<>\n]+>")
_RAY_STOP = re.compile(r"\bray(\.scripts\.scripts)?\s+stop\b")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")


def read_launch_file(path: Path) -> Mapping[str, Any]:
    """What the file says; ConfigError when it cannot be read."""
    try:
        if path.stat().st_size > SIZE_MAX:
            raise ConfigError(f"{path} has more than {SIZE_MAX} bytes")
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `key: value`")
    return values


def form_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Everything that is wrong in the file itself, a line each."""
    yield from _keys(values, "the file", _REQUIRED, _OPTIONAL)
    for where, text in _texts(values, ""):
        if found := _PLACEHOLDER.search(text):
            yield f"{where}: write the real value in place of {found[0]}"
    if not isinstance(name := values.get("cluster_name"), str) or not _NAME.fullmatch(name):
        yield f"cluster_name must be lower-case letters, digits and hyphens, got {name!r}"
    checks: dict[str, Callable[[Any], Iterator[str]]] = {
        "provider": lambda one: _provider(one, values),
        "auth": _auth,
        "file_mounts": _mounts,
    }
    checks |= {key: partial(_commands, key) for key in _COMMANDS}
    for key in checks.keys() & values.keys():
        yield from checks[key](values[key])


def _auth(auth: object) -> Iterator[str]:
    yield from _keys(auth, "auth", {"ssh_user", "ssh_private_key"}, set())
    if isinstance(auth, dict) and not all(isinstance(value, str) and value for value in auth.values()):
        yield "auth: user and key must be text"


def _provider(provider: object, values: Mapping[str, Any]) -> Iterator[str]:
    yield from _keys(provider, "provider", {"type", "head_ip", "worker_ips"}, set())
    if not isinstance(provider, dict):
        return
    if provider.get("type") != "local":
        yield f"provider.type must be local: machines that exist already, got {provider.get('type')!r}"
    if not {"head_ip", "worker_ips"} <= provider.keys():
        return  # that is said
    hosts = provider["worker_ips"]
    if not isinstance(hosts, list) or not hosts:
        yield "provider.worker_ips must list at least one host"
        return
    addresses = [provider["head_ip"], *hosts]
    for address in addresses:
        if not _is_address(address) and not (isinstance(address, str) and _PLACEHOLDER.search(address)):
            yield f"provider: {address!r} is not an IPv4 address that other machines reach: write that of the machine"
    if len(set(map(str, addresses))) < len(addresses):
        yield "provider: an address stands there twice; head and hosts are different machines"
    max_workers, min_workers = values.get("max_workers"), values.get("min_workers", len(hosts))
    if max_workers != len(hosts) or type(max_workers) is not int:
        yield f"max_workers must be {len(hosts)}, the number of provider.worker_ips: Ray would leave the others out"
    if min_workers != len(hosts):
        yield f"min_workers must be {len(hosts)} or absent: hosts beyond it are never started"


def _mounts(mounts: object) -> Iterator[str]:
    if not isinstance(mounts, dict) or not all(isinstance(part, str) for item in mounts.items() for part in item):
        yield "file_mounts must map a path on the machines to a folder here"
        return
    for target, content in ((SETTINGS_MOUNT, "ray.env"), (SECRET_MOUNT, "the token")):
        if target not in mounts:
            yield f"file_mounts lacks {target}: name the folder with {content}"
    for target in mounts:
        if any(PurePosixPath(target).is_relative_to(one) for one in (TLS_FOLDER, JOINING_FOLDER)):
            yield f"file_mounts must not hold {target}: every machine would get the keys of all"


def _commands(key: str, commands: object) -> Iterator[str]:
    if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
        yield f"{key} must be a list of shell commands"
        return
    for command in commands:
        if _RAY_STOP.search(command):
            yield f"{key}: `ray stop` ends every Ray process of a machine, whoever started it: take it out"
        if re.search(r"RAY_AUTH_TOKEN=", command):
            yield f"{key}: the token must not stand in a command, which everybody on the machine can read: take it out"
        if re.search(r"RAY_(USE_TLS|AUTH_MODE)=", command):
            yield f"{key}: token and TLS are set in {SETTINGS_FILE} only: take them out here"
    if key in _START:
        yield from _starts(key, commands)


def _starts(key: str, commands: Sequence[str]) -> Iterator[str]:
    starting = [command for command in commands if re.search(r"\bray\s+start\b", command)]
    if len(starting) != 1:
        yield f"{key} must hold `ray start` exactly once"
        return
    (command,) = starting
    if f". {SETTINGS_FILE} && " not in command.split("ray start")[0]:  # after a semicolon Ray would start without it
        yield f"{key}: begin with `set -a && . {SETTINGS_FILE} && set +a &&`, which turns on token and TLS, or ends"
    if "--node-ip-address=" not in command:
        yield f"{key}: give --node-ip-address=, the address that stands in the machine's certificate"
    if ("--head" in command.split()) != (key == _START[0]):
        yield f"{key}: --head belongs to head_start_ray_commands only"


def _keys(value: object, where: str, required: set[str], optional: set[str]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} must hold settings as `key: value`"
        return
    if missing := required - value.keys():
        yield f"{where} lacks: {', '.join(sorted(missing))}"
    if unknown := value.keys() - required - optional:
        yield f"{where} has keys that are not known here: {', '.join(sorted(map(str, unknown)))}"


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Every text in the file, with the key it stands under."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, where)
    elif isinstance(value, str):
        yield where, value


def _is_address(value: object) -> bool:
    try:
        address = ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)
