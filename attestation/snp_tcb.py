"""AMD product lines and the security versions of their firmware (TCB_VERSION).

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, section 2.2 and table 3.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from operator import ge

from attestation.errors import MalformedEvidenceError
from attestation.snp_policy import SnpTcb

TCB_SIZE = 8


class SnpProduct(StrEnum):
    """Product lines with a root key each; Bergamo and Siena count as Genoa."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_CPUS = {  # CPUID family and models of each line; AMD revision guides 56683, 57095, 58251
    SnpProduct.MILAN: (0x19, frozenset(range(0x10))),
    SnpProduct.GENOA: (0x19, frozenset({*range(0x10, 0x20), *range(0xA0, 0xB0)})),
    SnpProduct.TURIN: (0x1A, frozenset(range(0x12))),
}


def is_cpu_of(product: SnpProduct, family: int, model: int) -> bool:
    """Say whether a processor with this CPUID family and model is one of the product line."""
    own_family, models = _CPUS[product]
    return family == own_family and model in models


_RESERVED = {SnpProduct.MILAN: slice(2, 6), SnpProduct.GENOA: slice(2, 6), SnpProduct.TURIN: slice(4, 7)}


@lru_cache(maxsize=256)  # a fleet runs few versions, and every report names four; the answer depends on the bytes alone
def parse_tcb(raw: bytes, product: SnpProduct) -> SnpTcb:
    """Read a TCB_VERSION, 8 bytes, whose layout depends on the product.

    Raises:
        MalformedEvidenceError: another size, or reserved bytes that are not zero: parts nobody could judge.
    """
    if len(raw) != TCB_SIZE:
        raise MalformedEvidenceError(f"TCB_VERSION of {len(raw)} bytes, want {TCB_SIZE}")
    if any(raw[_RESERVED[product]]):
        raise MalformedEvidenceError(f"TCB_VERSION {raw.hex()} has reserved bytes that are not zero")
    if product is SnpProduct.TURIN:
        return SnpTcb(fmc=raw[0], bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7])
    return SnpTcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])


def encode_tcb(tcb: SnpTcb, product: SnpProduct) -> bytes:
    """Return the 8 bytes `parse_tcb` reads."""
    if product is SnpProduct.TURIN:
        return bytes([tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode])
    return bytes([tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode])


def covers(tcb: SnpTcb, floor: SnpTcb) -> bool:
    """Say whether every part of `tcb` is at or above the same part of `floor`."""
    return all(map(ge, _parts(tcb), _parts(floor)))


@lru_cache(maxsize=256)  # as above
def describe_tcb(tcb: SnpTcb) -> str:
    """Return the versions in words, for checks and error messages."""
    return "bootloader {} tee {} snp {} microcode {} fmc {}".format(*_parts(tcb))


def _parts(tcb: SnpTcb) -> tuple[int, ...]:
    return tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc
