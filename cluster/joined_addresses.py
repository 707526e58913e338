"""The addresses that got a certificate by joining, on disk: Ray's node table does not say which nodes are strangers'.

JSON lines in the operator's state, mode 0600, one for each address; what has ended is left out when it is rewritten.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from billing.durable_file import replace_file
from cluster.certificates import parse_ip
from cluster.errors import ConfigError

FILE = "joined.jsonl"


class JoinedAddresses:
    """Every change is on disk before the call returns, and so before the certificate leaves the head."""

    def __init__(self, path: Path) -> None:
        """Read what is there; ConfigError when it is damaged."""
        self._path = path
        self._given: dict[str, tuple[datetime, datetime]] = {}  # when the last one was given, when the last one ends
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                self._read(line, number)

    def note(self, ip: str, *, now: datetime, end: datetime) -> None:
        """A certificate for this address, from now until `end`."""
        self._take(str(parse_ip(ip)), now, end)
        self._given = {one: span for one, span in self._given.items() if span[1] > now}
        replace_file(self._path, "".join(_line(one, *span) for one, span in self._given.items()).encode())

    def current(self, now: datetime) -> Mapping[str, datetime]:
        """Addresses with a certificate that holds, and when they got the last one."""
        return {ip: given for ip, (given, end) in self._given.items() if end > now}

    def _take(self, ip: str, given: datetime, end: datetime) -> None:
        before = self._given.get(ip, (given, end))
        self._given[ip] = max(before[0], given), max(before[1], end)

    def _read(self, line: str, number: int) -> None:
        try:
            item = json.loads(line)
            given, end = (datetime.fromtimestamp(item[key], UTC) for key in ("given", "end"))
            self._take(str(parse_ip(item["address"])), given, end)
        except (ValueError, KeyError, TypeError, OverflowError, OSError, ConfigError) as error:
            raise ConfigError(
                f"{self._path} line {number} is damaged ({error}): remove the line; the node of that host is then not "
                "watched until it joins again"
            ) from error


def _line(ip: str, given: datetime, end: datetime) -> str:
    return json.dumps({"address": ip, "given": given.timestamp(), "end": end.timestamp()}) + "\n"
