"""Hardware whose evidence carries fresh endorsements, fetched from wherever the host's owner says.

What a service sends is used only after it verified under the pinned roots, by the code a verifier runs: a service that
lies cannot spoil the cache until its lie runs out. What verifies and is bad news (a revocation, old firmware) goes into
the evidence all the same: refusing the host is the verifier's part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import pairwise

import dcap_qvl

from attestation.collect import Attestation, Attester
from attestation.endorsement_requests import AmdService, IntelService, NvidiaService
from attestation.endorsements import (
    assemble_collateral,
    ends,
    ocsp_parser,
    parse_amd_chain,
    parse_crl,
    parse_manifest,
    parse_qe_identity,
    parse_tcb_info,
    parse_vcek,
)
from attestation.errors import (
    AttestationError,
    AttesterError,
    EndorsementExpiredError,
    EndorsementFetchError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RimMismatchError,
    UntrustedRootError,
)
from attestation.eventlog import LogEvent
from attestation.evidence import GpuEvidence, SnpEvidence, TdxEvidence
from attestation.fetch import Fetcher, Request
from attestation.intel import TcbRules
from attestation.nvidia_chain import check_chain
from attestation.nvidia_facts import read_facts
from attestation.nvidia_measurements import check_measurements, check_switch_measurements
from attestation.nvswitch import PRODUCTS, read_switch_facts
from attestation.ocsp import check_revocation, parse_ocsp
from attestation.policy import TCB_STATUSES, Revocation
from attestation.rim import parse_rim
from attestation.roots import TrustedRoots, UnsafeSimulatedRoots
from attestation.snp_chain import check_chain as check_amd_chain
from attestation.snp_chain import check_crl
from attestation.snp_policy import SnpSigningKey
from attestation.snp_report import parse_report
from attestation.snp_tcb import SnpProduct, parse_tcb
from attestation.spdm import parse_spdm
from attestation.tdx import check_quote
from attestation.tdx_quote import parse_quote
from attestation.transcript import Transcript
from attestation.verdict import CheckLog

_ANY_STATUS = TcbRules(statuses=frozenset(TCB_STATUSES), age_max_s=1 << 31)  # old firmware is the verifier's to refuse
_LIES = (
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RimMismatchError,
    UntrustedRootError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorser:
    """Puts endorsements into evidence; for vendors that are None it leaves what the hardware brought.

    Attributes:
        fetcher: cache and source.
        roots: vendor roots under which material must verify before it is used.
        intel: whom to ask for TDX collateral.
        amd: whom to ask for SEV-SNP certificates and lists.
        amd_product: the processor's product line.
        nvidia: whom to ask for manifests and revocations.
    """

    fetcher: Fetcher
    roots: TrustedRoots | UnsafeSimulatedRoots
    intel: IntelService | None = None
    amd: AmdService | None = None
    amd_product: SnpProduct = SnpProduct.MILAN
    nvidia: NvidiaService | None = None

    def endorse(self, attestation: Attestation, *, now: datetime) -> Attestation:
        """Return the attestation with endorsements good at `now`.

        Raises:
            EndorsementFetchError: a piece is not kept and cannot be had, or what came does not verify.
            AttestationError: the hardware's own evidence cannot be read.
        """
        cpu = attestation.cpu
        if isinstance(cpu, TdxEvidence) and self.intel is not None:
            attestation = replace(attestation, cpu=self._endorse_tdx(cpu, self.intel, now))
        if isinstance(cpu, SnpEvidence) and self.amd is not None:
            attestation = replace(attestation, cpu=self._endorse_snp(cpu, self.amd, now))
        if attestation.gpus and self.nvidia is not None and self.nvidia.ocsp:
            devices = (*attestation.gpus, *attestation.switches)
            attestation = replace(attestation, ocsp=self._ask_revocation(devices, self.nvidia, now))
        if attestation.gpus and self.nvidia is not None and self.nvidia.rim:
            attestation = replace(attestation, rims=self._fetch_manifests(attestation, self.nvidia, now))
        return attestation

    def _endorse_tdx(self, evidence: TdxEvidence, service: IntelService, now: datetime) -> TdxEvidence:
        parse_quote(evidence.quote)
        quote = dcap_qvl.parse_quote(evidence.quote)
        tcb, identity = service.tcb_info(bytes.fromhex(quote.fmspc())), service.qe_identity()
        pck, root = service.pck_crl(quote.ca()), service.root_ca_crl()
        collateral = assemble_collateral(
            self.fetcher.get(tcb, parse_tcb_info, ends, now=now),
            self.fetcher.get(identity, parse_qe_identity, ends, now=now),
            self.fetcher.get(pck, parse_crl, ends, now=now),
            self.fetcher.get(root, parse_crl, ends, now=now),
        )
        fetched = replace(evidence, collateral=collateral)

        def check() -> None:
            check_quote(fetched, roots=self.roots.of("intel"), now=now, tcb=_ANY_STATUS)

        self._check(check, (tcb, identity, pck, root))
        return fetched

    def _endorse_snp(self, evidence: SnpEvidence, service: AmdService, now: datetime) -> SnpEvidence:
        report, product = parse_report(evidence.report), self.amd_product
        vlek = report.signing_key is SnpSigningKey.VLEK
        chain, crl = service.cert_chain(product, vlek=vlek), service.crl(product, vlek=vlek)
        asked = [chain, crl]
        authorities = self.fetcher.get(chain, parse_amd_chain, ends, now=now)
        revoked = self.fetcher.get(crl, parse_crl, ends, now=now)
        leaf = evidence.vcek  # a VLEK is handed out by the provider, not by AMD
        if not vlek:
            asked.append(service.vcek(product, report.chip_id, parse_tcb(report.reported_tcb, product)))
            leaf = self.fetcher.get(asked[-1], parse_vcek, ends, now=now).chain[0]
        ask, ark = authorities.chain
        fetched = SnpEvidence(report=evidence.report, vcek=leaf, ask=ask, ark=ark, crl=revoked.der)

        def check() -> None:
            endorsement = check_amd_chain(fetched, roots=self.roots.of("amd"), now=now, log=CheckLog())
            check_crl(revoked.der, endorsement, now=now, log=CheckLog())

        self._check(check, asked)
        return fetched

    def _ask_revocation(
        self, devices: tuple[GpuEvidence, ...], service: NvidiaService, now: datetime
    ) -> tuple[bytes, ...]:
        """Ask about every certificate once; GPUs and switches of a host share the upper ones."""
        answers: dict[str, bytes] = {}
        for device in devices:
            asked = [service.status(certificate, issuer) for certificate, issuer in pairwise(device.chain[1:])]
            mine = [self.fetcher.get(request, ocsp_parser(), ends, now=now).data for request in asked]

            def check(device: GpuEvidence = device, mine: Sequence[bytes] = mine) -> None:
                log, read = CheckLog(), [parse_ocsp(answer) for answer in mine]
                check_chain(device.chain, roots=self.roots.of("nvidia"), now=now, log=log)
                check_revocation(device.chain, read, policy=Revocation.REQUIRED, now=now, log=log)

            self._check(check, asked)
            answers.update(zip((request.key for request in asked), mine, strict=True))
        return tuple(answers.values())

    def _fetch_manifests(self, attestation: Attestation, service: NvidiaService, now: datetime) -> tuple[bytes, ...]:
        """Fetch manifests by name; they must agree with the device. A verifier takes them by their pinned digest."""
        rims: dict[bytes, None] = {}
        for gpu in attestation.gpus:
            chip = check_chain(gpu.chain, roots=self.roots.of("nvidia"), now=now, log=CheckLog()).model
            report = parse_spdm(gpu.report)
            asked = service.manifests(facts := read_facts(report), chip)
            pair = [self.fetcher.get(request, parse_manifest, ends, now=now).data for request in asked]
            read = list(map(parse_rim, pair))
            self._check(partial(check_measurements, report, facts, chip, read, log=CheckLog()), asked)
            rims.update(dict.fromkeys(pair))
        for switch in attestation.switches:
            chip = check_chain(switch.chain, roots=self.roots.of("nvidia"), now=now, log=CheckLog()).model
            report, product = parse_spdm(switch.report), PRODUCTS.get(chip, chip)
            request = service.switch_manifest(bios := read_switch_facts(report).bios)
            rim = self.fetcher.get(request, parse_manifest, ends, now=now).data
            read = [parse_rim(rim)]
            self._check(partial(check_switch_measurements, report, bios, product, read, log=CheckLog()), [request])
            rims[rim] = None
        return tuple(rims)

    def _check(self, check: Callable[[], object], requests: Sequence[Request]) -> None:
        """Throw away what does not verify; what verifies and is bad news stays."""
        try:
            check()
        except _LIES as error:
            self.fetcher.forget(*requests)
            raise EndorsementFetchError(
                f"what was fetched from {requests[0].url} and others does not verify: {type(error).__name__}: {error}"
            ) from error
        except AttestationError:
            return


class EndorsedAttester:
    """Hardware and an endorser as one; implements `attestation.collect.Attester`."""

    def __init__(self, hardware: Attester, endorser: Endorser, *, clock: Callable[[], datetime]) -> None:
        self._hardware, self._endorser, self._clock = hardware, endorser, clock

    def extend(self, event: LogEvent) -> None:
        """Log what is about to be loaded; see `Attester`."""
        self._hardware.extend(event)

    def attest(self, base: Transcript) -> Attestation:
        """Sign a transcript and endorse it; see `Attester`. What cannot be endorsed is an `AttesterError`."""
        attestation = self._hardware.attest(base)
        try:
            return self._endorser.endorse(attestation, now=self._clock())
        except (EndorsementFetchError, AttestationError, ValueError) as error:
            raise AttesterError(f"no endorsements: {error}") from error
