"""What a policy asks of SEV-SNP: firmware, guest settings, machine settings, identity of the image, kind of key.

Debugging, migration and a lower privilege level are refused whatever a policy says; there is no field for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from attestation.errors import PolicyError

KEY_DIGEST_SIZE = 48  # SHA-384 of an ECDSA public key in AMD's format
IDENTITY_SIZE = 16  # FAMILY_ID, IMAGE_ID
_IDENTITY_SIZES = {
    "id_keys": KEY_DIGEST_SIZE,
    "author_keys": KEY_DIGEST_SIZE,
    "family_ids": IDENTITY_SIZE,
    "image_ids": IDENTITY_SIZE,
}


class SnpSigningKey(StrEnum):
    """Which key signed the report: one of the chip, or one lent to a cloud provider."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcb:
    """Lowest security version of each SEV-SNP firmware part (0 accepts any)."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0  # Turin only


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcbFloor:
    """Lowest firmware of each AMD product line; None refuses the product.

    AMD publishes no status for a version, so a policy has to say what is good enough.
    """

    milan: SnpTcb | None = None
    genoa: SnpTcb | None = None
    turin: SnpTcb | None = None

    def of(self, product: str) -> SnpTcb | None:
        """Return the floor of "Milan", "Genoa" or "Turin" (any case), None when it is refused."""
        return {"milan": self.milan, "genoa": self.genoa, "turin": self.turin}.get(product.lower())


class Want(StrEnum):
    """What a policy says about a setting that is on or off."""

    ANY = "any"
    REQUIRED = "required"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpGuestRules:
    """The guest policy the guest must have been launched with; the processor enforces it for the guest's whole life.

    Attributes:
        abi_min: lowest firmware ABI the guest itself must insist on, (major, minor).
        smt: two threads of a core may run. Any by default: nearly all servers run with it, a guest that forbids it does
            not start there, and floors on microcode carry the mitigations.
        single_socket: the guest stays on one processor package.
        cxl: memory and devices on CXL may hold guest pages. Forbidden by default: they are outside the package.
        mem_aes_256_xts: memory is encrypted with AES-256-XTS, never AES-128-XEX; from Genoa on.
        rapl_disabled: the guest runs only where the host cannot read its power use.
        ciphertext_hiding: the guest runs only where the host cannot read its ciphertext; from Turin on.
        page_swap_disabled: the host may not move or swap its pages; report version 5.
    """

    abi_min: tuple[int, int] = (0, 0)
    smt: Want = Want.ANY
    single_socket: Want = Want.ANY
    cxl: Want = Want.FORBIDDEN
    mem_aes_256_xts: Want = Want.ANY
    rapl_disabled: Want = Want.ANY
    ciphertext_hiding: Want = Want.ANY
    page_swap_disabled: Want = Want.ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPlatformRules:
    """Settings of the machine, as its firmware reports them.

    Attributes:
        firmware_min: lowest version of the SNP firmware, running and committed, (major, minor, build).
        smt: simultaneous multithreading is on.
        tsme: all memory is encrypted, the host's too.
        ecc: memory has error correction.
        rapl_disabled: the host cannot read power use.
        ciphertext_hiding: the host cannot read guests' ciphertext.
        alias_check_complete: the firmware found no two addresses for one memory cell since the last reset. Required by
            default: an owner can forge such aliases with a few bytes on a memory module (CVE-2024-21944).
        tio: devices may be trusted parts of guests (SEV-TIO).
        mitigations: bits of the mitigation vector that must be set, at launch and now; needs report version 5.
    """

    firmware_min: tuple[int, int, int] = (0, 0, 0)
    smt: Want = Want.ANY
    tsme: Want = Want.ANY
    ecc: Want = Want.ANY
    rapl_disabled: Want = Want.ANY
    ciphertext_hiding: Want = Want.ANY
    alias_check_complete: Want = Want.REQUIRED
    tio: Want = Want.ANY
    mitigations: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mitigations < 1 << 64:
            raise PolicyError("snp_platform.mitigations: want 64 bits")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpIdentityRules:
    """Who must have signed the guest's ID block, and what it must say. An empty set asks nothing.

    The measurement id names the digests of both keys already; these fields hold for all images of a policy.

    Attributes:
        id_keys: SHA-384 digests of the key that signed the block, 48 bytes each.
        author_keys: SHA-384 digests of the key that certified it, 48 bytes each.
        family_ids: FAMILY_ID values, 16 bytes each.
        image_ids: IMAGE_ID values, 16 bytes each.
        svn_min: lowest security version the block gives the guest.
    """

    id_keys: frozenset[bytes] = frozenset()
    author_keys: frozenset[bytes] = frozenset()
    family_ids: frozenset[bytes] = frozenset()
    image_ids: frozenset[bytes] = frozenset()
    svn_min: int = 0

    def __post_init__(self) -> None:
        for name, size in _IDENTITY_SIZES.items():
            if any(len(value) != size for value in getattr(self, name)):
                raise PolicyError(f"snp_identity.{name}: every value must be {size} bytes")
        signed = self.id_keys or self.author_keys
        if not signed and (self.family_ids or self.image_ids or self.svn_min):
            raise PolicyError(
                "snp_identity: family_ids, image_ids and svn_min mean nothing without id_keys or author_keys"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpRules:
    """Everything a policy asks of a report besides the TCB floor.

    Attributes:
        guest: guest policy.
        platform: machine settings.
        identity: the ID block.
        signing_keys: kinds of keys that may sign. A VLEK belongs to a cloud provider and not to a chip: whoever gets it
            out of one machine can speak as any other. Accepted only by name.
    """

    guest: SnpGuestRules = field(default_factory=SnpGuestRules)
    platform: SnpPlatformRules = field(default_factory=SnpPlatformRules)
    identity: SnpIdentityRules = field(default_factory=SnpIdentityRules)
    signing_keys: frozenset[SnpSigningKey] = frozenset({SnpSigningKey.VCEK})
