"""The save area (VMSA) each virtual processor starts from; SEV-SNP measures it, one page each.

Hypervisors differ in a few registers; a value not named here is zero.

Source: AMD 24593 (APM volume 2) 3.41, table B-4; start values as QEMU with KVM, EC2 and Google Compute Engine set them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PAGE_SIZE: Final = 4096
FIRST_ADDRESS: Final = 0xFFFFFFF0  # the reset vector, where the first processor starts
SNP_ACTIVE: Final = 1  # bit 0 of SEV_FEATURES

_SEGMENT = struct.Struct("<HHIQ")  # selector, attributes, limit, base
_SEGMENTS: Final = {  # offset: attributes
    "es": (0x00, 0x93),
    "cs": (0x10, 0x9B),
    "ss": (0x20, 0x93),
    "ds": (0x30, 0x93),
    "fs": (0x40, 0x93),
    "gs": (0x50, 0x93),
    "gdtr": (0x60, 0),
    "ldtr": (0x70, 0x82),
    "idtr": (0x80, 0),
    "tr": (0x90, 0x8B),
}
_QUADS: Final = {  # offset of a 64-bit register: value
    0xD0: 0x1000,  # EFER: SVME, which KVM sets
    0x148: 0x40,  # CR4: MCE, which KVM sets
    0x158: 0x10,  # CR0
    0x160: 0x400,  # DR7
    0x168: 0xFFFF0FF0,  # DR6
    0x170: 0x2,  # RFLAGS
    0x3E8: 0x1,  # XCR0
}
_RIP, _G_PAT, _RDX, _SEV_FEATURES, _MXCSR, _FCW = 0x178, 0x268, 0x310, 0x3B0, 0x408, 0x410
_CODE_SELECTOR: Final = 0xF000
_LIMIT: Final = 0xFFFF


class Hypervisor(StrEnum):
    """Who starts the guest."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What one hypervisor sets differently."""

    attributes: dict[str, int]
    g_pat: int = 0x0007040600070406  # PAT after reset, APM volume 2 section 7.8
    mxcsr: int = 0
    fcw: int = 0
    rdx: int | None = 0x600  # None: the processor's signature


_STARTS: Final = {
    Hypervisor.QEMU: _Start(attributes={}, mxcsr=0x1F80, fcw=0x37F, rdx=None),
    Hypervisor.EC2: _Start(attributes={"ss": 0x92, "tr": 0x83}),
    Hypervisor.GCE: _Start(attributes={}, g_pat=0x00070106),
}
_EC2_FIRST_CODE: Final = 0x9A


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """Return what CPUID function 1 gives in EAX, from the combined family and model.

    Raises:
        ValueError: a number outside its field.

    Source: AMD 25481 (CPUID specification), Fn0000_0001_EAX.
    """
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise ValueError(f"no processor has family {family}, model {model}, stepping {stepping}")
    low, extended = min(family, 0xF), max(family - 0xF, 0)
    return extended << 20 | model >> 4 << 16 | low << 8 | (model & 0xF) << 4 | stepping


def save_area(*, address: int, hypervisor: Hypervisor, features: int, signature: int) -> bytes:
    """Return the page one virtual processor starts from.

    Args:
        address: where it starts, below 4 GiB.
        hypervisor: who starts it.
        features: SEV_FEATURES, 64 bits.
        signature: `cpu_signature`; only QEMU passes it on.
    """
    start = _STARTS[hypervisor]
    page = bytearray(PAGE_SIZE)
    for name, (offset, usual) in _SEGMENTS.items():
        _SEGMENT.pack_into(page, offset, 0, start.attributes.get(name, usual), _LIMIT, 0)
    code = _SEGMENTS["cs"][1]
    if hypervisor is Hypervisor.EC2 and address == FIRST_ADDRESS:
        code = _EC2_FIRST_CODE
    _SEGMENT.pack_into(page, _SEGMENTS["cs"][0], _CODE_SELECTOR, code, _LIMIT, address & 0xFFFF0000)
    quads = {
        **_QUADS,
        _RIP: address & 0xFFFF,
        _G_PAT: start.g_pat,
        _RDX: signature if start.rdx is None else start.rdx,
        _SEV_FEATURES: features,
    }
    for offset, value in quads.items():
        struct.pack_into("<Q", page, offset, value)
    struct.pack_into("<I", page, _MXCSR, start.mxcsr)
    struct.pack_into("<H", page, _FCW, start.fcw)
    return bytes(page)
