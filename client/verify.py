"""Is this host what the client's policy asks for? Own nonce, own verification, verdicts kept until they end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from attestation.errors import AttestationError, PolicyError
from attestation.evidence import parse_evidence
from attestation.floor_store import FloorStore
from attestation.merkle import NONCE_SIZE
from attestation.nvidia import ChainCache
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.tls import AttestedContext, PeerCheck, PeerRefusedError
from attestation.transparency.logged import LoggedValues
from attestation.verdict import Tier, Verdict
from attestation.verify import verify
from billing.ton.client import DEVNET
from client.errors import ConfigError

VERDICTS_MAX = 1024
REFUSALS_MAX = 64
RENEW_BEFORE = timedelta(seconds=60)  # a verdict this close to its end is made anew

FetchEvidence = Callable[[bytes], Awaitable[bytes]]
_log = logging.getLogger(__name__)
_NO_REFERENCE = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())


class HostUnverifiedError(Exception):
    """The host did not prove to be what the policy asks for; nothing may be sealed to it."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(host, why)
        self.host, self.why = host, why

    def __str__(self) -> str:
        return f"host {self.host}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A host that failed, and why; kept for people to read."""

    host_id: bytes
    why: str
    at: datetime


def load_policy(text: str, *, network_id: int, tier: Tier | None = None) -> AppraisalPolicy:
    """Read the client's policy file: an appraisal policy without `reference`, which comes from the registry.

    With `tier` open, which a user asks for by name and no file does, hosts without a TEE are what is wanted.

    Raises:
        ConfigError: not a policy, it names reference values of its own, or it trusts simulated vendors on a network
            where money is real.
    """
    try:
        policy = AppraisalPolicy.from_yaml(text, reference=_NO_REFERENCE)
    except PolicyError as error:
        raise ConfigError(f"policy: {error}") from error
    if policy.unsafe_simulated_roots is not None and network_id != DEVNET:
        raise ConfigError(
            f"policy: it trusts simulated vendors, whose keys anybody can have, and network {network_id} is real: "
            f"write 'roots: production' (only the devnet, {DEVNET}, takes simulated ones)"
        )
    if tier is Tier.OPEN:
        return replace(policy, required_tier=Tier.OPEN, unsafe_accept_open_hosts=True)
    if policy.open_only:
        raise ConfigError(
            "policy: required_tier 'open': nothing is sent to hosts whose owners can read it, except batches that say "
            "`--tier open`; name an attested tier here"
        )
    return policy


class Verifier:
    """Challenges hosts and keeps their verdicts until they end or the registry changes."""

    def __init__(
        self,
        policy: AppraisalPolicy,
        *,
        floors: FloorStore,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self.policy = policy
        self._floors = floors
        self._clock, self._random = clock, random
        self._verdicts: dict[bytes, Verdict] = {}
        self._refusals: list[Refusal] = []
        self._in_force: AppraisalPolicy | None = None
        self._chains = ChainCache()
        self._contexts: dict[bytes, AttestedContext] = {}

    def use_reference(self, reference: ReferenceValues, log: LoggedValues | None = None) -> None:
        """Appraise by these values, as far as the log (if any) allows them; verdicts under others are forgotten."""
        policy = replace(self.policy, reference=reference)
        in_force = log.restrict(policy) if log is not None else policy
        if in_force != self._in_force:
            self._in_force = in_force
            self._verdicts.clear()
            self._contexts.clear()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts held now."""
        now = self._clock()
        return tuple(verdict for verdict in self._verdicts.values() if verdict.not_after > now)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The last hosts that were refused."""
        return tuple(self._refusals)

    def held(self, host_id: bytes) -> Verdict | None:
        """Return the verdict for a host if it is good for a while yet."""
        verdict = self._verdicts.get(host_id)
        return verdict if verdict and verdict.not_after > self._clock() + RENEW_BEFORE else None

    def tls_context(self, host_id: bytes) -> AttestedContext:
        """Return a TLS context in whose handshakes this host, and no other, proves what the policy asks for."""
        context = self._contexts.get(host_id)
        if context is None:
            while len(self._contexts) >= VERDICTS_MAX:
                self._contexts.pop(next(iter(self._contexts)))
            check = PeerCheck(self._appraisal(), clock=self._clock, host_id=host_id, floors=self._floors)
            context = self._contexts[host_id] = AttestedContext.client(check)
        return context

    async def verdict(self, host_id: bytes, model_root: bytes, fetch: FetchEvidence) -> Verdict:
        """Return a verdict that this host, and no other, holds, and that lets it serve the model.

        Args:
            host_id: the name the gateway gave, 8 bytes; the keys in the evidence must hash to it.
            model_root: manifest root the host must be able to serve, 32 bytes.
            fetch: asks the host for evidence about a nonce.

        Raises:
            HostUnverifiedError: it does not hold.
        """
        verdict = self.held(host_id)
        if verdict is None:
            verdict = await self._challenge(host_id, fetch)
        if model_root not in verdict.models:
            raise self._refuse(host_id, f"it does not serve model {model_root.hex()[:16]}")
        return verdict

    async def _challenge(self, host_id: bytes, fetch: FetchEvidence) -> Verdict:
        policy, nonce = self._appraisal(), self._random(NONCE_SIZE)
        try:
            data = await fetch(nonce)
        except PeerRefusedError as error:
            raise self._refuse(host_id, f"in the TLS handshake: {error}") from error
        try:
            verdict = verify(
                parse_evidence(data),
                policy,
                nonce=nonce,
                now=self._clock(),
                chains=self._chains,
                floors=self._floors.floors,
            )
        except AttestationError as error:
            raise self._refuse(host_id, f"{type(error).__name__}: {error}") from error
        if verdict.host_id != host_id:
            raise self._refuse(host_id, f"the evidence is of host {verdict.host_id.hex()}: the gateway or relay lies")
        self._floors.raise_by(verdict.marks)
        if policy == self._in_force:
            self._keep(verdict)
        return verdict

    def _appraisal(self) -> AppraisalPolicy:
        if self._in_force is None:
            raise RuntimeError("use_reference comes before the first verification")
        return self._in_force

    def _keep(self, verdict: Verdict) -> None:
        while len(self._verdicts) >= VERDICTS_MAX:
            self._verdicts.pop(next(iter(self._verdicts)))
        self._verdicts[verdict.host_id] = verdict

    def _refuse(self, host_id: bytes, why: str) -> HostUnverifiedError:
        _log.warning("host %s refused: %s", host_id.hex(), why)
        self._refusals = [*self._refusals, Refusal(host_id=host_id, why=why, at=self._clock())][-REFUSALS_MAX:]
        return HostUnverifiedError(host_id.hex(), why)
