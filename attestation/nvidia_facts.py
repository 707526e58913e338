"""What the opaque fields of an NVIDIA GPU's report mean.

Source: NVIDIA's published verifiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from attestation.errors import GpuStateError, MalformedEvidenceError
from attestation.spdm import SpdmReport

_DRIVER, _VBIOS, _NVDEC0, _CHIP_SKU, _PROJECT, _PROJECT_SKU = 3, 6, 11, 15, 17, 18
_FWID, _PROTECTED_PCIE, _FEATURE = 20, 21, 36
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
        feature: pass-through mode.
        fwid: digest of the firmware that signed, 48 bytes; None with drivers that do not tell.
    """

    driver: str
    vbios: str
    board: str
    nvdec0: bool
    feature: GpuFeature
    fwid: bytes | None

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
    version = _field(report, _VBIOS)
    if len(version) != 8:
        raise MalformedEvidenceError(f"GPU VBIOS version of {len(version)} bytes, want 8")
    vbios = bytes([*version[3::-1], version[4]])
    nvdec0 = _field(report, _NVDEC0)
    if nvdec0 not in (_ON, _OFF):
        raise GpuStateError(f"GPU video decoder status {nvdec0.hex()}, want aa or 55")
    return GpuFacts(
        driver=_text(report, _DRIVER),
        vbios=".".join(f"{part:02X}" for part in vbios),
        board="_".join(_text(report, number) for number in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)).upper(),
        nvdec0=nvdec0 == _ON,
        feature=_feature(report),
        fwid=report.opaque.get(_FWID),
    )


def _field(report: SpdmReport, number: int) -> bytes:
    if number not in report.opaque:
        raise MalformedEvidenceError(f"GPU report lacks opaque field {number}")
    return report.opaque[number]


def _text(report: SpdmReport, number: int) -> str:
    text = _field(report, number).rstrip(b"\0").decode("latin-1")
    if not 0 < len(text) <= 64 or not text.isascii() or not text.replace(".", "").isalnum():
        raise MalformedEvidenceError(f"GPU opaque field {number} is not a short word")
    return text


def _feature(report: SpdmReport) -> GpuFeature:
    """Return the pass-through mode; drivers before the feature flag tell only whether protected PCIe is on."""
    protected = report.opaque.get(_PROTECTED_PCIE, _OFF)
    flag = report.opaque.get(_FEATURE)
    if flag is None:
        flag = {_ON: b"\2\0", _OFF: b"\0\0"}.get(protected, b"")
    feature = _FEATURES.get(flag)
    if feature is None or (feature is GpuFeature.PPCIE) != (protected == _ON):
        raise GpuStateError(f"GPU mode flag {flag.hex()} with protected PCIe status {protected.hex()}")
    return feature
