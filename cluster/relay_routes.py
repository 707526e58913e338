"""Where the relay's hosts were last, on disk: a relay that starts without the registry sends requests there.

A route proves nothing and decides nothing about trust: clients seal to hosts that they verified themselves. The
registry puts a new list in place as soon as it runs again.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from billing.durable_file import replace_file
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
    replace_file(path, json.dumps({host.hex(): address for host, address in sorted(routes.items())}).encode())


def _route(host: str, address: str) -> tuple[bytes, str]:
    host_id = bytes.fromhex(host)
    if len(host_id) != 8 or parse_address(address).port == 0:
        raise ValueError(f"{host!r} at {address!r} is no route")
    return host_id, address
