"""Everything one host sends to be believed: one document, nothing to fetch.

Encoded as deterministic CBOR (`attestation.cbor`); layout in docs/protocol/transcript.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation import cbor
from attestation.errors import MalformedEvidenceError
from attestation.eventlog import LogEvent, log_fields, parse_log
from attestation.fields import Fields, built
from attestation.merkle import BATCH_MAX, InclusionProof
from attestation.transcript import GPUS_MAX, SWITCHES_MAX, TRANSCRIPT_VERSION, CcState, Transcript

EVIDENCE_VERSION = 2
EVIDENCE_SIZE_MAX = cbor.SIZE_MAX
CHAIN_MAX = 10  # certificates of one GPU or switch; five today
RIMS_MAX = 2 * GPUS_MAX + SWITCHES_MAX
OCSP_MAX = 3 * (GPUS_MAX + SWITCHES_MAX)  # answers: one for each certificate of a device that a vendor's key signed


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxEvidence:
    """An Intel TDX quote with the collateral to check it and the logs that explain its registers.

    Attributes:
        quote: TDX quote version 4 or 5, cut to its true length.
        collateral: JSON object of nine strings as Intel's library names them, in the one form that
            `attestation.collateral.encode_collateral` writes.
        ccel: the firmware's event log, cut to its true length; empty when the guest has read none.
        log: the runtime log.
    """

    quote: bytes
    collateral: str
    ccel: bytes = b""
    log: tuple[LogEvent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEvidence:
    """An AMD SEV-SNP report with its certificates, all DER.

    Attributes:
        report: ATTESTATION_REPORT, 1184 bytes.
        vcek: certificate of the key that signed the report.
        ask: AMD SEV signing key certificate.
        ark: AMD root key certificate.
        crl: revocation list signed by the root key.
    """

    report: bytes
    vcek: bytes
    ask: bytes
    ark: bytes
    crl: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEvidence:
    """One GPU's or switch's signed measurements.

    Attributes:
        report: SPDM GET_MEASUREMENTS request followed by the signed response.
        chain: certificates in DER, leaf first, root last.
    """

    report: bytes
    chain: tuple[bytes, ...]


SwitchEvidence = GpuEvidence  # the same two parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Composite evidence of one host for one nonce.

    Attributes:
        transcript: what the CPU report binds.
        inclusion: place of the challenger's nonce in the signed batch.
        cpu: the CPU's report; None on an open host.
        gpus: one entry for each GPU, in transcript order.
        switches: one entry for each NVSwitch, in transcript order.
        rims: reference manifests the measurements are compared with, as the vendor signed them.
        ocsp: the vendor's answers whether certificates of these devices were revoked, DER; empty when not asked.

    A document has manifests and answers in ascending order of their bytes, each once.
    """

    transcript: Transcript
    inclusion: InclusionProof
    cpu: TdxEvidence | SnpEvidence | None
    gpus: tuple[GpuEvidence, ...] = ()
    switches: tuple[SwitchEvidence, ...] = ()
    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


def encode_evidence(evidence: Evidence) -> bytes:
    """Return the document for the wire.

    Raises:
        ValueError: larger than a verifier reads (1 MiB).
    """
    document: dict[str, cbor.Value] = {
        "v": EVIDENCE_VERSION,
        "transcript": evidence.transcript.to_fields(),
        "inclusion": {
            "index": evidence.inclusion.index,
            "size": evidence.inclusion.size,
            "path": list(evidence.inclusion.path),
        },
        "cpu": _cpu_fields(evidence.cpu),
        "gpus": [_device_fields(gpu) for gpu in evidence.gpus],
        "switches": [_device_fields(switch) for switch in evidence.switches],
        "rims": sorted(evidence.rims),
    }
    if evidence.ocsp:
        document["ocsp"] = sorted(evidence.ocsp)
    data = cbor.encode(document)
    if len(data) > EVIDENCE_SIZE_MAX:
        raise ValueError(f"evidence of {len(data)} bytes, at most {EVIDENCE_SIZE_MAX} are read")
    return data


