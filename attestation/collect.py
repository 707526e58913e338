"""Where evidence comes from: the hardware behind one Protocol, and the host that has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from attestation.evidence import Evidence, GpuEvidence, SnpEvidence, TdxEvidence
from attestation.merkle import InclusionProof
from attestation.transcript import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """Evidence for a whole batch of nonces; each challenger's place in it is still to be added.

    Attributes:
        transcript: the transcript the hardware signed, with CC states and GPU digests.
        cpu: the CPU's report; None without a TEE.
        gpus: GPU reports in transcript order.
        rims: reference manifests for these GPUs.
    """

    transcript: Transcript
    cpu: TdxEvidence | SnpEvidence | None
    gpus: tuple[GpuEvidence, ...] = ()
    rims: tuple[bytes, ...] = ()

    def evidence(self, inclusion: InclusionProof) -> Evidence:
        """Return the evidence for the challenger whose nonce stands at `inclusion`."""
        return Evidence(transcript=self.transcript, inclusion=inclusion, cpu=self.cpu, gpus=self.gpus, rims=self.rims)


class Attester(Protocol):
    """The hardware of one host."""

    def attest(self, base: Transcript) -> Attestation:
        """Have the hardware sign a transcript; blocks for tens of milliseconds, one call at a time.

        Args:
            base: nonces, keys, payee, models and engine; CC states and GPU digests are filled in here.

        Raises:
            AttesterError: the hardware did not answer.
        """
        ...


class NoTee:
    """A host without a TEE: it proves nothing, and its evidence says so."""

    def attest(self, base: Transcript) -> Attestation:
        """Return the transcript, signed by nobody."""
        return Attestation(transcript=replace(base, cc=(), gpus=()), cpu=None)
