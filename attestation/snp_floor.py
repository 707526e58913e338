"""The TCB floor file: the lowest SEV-SNP firmware accepted of each AMD product line, numbered and dated.

AMD publishes no status list, so somebody who reads its security bulletins has to say what is good enough. A file does
that for many policies; a verifier never goes back to an earlier one.

    version: 1               # of this format
    number: 3                # grows with every issue
    dated: "2026-06-01"      # when it was issued, UTC
    products:
      milan: {bootloader: 4, tee: 0, snp: 24, microcode: 219}
      turin: {fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 77}

A product that is left out is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from attestation.errors import PolicyError
from attestation.snp_policy import SnpTcbFloor
from attestation.snp_policy_file import read_floor
from attestation.yaml_values import load_yaml, read_map, read_number

FORMAT_VERSION = 1
FLOOR_FILE_SIZE_MAX = 16 * 1024  # characters
_KEYS = {"version", "number", "dated", "products"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpFloorFile:
    """One issue of the floor.

    Attributes:
        number: grows with every issue, from 1.
        dated: day of issue, UTC.
        floor: lowest TCB of each product.
    """

    number: int
    dated: date
    floor: SnpTcbFloor

    def __post_init__(self) -> None:
        if self.number < 1:
            raise PolicyError(f"floor file number {self.number}, want at least 1")


def parse_floor_file(text: str) -> SnpFloorFile:
    """Read a floor file.

    Raises:
        PolicyError: too large, not YAML, an unknown or missing key, a value of the wrong kind.
    """
    where = "the floor file"
    fields = read_map(load_yaml(text, what=where, size_max=FLOOR_FILE_SIZE_MAX), where, _KEYS)
    missing = sorted(_KEYS - set(fields))
    if missing:
        raise PolicyError(f"{where} lacks {', '.join(missing)}")
    if read_number(fields["version"], "version") != FORMAT_VERSION:
        raise PolicyError(f"{where} has format version {fields['version']}, want {FORMAT_VERSION}")
    return SnpFloorFile(
        number=read_number(fields["number"], "number"),
        dated=_read_date(fields["dated"]),
        floor=read_floor(fields["products"], "products"),
    )


def accept_floor_file(offered: SnpFloorFile, seen: SnpFloorFile | None) -> SnpFloorFile:
    """Return the offered issue, unless it is a step back behind the one seen last.

    Raises:
        PolicyError: a lower number, an earlier date, or other contents under the same number.
    """
    if seen is None or offered == seen:
        return offered
    if offered.number <= seen.number or offered.dated < seen.dated:
        raise PolicyError(
            f"floor file number {offered.number} of {offered.dated} after number {seen.number} of {seen.dated}: "
            "floors only go forward"
        )
    return offered


def _read_date(value: object) -> date:
    """A day; YAML makes one of it where it is not quoted."""
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise PolicyError(f"dated: want a day as 2026-06-01, got {value!r}") from None
