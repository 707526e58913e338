"""NVIDIA's own eight GPUs and four switches, read from the folder that CHRYSALIS_VECTORS names.

Their manifests are not public beside them, so everything is done but the comparison with manifests.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chain_cache import ChainCache
from attestation.evidence import GpuEvidence
from attestation.nvidia import read_facts
from attestation.nvidia_chain import check_chain
from attestation.nvidia_report import check_firmware, check_signed
from attestation.nvswitch import read_switch_facts
from attestation.roots import NVIDIA_DEVICE_ROOT
from attestation.spdm import parse_spdm
from attestation.verdict import CheckLog

ROOTS = frozenset({NVIDIA_DEVICE_ROOT})


def genuine_cases(now: datetime) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield one case with new chains and one with chains seen before; nothing where the files are not."""
    if "CHRYSALIS_VECTORS" not in os.environ:
        return
    folder = Path(os.environ["CHRYSALIS_VECTORS"]) / "nvidia-gpu"
    files = [folder / f"{name}.json" for name in ("hgx8_ppcie_gpu_evidence", "hgx4_ppcie_switch_evidence")]
    if not all(file.exists() for file in files):
        return
    gpus, switches = (_read(file) for file in files)
    seen = ChainCache()
    yield "genuine 8 GPUs + 4 switches, no manifests", lambda: _check(gpus, switches, now, ChainCache())
    yield "genuine 8 GPUs + 4 switches, chains seen", lambda: _check(gpus, switches, now, seen)


def _read(file: Path) -> list[GpuEvidence]:
    entries = json.loads(file.read_text())
    chains = [x509.load_pem_x509_certificates(base64.b64decode(entry["certificate"])) for entry in entries]
    return [
        GpuEvidence(
            report=base64.b64decode(entry["evidence"]),
            chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
        )
        for entry, chain in zip(entries, chains, strict=True)
    ]


def _check(gpus: list[GpuEvidence], switches: list[GpuEvidence], now: datetime, cache: ChainCache) -> None:
    log = CheckLog()
    for device in (*gpus, *switches):
        endorsement = check_chain(device.chain, roots=ROOTS, now=now, log=log, cache=cache)
        report = parse_spdm(device.report)
        check_signed(report, endorsement, nonce=report.nonce, log=log)
        if endorsement.model == "LS_10":
            read_switch_facts(report)
        else:
            check_firmware(read_facts(report).fwid, endorsement, log=log)
