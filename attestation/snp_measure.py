"""The launch digest SEV-SNP firmware will report for an image, computed from the image's files.

The firmware folds every page it loads into a chain of SHA-384: its kind, its address and its contents. In order: the
OVMF image, the ranges its SEV metadata names, one save area for each virtual processor.

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, section 8.17.2 (PAGE_INFO); QEMU target/i386/sev.c (kernel hashes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256, sha384
from typing import Final, Self
from uuid import UUID

from attestation.ovmf import PAGE_SIZE, Firmware, Section, SectionKind
from attestation.vmsa import FIRST_ADDRESS, SNP_ACTIVE, Hypervisor, cpu_signature, save_area

DIGEST_SIZE: Final = 48
VCPUS_MAX: Final = 1024

_PAGE_INFO = struct.Struct("<48s48sHBBBBBBQ")
_VMSA_ADDRESS: Final = 0xFFFFFFFFF000  # the firmware's stand-in, whatever the real address
_NO_CONTENTS: Final = bytes(DIGEST_SIZE)
_HASH_TABLE_GUID: Final = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
_CMDLINE_GUID: Final = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a").bytes_le
_INITRD_GUID: Final = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d").bytes_le
_KERNEL_GUID: Final = UUID("4de79437-abd2-427f-b835-d5b172d2045b").bytes_le
_HASH_ENTRY = struct.Struct("<16sH32s")
_HASH_TABLE_HEAD = struct.Struct("<16sH")
_HASH_TABLE_SIZE: Final = 176  # a head of 18 bytes, three entries of 50, rounded up to a multiple of 16

# Processors QEMU can show a guest (-cpu), by combined CPUID family, model and stepping; versions share them.
VCPU_TYPES: Final = {
    "EPYC": (23, 1, 2),
    "EPYC-IBPB": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}


class _PageKind(IntEnum):
    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHashes:
    """A kernel QEMU starts directly (-kernel): SHA-256 of its three parts, 32 bytes each.

    Attributes:
        kernel: of the kernel file.
        initrd: of the initial RAM disk; of nothing without one.
        cmdline: of the command line with a zero byte behind.
    """

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, *, kernel: bytes, initrd: bytes = b"", cmdline: str = "") -> Self:
        """Hash the three parts of a kernel."""
        return cls(
            kernel=sha256(kernel).digest(),
            initrd=sha256(initrd).digest(),
            cmdline=sha256(cmdline.encode() + b"\0").digest(),
        )

    def __post_init__(self) -> None:
        if {len(self.kernel), len(self.initrd), len(self.cmdline)} != {32}:
            raise ValueError("every hash must be 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything the launch digest depends on.

    Attributes:
        firmware: the OVMF image.
        vcpus: number of virtual processors.
        signature: what CPUID shows the guest of its processor, see `vcpu_signature`; only QEMU measures it.
        hypervisor: who starts the guest.
        features: SEV_FEATURES; SNP active (bit 0) always, debug swap is bit 5.
        kernel: a kernel QEMU starts directly; None when the firmware boots from a disk.
    """

    firmware: Firmware
    vcpus: int
    signature: int = 0
    hypervisor: Hypervisor = Hypervisor.QEMU
    features: int = SNP_ACTIVE
    kernel: KernelHashes | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= VCPUS_MAX:
            raise ValueError(f"{self.vcpus} virtual processors, want 1 to {VCPUS_MAX}")
        if not self.features & SNP_ACTIVE or self.features >> 64:
            raise ValueError(f"guest features {self.features:#x}: want bit 0 (SNP active), 64 bits at most")
        if self.hypervisor is Hypervisor.QEMU and not self.signature:
            raise ValueError("QEMU measures the processor: want its signature")
        if self.vcpus > 1 and self.firmware.reset_address is None:
            raise ValueError("this firmware does not say where further processors start")
        if self.kernel is not None and not self._holds_hashes:
            raise ValueError("this firmware has no place for kernel hashes, so a kernel would not be measured")

    @property
    def _holds_hashes(self) -> bool:
        kinds = [section.kind for section in self.firmware.sections]
        return kinds.count(SectionKind.KERNEL_HASHES) == 1 and self.firmware.hash_table_address is not None


