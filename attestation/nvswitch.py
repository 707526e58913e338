"""NVSwitches (LS10): check an SPDM report down to NVIDIA's device root, and its measurements against a BIOS manifest.

Source: NVIDIA's published verifiers: attestation-sdk, switch_opaque_data_parser, for what the opaque fields mean; that
a switch must be locked is a rule of nvtrust's ppcie-verifier, which asks the driver. Here its own report says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest

from attestation.chain_cache import ChainCache
from attestation.errors import AttestationError, EndorsementMismatchError, GpuStateError, MalformedEvidenceError
from attestation.evidence import SwitchEvidence
from attestation.nvidia_chain import DeviceEndorsement, check_chain
from attestation.nvidia_facts import PDI_SIZE, read_field, read_word
from attestation.nvidia_measurements import check_switch_measurements, load_rims
from attestation.nvidia_report import check_firmware, check_signed
from attestation.rim import Rim
from attestation.spdm import SpdmReport, parse_spdm
from attestation.verdict import Check, CheckLog

PRODUCTS = {"LS_10": "LS10"}  # chip as its certificate names it -> as its manifests do
GPUS_NAMED = 8
PORTS = 64
_BIOS, _FWID, _PDI, _LOCK, _GPUS = 6, 20, 22, 25, 26
_LOCKED = b"\1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFacts:
    """What the opaque fields of a switch's report say.

    Attributes:
        bios: "96.10.73.00.01".
        pdi: the switch's own per-device identifier, 8 bytes.
        gpus: per-device identifiers of the GPUs on its ports.
        locked: whether its routes are fixed until it is reset.
        fwid: digest of the firmware that signed; None where the report does not tell (all LS10 reports known).
    """

    bios: str
    pdi: bytes
    gpus: frozenset[bytes]
    locked: bool
    fwid: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NvSwitchClaims:
    """What an accepted switch report says.

    Attributes:
        model: chip ("LS10"), as manifests name it.
        bios: BIOS version.
        device_id: SHA-256 of the switch's own key, 32 bytes.
        pdi: its per-device identifier, 8 bytes.
        gpus: per-device identifiers of the GPUs on its ports.
        rim: SHA-256 of the BIOS's manifest.
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_after: when the first certificate runs out.
        checks: everything that was checked, all held.
    """

    model: str
    bios: str
    device_id: bytes
    pdi: bytes
    gpus: frozenset[bytes]
    rim: bytes
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


def read_switch_facts(report: SpdmReport) -> SwitchFacts:
    """Read the opaque fields; the report's signature is not checked here.

    Field 26 is eight identifiers of GPUs (fewer GPUs: one is repeated), then for each of 64 ports the place of its GPU
    among them; the ports are not looked at.

    Raises:
        MalformedEvidenceError: a field is missing or not in its form.
    """
    pdi, gpus, lock = (read_field(report, number) for number in (_PDI, _GPUS, _LOCK))
    for name, value, size in (("identifier", pdi, PDI_SIZE), ("lock", lock, 2)):
        if len(value) != size:
            raise MalformedEvidenceError(f"switch {name} of {len(value)} bytes, want {size}")
    if len(gpus) != GPUS_NAMED * PDI_SIZE + PORTS:
        raise MalformedEvidenceError(f"switch GPUs of {len(gpus)} bytes, want {GPUS_NAMED * PDI_SIZE + PORTS}")
    return SwitchFacts(
        bios=read_word(report, _BIOS),
        pdi=pdi,
        gpus=frozenset(gpus[at : at + PDI_SIZE] for at in range(0, GPUS_NAMED * PDI_SIZE, PDI_SIZE)),
        locked=lock == _LOCKED,
        fwid=report.opaque.get(_FWID),
    )


def check_switch(
    evidence: SwitchEvidence,
    *,
    nonce: bytes,
    roots: frozenset[bytes],
    rims: Mapping[bytes, bytes] | Sequence[Rim],
    now: datetime,
    cache: ChainCache | None = None,
) -> NvSwitchClaims:
    """Check a switch report down to a pinned NVIDIA root key and against pinned manifests.

    1. Certificates: `nvidia_chain.check_chain`; they are a switch's.
    2. Signature and nonce; firmware identity where the report has one (LS10 reports so far do not).
    3. It is the device its certificate was made for, and its routes are locked.
    4. Measurements equal a BIOS manifest: `nvidia_measurements.check_switch_measurements`.

    Args:
        evidence: SPDM request and response, and certificates.
        nonce: the 32 bytes this switch had to sign.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        rims: allowed manifests: pinned SHA-256 -> file, or what `load_rims` returned.
        now: the verifier's time.
        cache: chains that held before, if the caller keeps them.

    Raises:
        AttestationError: a subclass that names the refusal, carrying the checks that ran.
    """
    log = CheckLog()
    try:
        endorsement = check_chain(evidence.chain, roots=roots, now=now, log=log, cache=cache, device="switch")
        product = _check_chip(endorsement, log)
        report = parse_spdm(evidence.report)
        facts = read_switch_facts(report)
        check_signed(report, endorsement, nonce=nonce, log=log, device="switch")
        if facts.fwid is None:
            log.skip("switch firmware identity", why="a report that names it")
        else:
            check_firmware(facts.fwid, endorsement, log=log, device="switch")
        _check_device(facts, endorsement, log)
        manifests = load_rims(rims) if isinstance(rims, Mapping) else rims
        rim = check_switch_measurements(report, facts.bios, product, manifests, log=log)
    except AttestationError as error:
        raise error.with_checks(log.checks) from None
    return NvSwitchClaims(
        model=product,
        bios=facts.bios,
        device_id=endorsement.device_id,
        pdi=facts.pdi,
        gpus=facts.gpus,
        rim=rim.digest,
        root=endorsement.root,
        not_after=endorsement.not_after,
        checks=log.checks,
    )


def _check_chip(endorsement: DeviceEndorsement, log: CheckLog) -> str:
    product = PRODUCTS.get(endorsement.model)
    log.require(
        "switch chip",
        product is not None,
        seen=endorsement.model[:32],
        required=" or ".join(PRODUCTS),
        error=EndorsementMismatchError,
    )
    assert product is not None
    return product


def _check_device(facts: SwitchFacts, endorsement: DeviceEndorsement, log: CheckLog) -> None:
    log.require(
        "switch identifier",
        endorsement.pdi is not None and compare_digest(facts.pdi, endorsement.pdi),
        seen=facts.pdi.hex(),
        required=f"{endorsement.pdi.hex() if endorsement.pdi else 'none'}, as its certificate",
        error=EndorsementMismatchError,
    )
    log.require(
        "switch routes",
        facts.locked,
        seen="locked" if facts.locked else "open",
        required="locked until reset",
        error=GpuStateError,
    )
