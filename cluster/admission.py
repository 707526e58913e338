"""Admission: what the on-chain registry allows, and whether a host's fresh evidence meets it."""

from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.errors import AttestationError
from attestation.evidence import parse_evidence
from attestation.floors import Floors
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.transparency.logged import LoggedValues
from attestation.verdict import Check
from attestation.verify import verify
from billing.ton.registry import RegistryState
from billing.ton.registry_entries import OperatorStatus
from cluster.capability import Capability
from cluster.errors import AdmissionRefusedError
from cluster.fleet import ROUTED, HostRecord
from cluster.host_state import Admitted, Refused
from cluster.model import ModelOffer

PROVE_TAG = b"chrysalis/1 prove"
_CLOSED = {
    OperatorStatus.ACTIVE: "",
    OperatorStatus.CLOSING: "the registry says that it is closing",
    OperatorStatus.SUSPENDED: "governance has suspended it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTerms:
    """What governance wrote on the chain, as far as the cluster needs it."""

    seqno: int
    reference: ReferenceValues
    models: tuple[ModelOffer, ...]
    operator: bytes  # Ed25519 public key that signs grants, 32 bytes
    fee_permille: int  # the operator's share of each receipt
    log: LoggedValues | None = None  # what the transparency log says, where one is configured
    closed: str = ""  # why the operator may take no new leases; empty while it is active

    @classmethod
    def from_registry(cls, state: RegistryState, log: LoggedValues | None = None, *, operator: bytes) -> "NetworkTerms":
        """The terms in a registry state that was read with proofs, and in a log that was verified.

        Args:
            state: the registry.
            log: what the transparency log says, where one is configured.
            operator: our Ed25519 public key, 32 bytes, by which we find our own entry.

        Raises:
            UnknownOperatorError: the registry has no such entry.
        """
        own = state.operator_of_key(operator)
        offers = (
            ModelOffer(root=root, name=terms.name, tariff=own.tariff(root, terms), context=terms.context)
            for root, terms in state.models.items()
        )
        return cls(
            seqno=state.seqno,
            reference=ReferenceValues(
                measurements=frozenset(state.measurements), rims=frozenset(state.rims), models=frozenset(state.models)
            ),
            models=tuple(sorted(offers, key=lambda offer: offer.name)),
            operator=own.terms.public_key,
            fee_permille=own.terms.fee_permille,
            log=log,
            closed=_CLOSED[own.terms.status],
        )

    def without_operator(self) -> "NetworkTerms":
        """These terms, after the registry dropped the operator's entry."""
        return replace(self, closed="the registry names it no more")

    def restrict(self, policy: AppraisalPolicy) -> AppraisalPolicy:
        """The operator's policy with the reference values, denials and floors of these terms."""
        policy = replace(policy, reference=self.reference)
        return self.log.restrict(policy) if self.log is not None else policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What came of one request to join. A refusal is an answer, not an exception."""

    address: str
    accepted: bool
    reason: str
    host_id: bytes | None = None
    error: str = ""  # class name of the refusal
    checks: tuple[Check, ...] = ()
    capability: Capability | None = None

    @classmethod
    def of(cls, record: HostRecord) -> "Admission":
        """What a host's record says after it was challenged."""
        accepted = record.state in ROUTED
        return cls(
            address=record.address,
            accepted=accepted,
            reason=record.reason,
            host_id=record.host_id if accepted else None,
            error=record.error or ("" if accepted else "AdmissionRefusedError"),
            checks=record.capability.checks if accepted and record.capability else record.checks,
            capability=record.capability if accepted else None,
        )


def appraise(
    data: bytes, policy: AppraisalPolicy, terms: NetworkTerms, *, nonce: bytes, now: datetime, floors: Floors
) -> Admitted | Refused:
    """Turn a host's answer to a challenge into the event for its record.

    Args:
        data: encoded evidence as the host sent it.
        policy: roots, tier and firmware we accept; its reference values are replaced by those of `terms`.
        terms: what the on-chain registry allows.
        nonce: the 32 bytes we sent.
        now: our time.
        floors: how new vendors' lists have been.
    """
    try:
        verdict = verify(parse_evidence(data), terms.restrict(policy), nonce=nonce, now=now, floors=floors)
    except AttestationError as error:
        return Refused(error=type(error).__name__, reason=str(error), checks=error.checks, at=now)
    return Admitted(capability=Capability.from_verdict(verdict), at=now)


def check_still_allowed(capability: Capability, terms: NetworkTerms, *, now: datetime) -> Refused | None:
    """The refusal of a host whose platform, image or model was denied after it was admitted; None when none was."""
    if terms.log is None:
        return None
    try:
        terms.log.check_not_denied(
            platform=capability.platform_id, measurement=capability.measurement, models=capability.models
        )
    except AttestationError as error:
        return Refused(error=type(error).__name__, reason=str(error), checks=capability.checks, at=now)
    return None


def node_challenge(nonce: bytes, node_id: str) -> bytes:
    """What an enclave's control socket is asked to sign so that a Ray node is bound to it."""
    return nonce + node_id.encode()


def check_node_proof(capability: Capability, *, nonce: bytes, node_id: str, proof: bytes) -> None:
    """Check that whoever runs on Ray node `node_id` can open the control socket of this enclave.

    Raises:
        AdmissionRefusedError: the enclave's receipt key did not sign this challenge.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(capability.receipt)
        key.verify(proof, PROVE_TAG + node_challenge(nonce, node_id))
    except InvalidSignature:
        host = capability.host_id.hex()
        raise AdmissionRefusedError(f"node {node_id} did not prove that it runs beside host {host}") from None