def vcpu_signature(name: str) -> int:
    """Return the signature of a processor QEMU knows, "EPYC-Milan" or "EPYC-Milan-v2".

    Raises:
        ValueError: another name.
    """
    base, dash, version = name.rpartition("-v")
    processor = VCPU_TYPES.get(base if dash and version.isdecimal() else name)
    if processor is None:
        raise ValueError(f"unknown processor {name!r}; known: {', '.join(VCPU_TYPES)}, each with -v1, -v2 and so on")
    return cpu_signature(*processor)


def launch_digest(launch: Launch) -> bytes:
    """Return the launch digest, 48 bytes: MEASUREMENT of every report the guest will ask for."""
    firmware = launch.firmware
    digest = bytes(DIGEST_SIZE)
    for offset in range(0, len(firmware.data), PAGE_SIZE):
        page = firmware.data[offset : offset + PAGE_SIZE]
        digest = _extend(digest, _PageKind.NORMAL, firmware.address + offset, sha384(page).digest())
    late = SectionKind.CPUID if launch.hypervisor is Hypervisor.EC2 else None  # EC2 adds this page after all others
    for section in sorted(firmware.sections, key=lambda section: section.kind is late):
        digest = _extend_section(digest, section, launch)
    for number in range(launch.vcpus):
        digest = _extend(digest, _PageKind.VMSA, _VMSA_ADDRESS, _save_area_digest(launch, first=number == 0))
    return digest


def _extend(digest: bytes, kind: _PageKind, address: int, contents: bytes) -> bytes:
    """Fold one page in; it is no migration image, and no other privilege level may touch it."""
    info = _PAGE_INFO.pack(digest, contents, _PAGE_INFO.size, kind, 0, 0, 0, 0, 0, address)
    return sha384(info).digest()


def _extend_section(digest: bytes, section: Section, launch: Launch) -> bytes:
    if section.kind is SectionKind.KERNEL_HASHES and launch.kernel is not None:
        page = _hashes_page(launch.kernel, launch.firmware.hash_table_address or 0)
        return _extend(digest, _PageKind.NORMAL, section.address, sha384(page).digest())
    kind = _PageKind.ZERO
    if section.kind is SectionKind.SECRETS:
        kind = _PageKind.SECRETS
    elif section.kind is SectionKind.CPUID:
        kind = _PageKind.CPUID
    elif section.kind is SectionKind.MEMORY and launch.hypervisor is Hypervisor.GCE:
        kind = _PageKind.UNMEASURED
    for offset in range(0, section.size, PAGE_SIZE):
        digest = _extend(digest, kind, section.address + offset, _NO_CONTENTS)
    return digest


def _hashes_page(kernel: KernelHashes, table_address: int) -> bytes:
    """The page with the hashes at the place in it that the firmware reads."""
    entries = b"".join(
        _HASH_ENTRY.pack(guid, _HASH_ENTRY.size, value)
        for guid, value in (
            (_CMDLINE_GUID, kernel.cmdline),
            (_INITRD_GUID, kernel.initrd),
            (_KERNEL_GUID, kernel.kernel),
        )
    )
    table = _HASH_TABLE_HEAD.pack(_HASH_TABLE_GUID, _HASH_TABLE_HEAD.size + len(entries)) + entries
    at = table_address % PAGE_SIZE
    if at > PAGE_SIZE - _HASH_TABLE_SIZE:
        raise ValueError(f"this firmware's table of kernel hashes at {table_address:#x} does not fit into its page")
    return (bytes(at) + table).ljust(PAGE_SIZE, b"\0")


def _save_area_digest(launch: Launch, *, first: bool) -> bytes:
    page = save_area(
        address=FIRST_ADDRESS if first else launch.firmware.reset_address or 0,
        hypervisor=launch.hypervisor,
        features=launch.features,
        signature=launch.signature,
    )
    return sha384(page).digest()
