"""From one manifest root of a model name to another, without a request lost. Pure.

    serving --begin--> loading: `incoming` is loaded on the first hosts, leases are for `root`
    loading --the first hosts serve it--> retiring: leases are for the new `root`; the old one, `outgoing`, stays
    retiring --its leases and their answers ended--> serving; the old root is unloaded

Rolling back is the same way to the root before; while that one still retires it is loaded, and back at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.errors import RolloutError
from cluster.lease import LEASE_S

RETIRE_MIN_S = 12  # a client takes another lease only when the one that failed is 10 s old
RETIRE_S = LEASE_S + 120  # the last lease for the old root, its last answer (60 s), and gateways that lag


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The roots of one model name; 32 bytes each."""

    name: str
    root: bytes  # leases are for it
    incoming: bytes | None = None
    first: int = 1  # hosts that must serve `incoming` before leases are for it
    outgoing: bytes | None = None
    retire_at: datetime | None = None  # when `outgoing` goes
    before: bytes | None = None  # what rolling back goes to

    @property
    def live(self) -> frozenset[bytes]:
        """Roots that hosts should have."""
        return frozenset(root for root in (self.root, self.incoming, self.outgoing) if root is not None)


def begin(versions: Versions, root: bytes, *, first: int = 1) -> Versions:
    """Start to roll out another root, on `first` hosts first. Asked again, it changes nothing.

    Raises:
        RolloutError: that root serves already, or another roll-out has not ended.
    """
    if root == versions.root and versions.incoming is None:
        raise RolloutError(versions.name, f"leases are for {root.hex()[:16]} already")
    if versions.incoming not in {None, root}:
        raise RolloutError(
            versions.name, "another roll-out is under way: roll it back first, see `chrysalis models list`"
        )
    if versions.outgoing not in {None, root}:
        raise RolloutError(
            versions.name,
            f"leases for the root before last until {versions.retire_at:%H:%M:%S} UTC: wait, or roll back",
        )
    return replace(versions, incoming=root, first=first)


def roll_back(versions: Versions) -> Versions:
    """Take back the last roll-out, whether it has been finished or not.

    Raises:
        RolloutError: there is nothing to go back to.
    """
    if versions.incoming is not None:
        return replace(versions, incoming=None)
    if versions.before is None:
        raise RolloutError(versions.name, "there is no root before this one")
    return begin(versions, versions.before)


def step(versions: Versions, serving: Mapping[bytes, int], *, now: datetime, retire_s: int = RETIRE_S) -> Versions:
    """The versions at this time.

    Args:
        versions: as they were.
        serving: active hosts that serve each root.
        now: the time.
        retire_s: how long a root stays after leases are for another.
    """
    if versions.incoming is not None and serving.get(versions.incoming, 0) >= versions.first:
        return Versions(
            name=versions.name,
            root=versions.incoming,
            outgoing=versions.root,
            retire_at=now + timedelta(seconds=retire_s),
            before=versions.root,
        )
    if versions.retire_at is not None and now >= versions.retire_at:
        return replace(versions, outgoing=None, retire_at=None)
    return versions


def postpone(versions: Versions, *, now: datetime, retire_s: int = RETIRE_S) -> Versions:
    """The versions when leases for `outgoing` may still have been given just now."""
    return replace(versions, retire_at=now + timedelta(seconds=retire_s)) if versions.outgoing is not None else versions


def replicas_wanted(
    versions: Versions, wanted: int, serving: Mapping[bytes, int], missing: Mapping[bytes, int]
) -> dict[bytes, int]:
    """How many replicas each root should have now.

    Args:
        versions: of the model.
        wanted: replicas that the model's work needs.
        serving: active hosts that serve each root.
        missing: replicas that found no place in the plan before; a root that gives way leaves room for them.
    """
    if versions.incoming is not None:
        first = max(versions.first, min(wanted, serving.get(versions.incoming, 0)))
        return {
            versions.root: max(1, wanted - missing.get(versions.incoming, 0)),
            versions.incoming: first,
        }
    if versions.outgoing is not None:
        kept = serving.get(versions.outgoing, 0) - missing.get(versions.root, 0)
        at_least = min(
            1, serving.get(versions.outgoing, 0)
        )  # leases name the hosts that have it: no other host needs it
        return {versions.root: wanted, versions.outgoing: max(at_least, kept)}
    return {versions.root: wanted}


def encode_versions(versions: Versions) -> dict[str, Any]:
    """As a JSON object."""
    return {
        "name": versions.name,
        "root": versions.root.hex(),
        "incoming": versions.incoming.hex() if versions.incoming else None,
        "first": versions.first,
        "outgoing": versions.outgoing.hex() if versions.outgoing else None,
        "retire_at": versions.retire_at.isoformat() if versions.retire_at else None,
        "before": versions.before.hex() if versions.before else None,
    }


def parse_versions(value: object) -> Versions:
    """From a JSON object. ValueError when it is not one of `encode_versions`."""
    if not isinstance(value, dict) or value.keys() != encode_versions(Versions(name="", root=b"")).keys():
        raise ValueError("not the versions of a model")

    def root(key: str) -> bytes | None:
        return bytes.fromhex(value[key]) if value[key] is not None else None

    try:
        retire_at = datetime.fromisoformat(value["retire_at"]).astimezone(UTC) if value["retire_at"] else None
        return Versions(
            name=value["name"],
            root=bytes.fromhex(value["root"]),
            incoming=root("incoming"),
            first=int(value["first"]),
            outgoing=root("outgoing"),
            retire_at=retire_at,
            before=root("before"),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"not the versions of a model: {error}") from error
