"""How many attestations one core verifies a second.

Run: python bench/verification.py [--seconds 2]. Rounds of equal length, CPU time of this process, median and spread.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import dcap_qvl
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from genuine_hgx import genuine_cases

from attestation import (
    AppraisalPolicy,
    ReferenceValues,
    TeeKind,
    Tier,
    Transcript,
    TrustedRoots,
    encode_evidence,
    gpu_nonce,
    inclusion_proof,
    nonce_root,
    nvidia,
    parse_evidence,
    snp,
    tdx,
    verify,
)
from attestation.certificate import Certificate
from attestation.chain_cache import ChainCache
from attestation.collect import extend_named
from attestation.devices import check_devices
from attestation.evidence import SnpEvidence, TdxEvidence
from attestation.intel import STRICT
from attestation.log_appraisal import check_logs
from attestation.p384 import load_p384
from attestation.simulate import SIMULATED_FLOOR, SimulatedHost, SimulatedVendors
from attestation.verdict import CheckLog

ROUNDS = 7
NONCE = b"n" * 32
NOW = datetime.now(UTC).replace(microsecond=0)
HGX = "8 GPUs + 4 switches"
TARGETS = {  # per second on one core
    "TDX quote and collateral": 1400,  # the library alone: 1,450 on the machine of the bench
    "SEV-SNP report": 900,
    "SEV-SNP report, chain seen before": 2000,
    HGX: 25,
    f"{HGX}, chains seen": 100,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds per line")
    seconds = parser.parse_args().seconds
    print(_machine())
    print(f"{'what':44} {'median':>9} {'lowest':>9} {'highest':>9} {'median':>9}")
    for name, call in _cases():
        rates = _measure(call, seconds)
        median = statistics.median(rates)
        print(f"{name:44} {median:7.0f}/s {min(rates):7.0f}/s {max(rates):7.0f}/s {1e6 / median:6.0f} us", flush=True)
    _print_overhead(seconds)
    for name, target in TARGETS.items():
        print(f"target: {name} >= {target}/s")


def _print_overhead(seconds: float) -> None:
    """Print what our part adds to the library's, call by call in turn so that both meet the same machine."""
    vendors = SimulatedVendors.create(NOW)
    host = vendors.make_host(TeeKind.TDX, quote_latency_s=0)
    extend_named(host, _transcript())
    evidence = host.attest(_transcript()).evidence(inclusion_proof([NONCE], 0))
    document, quote = encode_evidence(evidence), evidence.cpu
    assert isinstance(quote, TdxEvidence)
    policy, roots = replace(_policy(vendors, host), required_tier=Tier.CONFIDENTIAL_CPU), vendors.roots().intel
    bundle, stamp = dcap_qvl.QuoteCollateralV3.from_json(quote.collateral), int(NOW.timestamp())
    verifier = dcap_qvl.QuoteVerifier(tdx.parse_quote(quote.quote).chain[-1])
    calls: dict[str, Callable[[], object]] = {
        "library alone": lambda: verifier.verify_with_policy(quote.quote, bundle, stamp, STRICT.for_library(NOW)),
        "quote and collateral": lambda: tdx.check_quote(quote, roots=roots, now=NOW),
        "whole appraisal": lambda: verify(evidence, policy, nonce=NONCE, now=NOW),
        "whole, from bytes": lambda: verify(parse_evidence(document), policy, nonce=NONCE, now=NOW),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    stop = time.process_time() + seconds
    while time.process_time() < stop:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    base = statistics.median(times["library alone"])
    for name, took in times.items():
        median = statistics.median(took)
        print(f"TDX in turn, {name:31} {1 / median:7.0f}/s {1e6 * median:6.0f} us, {100 * (median / base - 1):+.1f} %")
    vendor, whole = (statistics.median(times[name]) for name in ("quote and collateral", "whole appraisal"))
    print(f"transcript and appraisal over the vendor's check: {100 * (whole / vendor - 1):+.1f} %; target 5 %")


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    vendors = SimulatedVendors.create(NOW)
    intel, amd = (vendors.make_host(kind, gpus=1, quote_latency_s=0) for kind in (TeeKind.TDX, TeeKind.SEV_SNP))
    large = vendors.make_host(TeeKind.TDX, gpus=8, quote_latency_s=0)
    machine = vendors.make_host(TeeKind.TDX, gpus=8, switches=4, quote_latency_s=0)
    for host in (intel, amd, large, machine):
        extend_named(host, _transcript())
    yield from _cpu_cases(vendors, intel, amd)
    yield from _gpu_cases(vendors, intel)
    yield from _hgx_cases(vendors, machine)
    yield from genuine_cases(NOW)
    for name, host in (
        ("TDX + 1 GPU", intel),
        ("SEV-SNP + 1 GPU", amd),
        ("TDX + 8 GPUs", large),
        ("TDX + 8 GPUs + 4 switches", machine),
    ):
        yield from _composite_cases(name, vendors, host)
    base = _transcript()
    yield "simulated TDX host makes evidence", lambda: intel.attest(base)


def _cpu_cases(
    vendors: SimulatedVendors, intel: SimulatedHost, amd: SimulatedHost
) -> Iterator[tuple[str, Callable[[], object]]]:
    base, roots = _transcript(), vendors.roots()
    quote, report = intel.attest(base).cpu, amd.attest(base).cpu
    assert isinstance(quote, TdxEvidence)
    assert isinstance(report, SnpEvidence)
    strict = STRICT.for_library(NOW)
    root, stamp = tdx.parse_quote(quote.quote).chain[-1], int(NOW.timestamp())
    bundle = dcap_qvl.QuoteCollateralV3.from_json(quote.collateral)
    yield (
        "TDX quote, library alone",
        lambda: dcap_qvl.QuoteVerifier(root).verify_with_policy(quote.quote, bundle, stamp, strict),
    )
    yield "TDX quote and collateral", lambda: tdx.check_quote(quote, roots=roots.intel, now=NOW)
    registers, policy = tdx.parse_quote(quote.quote).body.rtmrs, _policy(vendors, intel)
    yield (
        f"TDX logs, {len(quote.ccel)} bytes and {len(quote.log)} events",
        lambda: check_logs(quote, registers, base, policy, CheckLog()),
    )
    yield from _snp_cases(report, roots.amd)


def _snp_cases(report: SnpEvidence, roots: frozenset[bytes]) -> Iterator[tuple[str, Callable[[], object]]]:
    parsed, chains = snp.parse_report(report.report), ChainCache()
    key = load_p384(Certificate.parse(report.vcek).public_key_info)
    signature = encode_dss_signature(*parsed.signature)
    yield "SEV-SNP signature, library alone", lambda: key.holds(signature, parsed.signed)
    yield "SEV-SNP report", lambda: snp.check_report(report, roots=roots, floor=SIMULATED_FLOOR, now=NOW)
    yield (
        "SEV-SNP report, chain seen before",
        lambda: snp.check_report(report, roots=roots, floor=SIMULATED_FLOOR, now=NOW, cache=chains),
    )


def _gpu_cases(vendors: SimulatedVendors, host: SimulatedHost) -> Iterator[tuple[str, Callable[[], object]]]:
    attestation = host.attest(_transcript())
    report, nonce = attestation.gpus[0], gpu_nonce(attestation.transcript.base_digest(), 0)
    rims = nvidia.load_rims({sha256(rim).digest(): rim for rim in host.rims()})
    roots, chains = vendors.roots().nvidia, ChainCache()
    yield "GPU report", lambda: nvidia.check_report(report, nonce=nonce, roots=roots, rims=rims, now=NOW)
    yield (
        "GPU report, chain seen before",
        lambda: nvidia.check_report(report, nonce=nonce, roots=roots, rims=rims, now=NOW, cache=chains),
    )


def _hgx_cases(vendors: SimulatedVendors, host: SimulatedHost) -> Iterator[tuple[str, Callable[[], object]]]:
    evidence = host.attest(_transcript()).evidence(inclusion_proof([NONCE], 0))
    policy, seen = _policy(vendors, host), ChainCache()
    yield HGX, lambda: check_devices(evidence, policy, now=NOW, chains=None, log=CheckLog())
    yield f"{HGX}, chains seen", lambda: check_devices(evidence, policy, now=NOW, chains=seen, log=CheckLog())


def _composite_cases(
    name: str, vendors: SimulatedVendors, host: SimulatedHost
) -> Iterator[tuple[str, Callable[[], object]]]:
    document = encode_evidence(host.attest(_transcript()).evidence(inclusion_proof([NONCE], 0)))
    policy, chains = _policy(vendors, host), ChainCache()
    size = f"{len(document) / 1024:.0f} KiB"
    yield f"whole: {name}, {size}", lambda: verify(parse_evidence(document), policy, nonce=NONCE, now=NOW)
    yield (
        f"whole: {name}, chains seen before",
        lambda: verify(parse_evidence(document), policy, nonce=NONCE, now=NOW, chains=chains),
    )


def _measure(call: Callable[[], object], seconds: float) -> list[float]:
    """Return calls per second of CPU time, one figure for each round."""
    call()
    start = time.process_time()
    call()
    count = max(1, round(seconds / ROUNDS / max(time.process_time() - start, 1e-5)))
    rates = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(count):
            call()
        rates.append(count / (time.process_time() - start))
    return rates


def _transcript() -> Transcript:
    return Transcript(
        nonce_root=nonce_root([NONCE]),
        hpke=bytes(1216),
        receipt=bytes(32),
        payee=bytes(33),
        models=(),
        engine=bytes(32),
    )


def _policy(vendors: SimulatedVendors, host: SimulatedHost) -> AppraisalPolicy:
    reference = ReferenceValues(
        measurements=frozenset({host.measurement_id()}), rims=host.rim_digests(), models=frozenset()
    )
    return AppraisalPolicy(
        reference=reference,
        roots=TrustedRoots.none(),
        unsafe_simulated_roots=vendors.roots(),
        required_tier=Tier.CONFIDENTIAL,
        snp_floor=SIMULATED_FLOOR,
    )


def _machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("dcap-qvl", "cryptography"))
    return f"{cpu}; Python {platform.python_version()}; {versions}; one core, {ROUNDS} rounds"


if __name__ == "__main__":
    main()
