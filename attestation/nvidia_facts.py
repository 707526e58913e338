"""What the opaque fields of an NVIDIA GPU's report mean.

Source: NVIDIA's published verifiers (attestation-sdk, gpu_opaque_data_parser; nvtrust, spdm_msrt_resp_msg).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from attestation.errors import GpuStateError, MalformedEvidenceError
from attestation.spdm import SpdmReport

_DRIVER, _VBIOS, _NVDEC0, _CHIP_SKU, _PROJECT, _PROJECT_SKU = 3, 6, 11, 15, 17, 18
_FWID, _PROTECTED_PCIE, _SWITCHES, _CHIP, _FEATURE = 20, 21, 22, 35, 36
LINKS_MAX = 64  # of one GPU; 18 on Hopper
PDI_SIZE = 8
_ON, _OFF = b"\xaa", b"\x55"


class GpuFeature(StrEnum):
    """How the GPU is passed through to the guest."""

    SPT = "spt"  # single GPU
    MPT = "mpt"  # several GPUs, encrypted links between them
    PPCIE = "ppcie"  # several GPUs behind NVSwitches whose links are not encrypted


_FEATURES = {b"\0\0": GpuFeature.SPT, b"\1\0": GpuFeature.MPT, b"\2\0": GpuFeature.PPCIE}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What the opaque fields of a report say.

    Attributes:
        driver: "550.90.07".
        vbios: "96.00.9F.00.01".
        board: project, project SKU and chip SKU: "1010_0200_882".
        nvdec0: whether the video decoder is on.
        feature: pass-through mode; None where the driver does not tell (Blackwell before 580).
        fwid: digest of the firmware that signed, 48 bytes; None with drivers that do not tell.
        chip: chip by whose name its driver's manifest is published (Blackwell since 580); None elsewhere.
        switches: per-device identifiers of the switches its links lead to, 8 bytes each, as switches write their own.
    """

    driver: str
    vbios: str
    board: str
    nvdec0: bool
    feature: GpuFeature | None
    fwid: bytes | None
    chip: str | None
    switches: frozenset[bytes]

    @property
    def vbios_manifest(self) -> str:
        """Name under which NVIDIA publishes the manifest of this VBIOS."""
        return f"NV_GPU_VBIOS_{self.board}_{self.vbios.replace('.', '')}"


def read_facts(report: SpdmReport) -> GpuFacts:
    """Read the opaque fields; the report's signature is not checked here.

    Raises:
        MalformedEvidenceError: a field is missing or not in its form.
        GpuStateError: the fields contradict each other, or hold a value no published firmware writes.
    """
    version = read_field(report, _VBIOS)
    if len(version) != 8:
        raise MalformedEvidenceError(f"GPU VBIOS version of {len(version)} bytes, want 8")
    vbios = bytes([*version[3::-1], version[4]])
    nvdec0 = read_field(report, _NVDEC0)
    if nvdec0 not in (_ON, _OFF):
        raise GpuStateError(f"GPU video decoder status {nvdec0.hex()}, want aa or 55")
    return GpuFacts(
        driver=read_word(report, _DRIVER),
        vbios=".".join(f"{part:02X}" for part in vbios),
        board="_".join(read_word(report, number) for number in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)).upper(),
        nvdec0=nvdec0 == _ON,
        feature=_feature(report),
        fwid=report.opaque.get(_FWID),
        chip=read_word(report, _CHIP) if _CHIP in report.opaque else None,
        switches=_switches(report.opaque.get(_SWITCHES, b"")),
    )


def read_field(report: SpdmReport, number: int) -> bytes:
    """Return one opaque field.

    Raises:
        MalformedEvidenceError: the report does not have it.
    """
    if number not in report.opaque:
        raise MalformedEvidenceError(f"report lacks opaque field {number}")
    return report.opaque[number]


def read_word(report: SpdmReport, number: int) -> str:
    """Return one opaque field that holds ASCII letters, digits and dots, at most 64.

    Raises:
        MalformedEvidenceError: the report does not have it, or it holds something else.
    """
    text = read_field(report, number).rstrip(b"\0").decode("latin-1")
    if not 0 < len(text) <= 64 or not text.isascii() or not text.replace(".", "").isalnum():
        raise MalformedEvidenceError(f"opaque field {number} is not a short word")
    return text


def _switches(data: bytes) -> frozenset[bytes]:
    """Return the identifiers at the end of each link; GPUs write them backwards, and zero for a link that is off."""
    if len(data) % PDI_SIZE or len(data) > LINKS_MAX * PDI_SIZE:
        raise MalformedEvidenceError(f"GPU links of {len(data)} bytes, want at most {LINKS_MAX} times {PDI_SIZE}")
    ends = {data[at : at + PDI_SIZE][::-1] for at in range(0, len(data), PDI_SIZE)}
    return frozenset(ends - {bytes(PDI_SIZE)})


def _feature(report: SpdmReport) -> GpuFeature | None:
    """Return the pass-through mode; drivers before the feature flag tell only whether protected PCIe is on.

    Hopper drivers that old know no other mode. Blackwell ones say nothing at all: their mode is unknown.
    """
    flag = report.opaque.get(_FEATURE)
    if flag is None and _PROTECTED_PCIE not in report.opaque:
        return None
    protected = report.opaque.get(_PROTECTED_PCIE, _OFF)
    if flag is None:
        flag = {_ON: b"\2\0", _OFF: b"\0\0"}.get(protected, b"")
    feature = _FEATURES.get(flag)
    if feature is None or (feature is GpuFeature.PPCIE) != (protected == _ON):
        raise GpuStateError(f"GPU mode flag {flag.hex()} with protected PCIe status {protected.hex()}")
    return feature
