"""Compare what a GPU or switch measured with the manifests of exactly its chip and firmware.

NVIDIA's verifiers report `secboot: true` and `dbgstat: disabled` if, and only if, every measurement equals its
manifest: a report of Hopper or LS10 has no other source of either (attestation-sdk, `generate_set_measurement_claims`
of gpu/verify.cpp and switch/verify.cpp). So this comparison is what proves here that a device booted vendor firmware
and has no debugger. Blackwell says more about the key that signs, see `attestation.dice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

from attestation.chain_cache import ChainCache
from attestation.errors import RimMismatchError
from attestation.nvidia_facts import GpuFacts
from attestation.rim import Rim, parse_rim
from attestation.spdm import SpdmReport
from attestation.verdict import CheckLog

NVDEC0_BLOCK = 35  # manifest index of the video decoder's measurement; it counts only where that unit is on


def load_rims(files: Mapping[bytes, bytes], cache: ChainCache | None = None) -> tuple[Rim, ...]:
    """Read manifests once for all devices of a host.

    Args:
        files: SHA-256 pinned by the policy -> the file.
        cache: manifests read before, by digest, if the caller keeps them.

    Raises:
        MalformedEvidenceError: a file is no manifest.
        RimMismatchError: a file is not the one its digest names.
    """
    for digest, data in files.items():
        if not compare_digest(sha256(data).digest(), digest):
            raise RimMismatchError(f"manifest {digest.hex()} is another file; fetch it again")
    return tuple(_read(digest, data, cache) for digest, data in files.items())


def _read(digest: bytes, data: bytes, cache: ChainCache | None) -> Rim:
    known = cache.get(digest, Rim) if cache is not None else None
    rim = known or parse_rim(data)
    if cache is not None:
        cache.put(digest, rim)
    return rim


def check_measurements(
    report: SpdmReport, facts: GpuFacts, model: str, rims: Sequence[Rim], *, log: CheckLog
) -> tuple[Rim, Rim]:
    """Compare a GPU's measurements with the manifests of exactly this chip, driver and VBIOS.

    A manifest names its VBIOS version but not the board (that is only in its published name), so all allowed manifests
    with the right version are tried, and one must agree in full. Index n of a manifest is block n + 1 of the report.

    Returns:
        The driver's and the VBIOS's manifest.

    Raises:
        RimMismatchError: no such manifest among those allowed, none agrees, or driver and VBIOS claim the same index.
    """
    chips = {model} if facts.chip is None else {facts.chip}
    drivers = _candidates(rims, chips, facts.driver, f"GPU driver manifest {facts.driver}", log)
    names = f"GPU VBIOS manifest {facts.vbios_manifest}"
    boards = _candidates(rims, chips | {model}, facts.vbios, names, log)
    pairs = [(driver, vbios) for driver in drivers for vbios in boards]
    differing = [_differences(report, _golden(driver, vbios, facts)) for driver, vbios in pairs]
    return pairs[_least("GPU", differing, log)]


def check_switch_measurements(
    report: SpdmReport, bios: str, product: str, rims: Sequence[Rim], *, log: CheckLog
) -> Rim:
    """Compare a switch's measurements with the manifest of exactly this chip and BIOS; return it.

    Raises:
        RimMismatchError: no such manifest among those allowed, or none agrees.
    """
    found = _candidates(rims, {product}, bios, f"switch BIOS manifest {bios}", log)
    return found[_least("switch", [_differences(report, rim.measurements) for rim in found], log)]


def _candidates(rims: Sequence[Rim], products: set[str], version: str, name: str, log: CheckLog) -> list[Rim]:
    found = [rim for rim in rims if rim.version == version and rim.product in products]
    chips = " or ".join(sorted(products))
    required = f"an allowed manifest for {chips}; ask for it to be allowed, or run an allowed version"
    log.require(name, bool(found), seen=f"{len(found)} found", required=required, error=RimMismatchError)
    return found


def _golden(driver: Rim, vbios: Rim, facts: GpuFacts) -> dict[int, tuple[bytes, ...]]:
    """Return what a pair of manifests says together, index -> values."""
    overlap = driver.measurements.keys() & vbios.measurements.keys()
    if overlap:
        raise RimMismatchError(f"driver and VBIOS manifest both claim index {min(overlap)}: not a pair")
    golden = {**driver.measurements, **vbios.measurements}
    if not facts.nvdec0:
        golden.pop(NVDEC0_BLOCK, None)
    return golden


def _differences(report: SpdmReport, golden: Mapping[int, tuple[bytes, ...]]) -> set[int]:
    """Return the manifest indices at which the report is not as it should be."""
    blocks = report.measurements
    return {index for index, values in golden.items() if index >= len(blocks) or blocks[index] not in values}


def _least(device: str, differing: Sequence[set[int]], log: CheckLog) -> int:
    """Return which manifests agree in full; the closest ones are named when none do."""
    least = min(differing, key=len)
    log.require(
        f"{device} measurements",
        not least,
        seen=f"blocks {', '.join(map(str, sorted(least)))} differ" if least else "all equal",
        required="equal to its manifests: vendor firmware, booted securely, no debugger",
        error=RimMismatchError,
    )
    return differing.index(least)
