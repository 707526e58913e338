"""Where the relay's hosts were last, on disk: a relay that starts without the registry sends requests there.

A route proves nothing and decides nothing about trust: clients seal to hosts that they verified themselves. The
registry puts a new list in place as soon as it runs again.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ConfigError
from cluster.relay import parse_address

ROUTES_FILE = "relay-hosts.json"  # in the operator's `state`
_log = logging.getLogger(__name__)


def read_routes(path: Path) -> dict[bytes, str]:
    """Addresses (IP:PORT) by host id (8 bytes); none when there is no list, or, with a warning, an unreadable one."""
    try:
        return dict(_route(host, address) for host, address in json.loads(path.read_text()).items())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        _log.warning("%s is no list of hosts (%s): the relay waits for the registry's", path, type(error).__name__)
        return {}


def write_routes(path: Path, routes: Mapping[bytes, str]) -> None:
    """Put this list in place of an older one, all or nothing; mode 0600."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({host.hex(): address for host, address in sorted(routes.items())}, out)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)


def _route(host: str, address: str) -> tuple[bytes, str]:
    host_id = bytes.fromhex(host)
    if len(host_id) != 8 or parse_address(address).port == 0:
        raise ValueError(f"{host!r} at {address!r} is no route")
    return host_id, address
