"""Which roots, firmware, images, GPUs and models we accept. Strict unless told otherwise, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from attestation.errors import PolicyError
from attestation.gpu_policy import TOPOLOGIES, check_topology_names
from attestation.intel import TCB_STATUSES, TcbRules
from attestation.nvidia_facts import GpuFeature
from attestation.roots import PRODUCTION, TrustedRoots, UnsafeSimulatedRoots
from attestation.snp_policy import (
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpRules,
    SnpSigningKey,
    SnpTcb,
    SnpTcbFloor,
)
from attestation.td_image import IMAGES_MAX, ImageReference
from attestation.tdx_rules import XFAM_KNOWN, TdxRules
from attestation.verdict import Tier

__all__ = ["TCB_STATUSES", "AppraisalPolicy", "ReferenceValues", "SnpTcb", "SnpTcbFloor"]


class Revocation(StrEnum):
    """Whether evidence must carry the vendor's word that a GPU was not revoked."""

    REQUIRED = "required"  # a good answer for every certificate, or refused
    IF_PRESENT = "if-present"  # answers that are there must be good; a host that has none says so in its verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """What governance allows; usually read from the on-chain registry. Empty ones refuse everything.

    Attributes:
        measurements: measurement ids of allowed images, 32 bytes each.
        rims: SHA-256 of allowed GPU reference manifests, 32 bytes each.
        models: allowed model manifest roots, 32 bytes each.
    """

    measurements: frozenset[bytes]
    rims: frozenset[bytes]
    models: frozenset[bytes]

    def __post_init__(self) -> None:
        for name, values in (("measurements", self.measurements), ("rims", self.rims), ("models", self.models)):
            if any(len(value) != 32 for value in values):
                raise PolicyError(f"reference {name}: every value must be 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """The rules one verifier applies.

    Attributes:
        reference: allowed images, GPU manifests and models.
        roots: vendor roots by SPKI fingerprint; only the genuine ones can be named here.
        unsafe_simulated_roots: roots of simulated vendors, for demos and tests. A policy that names any
            makes `roots` empty: one verifier never believes both.
        required_tier: least tier accepted.
        max_age_s: longest life of a verdict, seconds.
        tcb_statuses: Intel TCB statuses accepted.
        tcb_age_max_s: with another status than "UpToDate" accepted, the oldest TCB level that may have it, seconds
            since its date.
        tcb_advisories_allowed: with another status accepted, Intel's names (INTEL-SA-...) of the known weaknesses that
            may remain; any other one refuses.
        tcb_evaluation_min: lowest TCB evaluation data number of Intel's collateral: stops a rollback.
        collateral_lag_max_s: how much earlier than the newest seen a vendor's list may have been signed, seconds.
        tdx_xfam_allowed: extended features a TDX guest may use.
        tdx_modules: measurements of the only TDX modules accepted, 48 bytes each; empty accepts those of Intel's list.
        images: descriptions of TDX images, so that a refusal can say which field differs; they allow nothing.
        snp_floor: lowest AMD firmware of each product; all refused by default.
        snp_guest: guest policy an SEV-SNP guest must have been launched with.
        snp_platform: machine settings an SEV-SNP report must show.
        snp_identity: who must have signed the guest's ID block.
        snp_signing_keys: kinds of keys that may sign an SEV-SNP report; the chip's own by default.
        gpu_revocation: whether GPU evidence must carry OCSP answers.
        gpu_modes: modes GPUs may run in; whatever stands here, a single GPU must be in single mode, and protected PCIe
            needs a complete topology.
        gpu_topologies: sets of GPUs and switches accepted in protected PCIe, names of `gpu_policy.TOPOLOGIES`.
        denied_platforms: platform ids refused whatever they prove, 32 bytes each.
        require_firmware_log: refuse TDX hosts that send no firmware event log.
        engines: SHA-256 of the only engines accepted, 32 bytes each; empty accepts any that the image carries.
        image_configs: SHA-256 of the only image configurations accepted on TDX hosts; empty accepts any.
        job_bundles: SHA-256 of jobs' code that may have run on a TDX host; none by default.
        unsafe_accept_open_hosts: accept evidence without any TEE; also needs `required_tier` "open".
        tcb_rules: which of Intel's firmware is good enough, in one value; made of the fields above, as the next two.
        tdx_rules: which guest settings and TDX modules are accepted.
        snp_rules: the SEV-SNP rules.
    """

    reference: ReferenceValues
    roots: TrustedRoots = PRODUCTION
    unsafe_simulated_roots: UnsafeSimulatedRoots | None = None
    required_tier: Tier = Tier.CONFIDENTIAL
    max_age_s: int = 600
    tcb_statuses: frozenset[str] = frozenset({"UpToDate"})
    tcb_age_max_s: int = 0
    tcb_advisories_allowed: frozenset[str] = frozenset()
    tcb_evaluation_min: int = 0
    collateral_lag_max_s: int = 86400
    tdx_xfam_allowed: int = XFAM_KNOWN
    tdx_modules: frozenset[bytes] = frozenset()
    images: tuple[ImageReference, ...] = ()
    snp_floor: SnpTcbFloor = field(default_factory=SnpTcbFloor)
    snp_guest: SnpGuestRules = field(default_factory=SnpGuestRules)
    snp_platform: SnpPlatformRules = field(default_factory=SnpPlatformRules)
    snp_identity: SnpIdentityRules = field(default_factory=SnpIdentityRules)
    snp_signing_keys: frozenset[SnpSigningKey] = frozenset({SnpSigningKey.VCEK})
    gpu_revocation: Revocation = Revocation.IF_PRESENT
    gpu_modes: frozenset[GpuFeature] = frozenset(GpuFeature)
    gpu_topologies: frozenset[str] = frozenset(TOPOLOGIES)
    denied_platforms: frozenset[bytes] = frozenset()
    require_firmware_log: bool = False
    engines: frozenset[bytes] = frozenset()
    image_configs: frozenset[bytes] = frozenset()
    job_bundles: frozenset[bytes] = frozenset()
    unsafe_accept_open_hosts: bool = False
    tcb_rules: TcbRules = field(init=False, repr=False, compare=False)
    tdx_rules: TdxRules = field(init=False, repr=False, compare=False)
    snp_rules: SnpRules = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.unsafe_simulated_roots is not None and self.roots != TrustedRoots.none():
            raise PolicyError("simulated roots and production roots cannot stand in one policy; set roots to none")
        if self.unsafe_simulated_roots is None and self.roots == TrustedRoots.none() and not self.open_only:
            raise PolicyError("the policy trusts no root; write 'roots: production', or name simulated roots")
        if not self.tcb_statuses:
            raise PolicyError("tcb_statuses: want at least one TCB status")
        if not self.tcb_statuses <= set(TCB_STATUSES):
            raise PolicyError(f"unknown TCB status {min(self.tcb_statuses - set(TCB_STATUSES))!r}")
        if self.max_age_s <= 0 or min(self.tcb_age_max_s, self.tcb_evaluation_min, self.collateral_lag_max_s) < 0:
            raise PolicyError(
                "max_age_s must be positive, tcb_age_max_s, tcb_evaluation_min and collateral_lag_max_s not negative"
            )
        names = [image.name for image in self.images]
        if len(names) > IMAGES_MAX or len(set(names)) != len(names):
            raise PolicyError(f"images: want at most {IMAGES_MAX}, each name once")
        self._derive_rules()
        if self.required_tier is Tier.OPEN and not self.unsafe_accept_open_hosts:
            raise PolicyError("required_tier 'open' also needs unsafe_accept_open_hosts: true")
        if not self.snp_signing_keys:
            raise PolicyError("snp_signing_keys: want VCEK, VLEK or both")
        check_topology_names(self.gpu_topologies)
        for name in ("denied_platforms", "engines", "image_configs", "job_bundles"):
            if any(len(value) != 32 for value in getattr(self, name)):
                raise PolicyError(f"{name}: every value must be 32 bytes")

    @property
    def open_only(self) -> bool:
        """Whether nothing but an open host can pass."""
        return self.unsafe_accept_open_hosts and self.required_tier is Tier.OPEN

    def _derive_rules(self) -> None:
        """Make the values that the vendors' modules take, once: an appraisal has no time to make them again.

        Raises:
            PolicyError: they name unknown TDX features or firmware statuses, or no module measurement.
        """
        tcb = TcbRules(
            statuses=self.tcb_statuses,
            age_max_s=self.tcb_age_max_s,
            advisories=self.tcb_advisories_allowed,
            evaluation_min=self.tcb_evaluation_min,
        )
        snp = SnpRules(
            guest=self.snp_guest,
            platform=self.snp_platform,
            identity=self.snp_identity,
            signing_keys=self.snp_signing_keys,
        )
        object.__setattr__(self, "tcb_rules", tcb)
        object.__setattr__(self, "tdx_rules", TdxRules(xfam_allowed=self.tdx_xfam_allowed, modules=self.tdx_modules))
        object.__setattr__(self, "snp_rules", snp)

    def pins(self, vendor: str) -> frozenset[bytes]:
        """Return the SPKI fingerprints trusted for "intel", "amd" or "nvidia"."""
        return (self.unsafe_simulated_roots or self.roots).of(vendor)

    @staticmethod
    def from_yaml(
        text: str, *, reference: ReferenceValues | None = None, snp_floor: SnpTcbFloor | None = None
    ) -> AppraisalPolicy:
        """Read a policy file; see `attestation.policy_file`.

        Args:
            text: the file.
            reference: reference values that come from elsewhere (the on-chain registry); the file must name none then.
            snp_floor: AMD firmware floor that comes from elsewhere (a floor file); the policy must name none then.

        Raises:
            PolicyError: empty, an unknown key, a value of the wrong kind.
        """
        from attestation.policy_file import parse_policy  # noqa: PLC0415  (the file format needs the type)

        return parse_policy(text, reference, snp_floor)
