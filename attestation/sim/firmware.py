"""Simulated firmware of GPUs and switches: what it measures as, and the manifests that say so.

Measurements follow from the version numbers alone, so the manifests of one firmware are the same bytes on every machine
and can be named in a policy beforehand. They carry no XML signature: policies pin the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256, sha384
from xml.sax.saxutils import quoteattr

from attestation.rim import SHA384, SWID

BLOCKS = 64
SWITCH_BLOCKS = 31
VBIOS_BLOCKS = (*range(7), *range(8, 13))  # as NVIDIA's published manifests for GH100 divide the indices
DRIVER_BLOCKS = (7, *range(21, 41))
_TWO_VALUES = 22  # an index for which the simulated manifest allows two values
_RIMIM = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFirmware:
    """One chip's firmware, by version.

    Attributes:
        chip: chip name, "GH100".
        project, project_sku, chip_sku: the board.
        driver: driver version.
        vbios: VBIOS version, five hexadecimal bytes.
    """

    chip: str
    project: str
    project_sku: str
    chip_sku: str
    driver: str
    vbios: str

    @property
    def hopper(self) -> bool:
        """Whether its reports and certificates are Hopper's; else they are Blackwell's."""
        return self.chip.startswith("GH")

    def driver_manifest(self) -> bytes:
        """The driver's manifest, XML."""
        return _manifest(self.chip, self.driver, DRIVER_BLOCKS, BLOCKS)

    def vbios_manifest(self) -> bytes:
        """The VBIOS's manifest, XML."""
        return _manifest(self.chip, self.vbios, VBIOS_BLOCKS, BLOCKS)

    def manifests(self) -> tuple[bytes, bytes]:
        """Both manifests, the driver's first."""
        return self.driver_manifest(), self.vbios_manifest()

    def manifest_digests(self) -> frozenset[bytes]:
        """SHA-256 of both manifests, for a policy."""
        return frozenset(sha256(manifest).digest() for manifest in self.manifests())

    def measurements(self) -> tuple[bytes, ...]:
        """SHA-384 of each of the 64 blocks of a GPU running this firmware."""
        values = [bytes(48)] * BLOCKS
        for version, blocks in ((self.driver, DRIVER_BLOCKS), (self.vbios, VBIOS_BLOCKS)):
            for index in blocks:
                values[index] = _value(self.chip, version, index)
        return tuple(values)

    def identity(self) -> bytes:
        """The firmware's DICE identity (FWID), 48 bytes."""
        return sha384(f"simulated firmware {self.chip} {self.vbios}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFirmware:
    """A switch's firmware, by version.

    Attributes:
        bios: BIOS version, five hexadecimal bytes.
    """

    bios: str

    def manifest(self) -> bytes:
        """The BIOS's manifest, XML."""
        return _manifest("LS10", self.bios, range(SWITCH_BLOCKS), SWITCH_BLOCKS)

    def measurements(self) -> tuple[bytes, ...]:
        """SHA-384 of each of the 31 blocks of a switch running this firmware."""
        return tuple(_value("LS10", self.bios, index) for index in range(SWITCH_BLOCKS))

    def identity(self) -> bytes:
        """The firmware's DICE identity (FWID), 48 bytes."""
        return sha384(f"simulated firmware LS10 {self.bios}".encode()).digest()


# Boards of the demo. Only the H100's board numbers are a real board's; versions are in no published release.
GPU_MODELS = {
    "H100": GpuFirmware(
        chip="GH100", project="1010", project_sku="0200", chip_sku="882", driver="590.99.01", vbios="96.00.FF.00.01"
    ),
    "B200": GpuFirmware(
        chip="GB100", project="S200", project_sku="0200", chip_sku="900", driver="590.99.01", vbios="97.00.FF.00.01"
    ),
}


SWITCH_FIRMWARE = SwitchFirmware(bios="96.10.FF.00.01")


def _value(chip: str, version: str, index: int) -> bytes:
    return sha384(f"simulated measurement {chip} {version} {index}".encode()).digest()


def _manifest(chip: str, version: str, active: Sequence[int], blocks: int) -> bytes:
    resources = "".join(_resource(chip, version, index, index in active) for index in range(blocks))
    return (
        f'<SoftwareIdentity xmlns="{SWID}" xmlns:ns0="{SWID}" xmlns:ns2="{SHA384}" corpus="false"'
        f' name={quoteattr(chip)} patch="false" supplemental="false" tagId="simulated-{chip}-{version}"'
        ' version="1.0" tagVersion="0">\n'
        '    <ns0:Entity name="Simulated GPU vendor" role="softwareCreator tagCreator"/>\n'
        f'    <ns0:Meta xmlns:ns1="{_RIMIM}" colloquialVersion={quoteattr(version)} edition="GPU"'
        f' product={quoteattr(chip)} revision="r1" PayloadType="direct" ns1:BindingSpec="RIMIM"'
        f' ns1:BindingSpecVersion="1.01" ns1:PlatformManufacturerStr="Simulated GPU vendor"/>\n'
        f'    <ns0:Payload xmlns:SHA384="{SHA384}">\n{resources}    </ns0:Payload>\n</SoftwareIdentity>\n'
    ).encode()


def _resource(chip: str, version: str, index: int, active: bool) -> str:
    values = [_value(chip, version, index) if active else bytes(48)]
    if active and index == _TWO_VALUES:
        values.insert(0, _value(chip, f"{version} before the last update", index))
    hashes = " ".join(f'ns2:Hash{number}="{value.hex()}"' for number, value in enumerate(values))
    return (
        f'        <ns0:Resource type="Measurement" index="{index}" active="{active}" alternatives="{len(values)}"'
        f' {hashes} name="Measurement_{index}" size="48"/>\n'
    )
