"""Is this host what it says? Evidence in, a `Verdict` or a named refusal out."""

from attestation.collect import Attestation, Attester, NoTee, extend_named
from attestation.errors import AttestationError, AttesterError, MalformedEvidenceError, PolicyError
from attestation.eventlog import EventKind, LogEvent
from attestation.evidence import (
    Evidence,
    GpuEvidence,
    SnpEvidence,
    SwitchEvidence,
    TdxEvidence,
    encode_evidence,
    parse_evidence,
)
from attestation.floors import Floors, Mark
from attestation.merkle import InclusionProof, inclusion_proof, inclusion_proofs, nonce_root
from attestation.policy import AppraisalPolicy, ReferenceValues, SnpTcb, SnpTcbFloor
from attestation.roots import TrustedRoots, UnsafeSimulatedRoots
from attestation.sgx import EnclaveReference, SgxClaims, SgxEvidence, check_sgx_quote
from attestation.td_image import ImageReference
from attestation.transcript import CcState, Transcript, gpu_nonce, host_id, switch_nonce
from attestation.verdict import Check, GpuClaims, SwitchClaims, TeeKind, Tier, Verdict
from attestation.verify import verify

__all__ = [
    "AppraisalPolicy",
    "Attestation",
    "AttestationError",
    "Attester",
    "AttesterError",
    "CcState",
    "Check",
    "EnclaveReference",
    "EventKind",
    "Evidence",
    "Floors",
    "GpuClaims",
    "GpuEvidence",
    "ImageReference",
    "InclusionProof",
    "LogEvent",
    "MalformedEvidenceError",
    "Mark",
    "NoTee",
    "PolicyError",
    "ReferenceValues",
    "SgxClaims",
    "SgxEvidence",
    "SnpEvidence",
    "SnpTcb",
    "SnpTcbFloor",
    "SwitchClaims",
    "SwitchEvidence",
    "TdxEvidence",
    "TeeKind",
    "Tier",
    "Transcript",
    "TrustedRoots",
    "UnsafeSimulatedRoots",
    "Verdict",
    "check_sgx_quote",
    "encode_evidence",
    "extend_named",
    "gpu_nonce",
    "host_id",
    "inclusion_proof",
    "inclusion_proofs",
    "nonce_root",
    "parse_evidence",
    "switch_nonce",
    "verify",
]
