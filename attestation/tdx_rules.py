"""Which settings of a TDX guest and which TDX modules are acceptable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from attestation.errors import GuestPolicyError, PolicyError, TcbStatusError
from attestation.tdx_quote import TdBody
from attestation.verdict import CheckLog

ATTRIBUTE_DEBUG = 1 << 0
ATTRIBUTE_SEPT_VE_DISABLE = 1 << 28
ATTRIBUTE_MIGRATABLE = 1 << 29
ATTRIBUTE_PKS = 1 << 30
ATTRIBUTE_PERFMON = 1 << 63
XFAM_NEEDED = 0x3  # x87 and SSE: XFAM_FIXED1 of Intel's TDX module
XFAM_KNOWN = 0x0006DBE7  # XFAM_FIXED0: all that Intel's TDX module lets a guest have, up to AMX
_ATTRIBUTES_ALLOWED = ATTRIBUTE_SEPT_VE_DISABLE | ATTRIBUTE_PKS | ATTRIBUTE_PERFMON
_NAMES = {
    ATTRIBUTE_DEBUG: "debug",
    ATTRIBUTE_SEPT_VE_DISABLE: "SEPT_VE_DISABLE",
    ATTRIBUTE_MIGRATABLE: "migratable",
    ATTRIBUTE_PKS: "PKS",
    ATTRIBUTE_PERFMON: "PERFMON",
}
_MODULE_SIZE = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxRules:
    """What a policy may narrow; nothing here can be widened beyond the defaults.

    Attributes:
        xfam_allowed: extended features a guest may use, a subset of `XFAM_KNOWN`.
        modules: measurements (mr_seam) of the only TDX modules accepted, 48 bytes each; empty accepts those that
            Intel's TCB info accepts.
    """

    xfam_allowed: int = XFAM_KNOWN
    modules: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        if self.xfam_allowed & ~XFAM_KNOWN or self.xfam_allowed & XFAM_NEEDED != XFAM_NEEDED:
            raise PolicyError(
                f"tdx_xfam_allowed 0x{self.xfam_allowed:x}: want bits of 0x{XFAM_KNOWN:x} with 0x{XFAM_NEEDED:x}"
            )
        if any(len(module) != _MODULE_SIZE for module in self.modules):
            raise PolicyError(f"tdx_modules: every measurement must be {_MODULE_SIZE} bytes")


def check_guest(body: TdBody, rules: TdxRules, log: CheckLog) -> None:
    """Refuse guests that the host can look into, with features or on a module we do not accept.

    Raises:
        GuestPolicyError: debug, migratable, without SEPT_VE_DISABLE, bound to a service domain, any attribute this code
            does not know, or an extended feature that is not allowed.
        TcbStatusError: the TDX module is not Intel's or not one that is named.
    """
    attributes = body.td_attributes
    log.require(
        "tdx guest attributes",
        not attributes & ~_ATTRIBUTES_ALLOWED and bool(attributes & ATTRIBUTE_SEPT_VE_DISABLE),
        seen=_attribute_names(attributes),
        required="SEPT_VE_DISABLE; not debug, migratable or unknown bits",
        error=GuestPolicyError,
    )
    log.require(
        "tdx service domain",
        not any(body.mr_service_td),
        seen=body.mr_service_td.hex()[:16],
        required="none: a service domain could read the guest",
        error=GuestPolicyError,
    )
    log.require(
        "tdx xfam",
        not body.xfam & ~rules.xfam_allowed and body.xfam & XFAM_NEEDED == XFAM_NEEDED,
        seen=f"0x{body.xfam:x}",
        required=f"bits of 0x{rules.xfam_allowed:x} with 0x{XFAM_NEEDED:x}",
        error=GuestPolicyError,
    )
    log.require(
        "tdx module",
        not any(body.mr_signer_seam)
        and not body.seam_attributes
        and (not rules.modules or body.mr_seam in rules.modules),
        seen=f"{body.mr_seam.hex()[:32]}, version {body.tee_tcb_svn[1]}.{body.tee_tcb_svn[0]}",
        required=f"Intel's, one of {len(rules.modules)} named" if rules.modules else "Intel's, no attributes",
        error=TcbStatusError,
    )


@lru_cache(maxsize=64)  # a fleet has two or three
def _attribute_names(attributes: int) -> str:
    named = [name for bit, name in _NAMES.items() if attributes & bit]
    unknown = attributes & ~sum(_NAMES)
    return f"0x{attributes:016x} ({', '.join(named + ([f'unknown 0x{unknown:x}'] if unknown else [])) or 'none'})"
