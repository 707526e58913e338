"""Checks that held before for the same evidence under the same policy: not to be made, or put into words, again.

Most of what a host shows is the same each time it is challenged. Only what depends on its bytes and the policy alone is
remembered: no signature, nonce, time or floor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from attestation.chain_cache import ChainCache
from attestation.policy import AppraisalPolicy
from attestation.verdict import Check, CheckLog

_HELD = ChainCache(capacity=2048)


class _Held(NamedTuple):
    """Checks that held, under a policy that is kept so that no other one gets its id."""

    policy: AppraisalPolicy
    checks: tuple[Check, ...]


def remember(about: Hashable, policy: AppraisalPolicy, log: CheckLog, run: Callable[[CheckLog], object]) -> None:
    """Run checks, unless they held before; either way they stand in `log`.

    Args:
        about: everything they depend on but the policy, and which checks they are.
        policy: what is accepted.
        log: gets the checks.
        run: makes them; what it raises is raised, and not remembered.
    """
    key = id(policy), about
    known = _HELD.get(key, _Held)
    if known is None or known.policy is not policy:
        part = CheckLog()
        run(part)
        known = _Held(policy, part.checks)
        _HELD.put(key, known)
    log.extend(known.checks)
