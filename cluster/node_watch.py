"""Which Ray nodes of hosts that joined have to go: those whose host is out, and those that nobody vouches for. Pure.

A certificate for joining is for one machine's address and outlives a ban by hours, so what is watched are addresses:
a node that is ended and comes back is judged like the one before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.fleet import ENDED, HostRecord, HostState
from cluster.relay import parse_address

GRACE = timedelta(seconds=180)  # as long as `chrysalis join` waits until its node is bound
BARRED = frozenset({HostState.REFUSED, HostState.BANNED})


@dataclass(frozen=True, slots=True, kw_only=True)
class AliveNode:
    """A Ray node that is alive, by its own word at this address; Ray's TLS holds it to that."""

    node_id: str
    ip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwanted:
    """A node to end, and why."""

    node_id: str
    ip: str
    reason: str
    host_id: bytes | None  # whose it was, where that is known


class NodeWatch:
    """Remembers when an address last had a node that is bound to a host in order."""

    def __init__(self, *, began: datetime) -> None:
        self._began = began
        self._good: dict[str, datetime] = {}

    def judge(
        self,
        nodes: Iterable[AliveNode],
        hosts: Iterable[HostRecord],
        joined: Mapping[str, datetime],
        *,
        now: datetime,
    ) -> tuple[Unwanted, ...]:
        """The nodes that have to go now.

        Args:
            nodes: the alive ones. Those at other addresses than `joined` are the operator's own, and pass.
            hosts: every record of the registry, past ones too.
            joined: when the last certificate was given to an address, while one of it holds.
            now: our time.
        """
        known = [*hosts]
        bound = {host.node_id for host in known if host.node_id is not None}
        watched = [node for node in nodes if node.ip in joined]
        self._good = {ip: at for ip, at in self._good.items() if ip in joined}
        self._good |= {node.ip: now for node in watched if node.node_id in bound}
        why = barred(known)
        found = []
        for node in watched:
            if node.node_id in bound:
                continue
            since = max(joined[node.ip], self._good.get(node.ip, self._began))
            if node.ip in why:
                host = why[node.ip]
                reason = f"its host is {host.state}: {host.reason}"
                found.append(Unwanted(node_id=node.node_id, ip=node.ip, reason=reason, host_id=host.host_id))
            elif now - since > GRACE:
                reason = f"no host in order is bound to it for {GRACE.total_seconds():.0f} s"
                found.append(Unwanted(node_id=node.node_id, ip=node.ip, reason=reason, host_id=None))
        return tuple(found)


def barred(hosts: Iterable[HostRecord]) -> dict[str, HostRecord]:
    """Machines whose host was refused or banned, with its record; not those with a host that is not at an end."""
    why: dict[str, HostRecord] = {}
    live: set[str] = set()
    for host in hosts:
        ip = str(parse_address(host.address).ip)
        if host.state in BARRED:
            why.setdefault(ip, host)
        elif host.state not in ENDED:
            live.add(ip)
    return {ip: host for ip, host in why.items() if ip not in live}