def parse_evidence(data: bytes) -> Evidence:
    """Read a document; nothing in it is believed yet.

    Raises:
        MalformedEvidenceError: larger than 1 MiB, not the one deterministic encoding, an unknown,
            missing or ill-typed field, a value outside its limits.
    """
    fields = Fields(cbor.decode(data, size_max=EVIDENCE_SIZE_MAX), "evidence")
    fields.version(EVIDENCE_VERSION)
    evidence = built(
        Evidence,
        transcript=_parse_transcript(Fields(fields.take("transcript"), "transcript")),
        inclusion=_parse_inclusion(Fields(fields.take("inclusion"), "inclusion")),
        cpu=_parse_cpu(fields.take("cpu")),
        gpus=tuple(_parse_device(Fields(item, "gpu")) for item in fields.array("gpus", GPUS_MAX)),
        switches=tuple(_parse_device(Fields(item, "switch")) for item in fields.array("switches", SWITCHES_MAX)),
        rims=fields.blobs("rims", RIMS_MAX),
        ocsp=fields.blobs_if_any("ocsp", OCSP_MAX),
    )
    fields.end()
    for name, blobs in (("rims", evidence.rims), ("ocsp", evidence.ocsp)):
        if list(blobs) != sorted(set(blobs)):
            raise MalformedEvidenceError(f"evidence: {name} are not in ascending order, each once")
    return evidence


def _cpu_fields(cpu: TdxEvidence | SnpEvidence | None) -> cbor.Value:
    if cpu is None:
        return None
    if isinstance(cpu, TdxEvidence):
        return {
            "tee": "tdx",
            "quote": cpu.quote,
            "collateral": cpu.collateral,
            "ccel": cpu.ccel,
            "log": log_fields(cpu.log),
        }
    return {
        "tee": "sev-snp",
        "report": cpu.report,
        "vcek": cpu.vcek,
        "ask": cpu.ask,
        "ark": cpu.ark,
        "crl": cpu.crl,
    }


def _parse_transcript(fields: Fields) -> Transcript:
    fields.version(TRANSCRIPT_VERSION)
    transcript = built(
        Transcript,
        nonce_root=fields.blob("nonce_root"),
        hpke=fields.blob("hpke"),
        receipt=fields.blob("receipt"),
        payee=fields.blob("payee"),
        models=fields.blobs("models", cbor.SIZE_MAX),
        engine=fields.blob("engine"),
        cc=tuple(built(CcState, item) for item in fields.array("cc", GPUS_MAX)),
        gpus=fields.blobs("gpus", GPUS_MAX),
        switches=fields.blobs("switches", SWITCHES_MAX),
    )
    fields.end()
    return transcript


def _parse_inclusion(fields: Fields) -> InclusionProof:
    proof = built(
        InclusionProof,
        index=fields.number("index", BATCH_MAX),
        size=fields.number("size", BATCH_MAX),
        path=fields.blobs("path", BATCH_MAX),
    )
    fields.end()
    return proof


def _parse_cpu(value: cbor.Value) -> TdxEvidence | SnpEvidence | None:
    if value is None:
        return None
    fields = Fields(value, "cpu")
    tee = fields.text("tee")
    cpu: TdxEvidence | SnpEvidence
    if tee == "tdx":
        cpu = TdxEvidence(
            quote=fields.blob("quote"),
            collateral=fields.text("collateral"),
            ccel=fields.blob("ccel"),
            log=parse_log(fields.take("log")),
        )
    elif tee == "sev-snp":
        cpu = SnpEvidence(**{name: fields.blob(name) for name in ("report", "vcek", "ask", "ark", "crl")})
    else:
        raise MalformedEvidenceError(f"cpu: tee {tee[:16]!r} is neither 'tdx' nor 'sev-snp'")
    fields.end()
    return cpu


def _device_fields(device: GpuEvidence) -> cbor.Value:
    return {"report": device.report, "chain": list(device.chain)}


def _parse_device(fields: Fields) -> GpuEvidence:
    device = GpuEvidence(report=fields.blob("report"), chain=fields.blobs("chain", CHAIN_MAX))
    fields.end()
    return device
