"""Where evidence comes from: the hardware behind one Protocol, and the host that has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from attestation.errors import NoRegisterError
from attestation.eventlog import EventKind, LogEvent
from attestation.evidence import Evidence, GpuEvidence, SnpEvidence, SwitchEvidence, TdxEvidence
from attestation.merkle import InclusionProof
from attestation.transcript import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """Evidence for a whole batch of nonces; each challenger's place in it is still to be added.

    Attributes:
        transcript: the transcript the hardware signed, with CC states and GPU digests.
        cpu: the CPU's report; None without a TEE.
        gpus: GPU reports in transcript order.
        switches: NVSwitch reports in transcript order.
        rims: reference manifests for these devices.
        ocsp: the vendor's answers whether these devices were revoked.
    """

    transcript: Transcript
    cpu: TdxEvidence | SnpEvidence | None
    gpus: tuple[GpuEvidence, ...] = ()
    switches: tuple[SwitchEvidence, ...] = ()
    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()

    def evidence(self, inclusion: InclusionProof) -> Evidence:
        """Return the evidence for the challenger whose nonce stands at `inclusion`."""
        return Evidence(
            transcript=self.transcript,
            inclusion=inclusion,
            cpu=self.cpu,
            gpus=self.gpus,
            switches=self.switches,
            rims=self.rims,
            ocsp=self.ocsp,
        )


NAMED = frozenset({EventKind.ENGINE, EventKind.MODEL})  # what the transcript names too


class Attester(Protocol):
    """The hardware of one host."""

    def extend(self, event: LogEvent) -> None:
        """Log what is about to be loaded, so that all later evidence names it.

        An event that is logged already changes nothing. Hardware without a runtime register proves no log: there
        engine and models count by the transcript alone, and other events are refused.

        Raises:
            NoRegisterError: nothing would prove the event.
            RestartNeededError: log and register may differ; the guest must restart.
            AttesterError: not logged; what the event names must not be loaded.
        """
        ...

    def attest(self, base: Transcript) -> Attestation:
        """Have the hardware sign a transcript; blocks for tens of milliseconds, one call at a time.

        Args:
            base: nonces, keys, payee, models and engine; CC states and device digests are filled in here.

        Raises:
            AttesterError: the hardware did not answer.
        """
        ...


def extend_named(attester: Attester, base: Transcript) -> None:
    """Log the engine and the models that a transcript names; call it before the first evidence.

    Raises:
        AttesterError: they are not all logged; evidence that names them would be refused.
    """
    attester.extend(LogEvent(kind=EventKind.ENGINE, digest=base.engine))
    for root in base.models:
        attester.extend(LogEvent(kind=EventKind.MODEL, digest=root))


class NoTee:
    """A host without a TEE: it proves nothing, and its evidence says so."""

    def extend(self, event: LogEvent) -> None:
        """Take engine and models, which the transcript names; raises `NoRegisterError` for anything else."""
        if event.kind not in NAMED:
            raise NoRegisterError(f"this host has no TEE: nothing would prove {event}")

    def attest(self, base: Transcript) -> Attestation:
        """Return the transcript, signed by nobody."""
        return Attestation(transcript=replace(base, cc=(), gpus=()), cpu=None)
