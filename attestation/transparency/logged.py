"""What a log comes to: its entries folded into allowed and denied values and firmware floors, and laid over a policy.

A denial wins over every permission, before or after it, until the denial itself is revoked. A policy under a log can
only become stricter: what the log does not allow is not in use, its floors raise those of the policy, never lower them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from attestation.errors import MalformedEvidenceError, NotInLogError, RevokedError
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.snp_policy import SnpTcb, SnpTcbFloor
from attestation.transparency.entries import Allow, AmdFloor, Deny, Entry, IntelFloor, Release, Revoke, What

_LISTS = {What.MEASUREMENT: "measurements", What.RIM: "rims", What.MODEL: "models"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedValues:
    """A log in force: entries that were not revoked.

    Attributes:
        allowed: values that may be used, by what they name, denied ones left out.
        denied: values that are refused, by what they name.
        intel_evaluation_min: lowest TCB evaluation data number; 0 when the log names none.
        amd_floor: lowest firmware of each product; None where the log names none.
    """

    allowed: dict[What, frozenset[bytes]] = field(default_factory=dict)
    denied: dict[What, frozenset[bytes]] = field(default_factory=dict)
    intel_evaluation_min: int = 0
    amd_floor: SnpTcbFloor = field(default_factory=SnpTcbFloor)

    def restrict(self, policy: AppraisalPolicy) -> AppraisalPolicy:
        """Return the policy with only those reference values that the log allows, its denials and its floors."""
        reference = policy.reference
        return replace(
            policy,
            reference=ReferenceValues(
                **{
                    name: getattr(reference, name) & self.allowed.get(what, frozenset())
                    for what, name in _LISTS.items()
                }
            ),
            denied_platforms=policy.denied_platforms | self.denied.get(What.PLATFORM, frozenset()),
            tcb_evaluation_min=max(policy.tcb_evaluation_min, self.intel_evaluation_min),
            snp_floor=_raised(policy.snp_floor, self.amd_floor),
        )

    def missing(self, reference: ReferenceValues) -> tuple[str, ...]:
        """Return, in words, the reference values that the log does not allow."""
        return tuple(
            f"{what} {value.hex()} {'is denied' if value in self.denied.get(what, ()) else 'is not in the log'}"
            for what, name in _LISTS.items()
            for value in sorted(getattr(reference, name) - self.allowed.get(what, frozenset()))
        )

    def check_reference(self, reference: ReferenceValues) -> None:
        """Check that the log allows every one of these values.

        Raises:
            NotInLogError: names those it does not.
        """
        missing = self.missing(reference)
        if missing:
            raise NotInLogError("; ".join(missing))

    def check_not_denied(self, *, platform: bytes, measurement: bytes, models: Iterable[bytes] = ()) -> None:
        """Check that nothing a host proved earlier has been denied since.

        Raises:
            RevokedError: names what is denied.
        """
        proved = [(What.PLATFORM, platform), (What.MEASUREMENT, measurement), *((What.MODEL, root) for root in models)]
        for what, value in proved:
            if value in self.denied.get(what, frozenset()):
                raise RevokedError(f"{what} {value.hex()} was put on the log's deny-list")


def fold(entries: Sequence[Entry]) -> LoggedValues:
    """Return what these entries, all of the log, come to.

    Raises:
        MalformedEvidenceError: a revocation of what is not there, was revoked before, or is a revocation.
    """
    standing: dict[int, Entry] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, Revoke):
            if standing.pop(entry.index, None) is None:
                raise MalformedEvidenceError(f"log entry {index} revokes {entry.index}, where nothing stands")
        else:
            standing[index] = entry
    allowed: dict[What, set[bytes]] = {what: set() for what in What}
    denied: dict[What, set[bytes]] = {what: set() for what in What}
    evaluation, floor = 0, SnpTcbFloor()
    for entry in standing.values():
        match entry:
            case Allow(what=what, value=value):
                allowed[what].add(value)
            case Deny(what=what, value=value):
                denied[what].add(value)
            case IntelFloor():
                evaluation = max(evaluation, entry.evaluation)
            case AmdFloor(product=product, tcb=tcb):
                floor = replace(floor, **{product: _higher(floor.of(product), tcb)})
            case Release() | Revoke():
                pass
    return LoggedValues(
        allowed={what: frozenset(values - denied[what]) for what, values in allowed.items()},
        denied={what: frozenset(values) for what, values in denied.items()},
        intel_evaluation_min=evaluation,
        amd_floor=floor,
    )


def _raised(floor: SnpTcbFloor, least: SnpTcbFloor) -> SnpTcbFloor:
    """Return the policy's floor, no product below the log's; a product the policy refuses stays refused."""
    products = {}
    for each in fields(SnpTcbFloor):
        own, logged = floor.of(each.name), least.of(each.name)
        products[each.name] = _higher(own, logged) if own and logged else own
    return SnpTcbFloor(**products)


def _higher(one: SnpTcb | None, other: SnpTcb) -> SnpTcb:
    if one is None:
        return other
    return SnpTcb(**{each.name: max(getattr(one, each.name), getattr(other, each.name)) for each in fields(SnpTcb)})
