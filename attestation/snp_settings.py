"""SEV-SNP bit fields: the guest policy a guest was launched with, and the settings of the machine it runs on.

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58, tables 10 (guest policy), 23 (ATTESTATION_REPORT) and 24 (PLATFORM_INFO).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GUEST_BITS: Final = {
    "smt": 16,
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl": 21,
    "mem_aes_256_xts": 22,
    "rapl_disabled": 23,
    "ciphertext_hiding": 24,
    "page_swap_disabled": 25,
}
_GUEST_MUST_BE_ONE: Final = 17
# Report version -> the guest policy bits its firmware knows, and those of the platform info.
_GUEST_KNOWN: Final = {2: (1 << 25) - 1, 3: (1 << 25) - 1, 4: (1 << 25) - 1, 5: (1 << 26) - 1}
_PLATFORM_KNOWN: Final = {2: 0x1F, 3: 0x3F, 4: 0x3F, 5: 0xBF}
# Setting -> its bit, and the first report version in which a zero means "off" and not "this firmware cannot say".
_PLATFORM_BITS: Final = {
    "smt": (0, 2),
    "tsme": (1, 2),
    "ecc": (2, 3),
    "rapl_disabled": (3, 3),
    "ciphertext_hiding": (4, 3),
    "alias_check_complete": (5, 3),
    "tio": (7, 5),
}


@dataclass(frozen=True, slots=True)
class SnpGuestPolicy:
    """The POLICY word the guest was launched with; the processor enforces it for the guest's whole life."""

    raw: int

    def has(self, name: str) -> bool:
        """Whether a setting's bit is one; its name is that of a field of `SnpGuestRules`, or "debug", "migrate_ma"."""
        return bool(self.raw >> _GUEST_BITS[name] & 1)

    @property
    def abi(self) -> tuple[int, int]:
        """Lowest firmware ABI the guest insists on, (major, minor)."""
        return self.raw >> 8 & 0xFF, self.raw & 0xFF

    @property
    def smt(self) -> bool:
        """Whether two threads of a core may run."""
        return self.has("smt")

    @property
    def migrate_ma(self) -> bool:
        """Whether a migration agent may carry the guest elsewhere."""
        return self.has("migrate_ma")

    @property
    def debug(self) -> bool:
        """Whether the host may read and write guest memory through the debug interface."""
        return self.has("debug")

    def well_formed(self, report_version: int) -> bool:
        """Whether the bit that must be one is, and no bit is set that firmware of this report version does not know."""
        return bool(self.raw >> _GUEST_MUST_BE_ONE & 1) and not self.raw & ~_GUEST_KNOWN[report_version]


@dataclass(frozen=True, slots=True)
class SnpPlatformInfo:
    """The PLATFORM_INFO word: settings of the machine when the report was made.

    Attributes:
        raw: the word.
        report_version: of the report it stands in, 2 to 5.
    """

    raw: int
    report_version: int

    def has(self, name: str) -> bool | None:
        """Whether a setting is on; None when firmware of this report version cannot say.

        Its name is that of a field of `SnpPlatformRules`.
        """
        bit, told_from = _PLATFORM_BITS[name]
        if self.raw >> bit & 1:
            return True
        return False if self.report_version >= told_from else None

    @property
    def well_formed(self) -> bool:
        """Whether no bit is set that firmware of this report version does not know."""
        return not self.raw & ~_PLATFORM_KNOWN[self.report_version]
