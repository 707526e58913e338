"""Whether and where hosts may join by their evidence: `joining` in the operator's settings.

joining: {listen: "10.0.0.1:8444", authority: /etc/chrysalis/joining, hours: 12}   # all but listen have these defaults
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cluster.errors import ConfigError
from cluster.relay import Address, parse_address

HOURS_MAX = 72
AUTHORITY = Path("/etc/chrysalis/joining")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """Where the join service listens, and what it signs with."""

    listen: Address  # an address in the head's own certificate
    authority: Path = AUTHORITY  # ca.crt, joining.crt, joining.key of `chrysalis cluster certs`
    life: timedelta = timedelta(hours=12)  # of a host's certificate; each renewal restarts its Ray node


def parse_joining(value: object, base: Path) -> JoinSettings:
    """Read the settings; ConfigError says which is wrong and what it may be."""
    if not isinstance(value, Mapping) or not {"listen"} <= value.keys() <= {"listen", "authority", "hours"}:
        raise ConfigError('joining must hold listen: "IP:PORT", and may hold authority (a folder) and hours')
    listen, folder, hours = value["listen"], value.get("authority", str(AUTHORITY)), value.get("hours", 12)
    if not isinstance(listen, str) or not isinstance(folder, str):
        raise ConfigError("joining: listen and authority must be text")
    if type(hours) is not int or not 1 <= hours <= HOURS_MAX:
        raise ConfigError(f"joining: hours must be a whole number from 1 to {HOURS_MAX}")
    address = parse_address(listen)
    if address.ip.is_unspecified:
        raise ConfigError("joining: listen on the head's own address, which stands in its certificate")
    return JoinSettings(listen=address, authority=base / folder, life=timedelta(hours=hours))
