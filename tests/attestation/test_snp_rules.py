"""SEV-SNP policy rules: each holds or refuses, and what a report version cannot tell is a refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.errors import (
    AttestationError,
    EndorsementMismatchError,
    GuestPolicyError,
    IdentityBlockError,
    MalformedEvidenceError,
    PlatformSettingsError,
    SigningKeyError,
)
from attestation.sim.snp import SIMULATED_TCB, SimulatedSnpPlatform, SnpFaults
from attestation.sim.snp_platform import SnpIdBlock
from attestation.snp import SnpClaims, check_report
from attestation.snp_policy import (
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpRules,
    SnpSigningKey,
    SnpTcbFloor,
    Want,
)
from attestation.snp_tcb import SnpProduct, is_cpu_of
from attestation.verify import verify
from tests.attestation.hosts import NONCE, SNP_CPU, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW, amd

USUAL = 0x30000  # SMT allowed, and the bit that must be one
BITS = {
    "smt": 16,
    "single_socket": 20,
    "cxl": 21,
    "mem_aes_256_xts": 22,
    "rapl_disabled": 23,
    "ciphertext_hiding": 24,
    "page_swap_disabled": 25,
}
SMT_ON, TSME, ECC, RAPL_OFF, HIDING, ALIASES, TIO = 1, 2, 4, 8, 16, 32, 128
PLATFORM_BITS = {
    "smt": SMT_ON,
    "tsme": TSME,
    "ecc": ECC,
    "rapl_disabled": RAPL_OFF,
    "ciphertext_hiding": HIDING,
    "alias_check_complete": ALIASES,
    "tio": TIO,
}
FLOOR = SnpTcbFloor(milan=SIMULATED_TCB, genoa=SIMULATED_TCB, turin=SIMULATED_TCB)
ANY_MACHINE = SnpPlatformRules(alias_check_complete=Want.ANY)
BLOCK = SnpIdBlock(
    id_key_digest=b"i" * 48, author_key_digest=b"a" * 48, family_id=b"f" * 16, image_id=b"m" * 16, guest_svn=3
)


@pytest.fixture(scope="module")
def platform() -> SimulatedSnpPlatform:
    return amd().make_platform()


def _check(platform: SimulatedSnpPlatform, rules: SnpRules | None = None, **faults: object) -> SnpClaims:
    report = platform.report(bytes(64), measurement=bytes(48), faults=SnpFaults(**faults))
    return check_report(
        platform.evidence(report), roots=frozenset({amd().root}), floor=FLOOR, rules=rules or SnpRules(), now=NOW
    )


def _guest(**rules: object) -> SnpRules:
    return SnpRules(guest=SnpGuestRules(**rules), platform=ANY_MACHINE)


def _machine(**rules: object) -> SnpRules:
    return SnpRules(guest=SnpGuestRules(cxl=Want.ANY), platform=SnpPlatformRules(**rules))


@pytest.mark.parametrize("name", BITS)
def test_each_guest_setting_can_be_required_or_forbidden(platform: SimulatedSnpPlatform, name: str) -> None:
    honoured = RAPL_OFF | HIDING  # so that the machine does what the guest insists on
    for wanted, other in ((Want.REQUIRED, Want.FORBIDDEN), (Want.FORBIDDEN, Want.REQUIRED)):
        policy = USUAL | 1 << BITS[name] if wanted is Want.REQUIRED else USUAL & ~(1 << BITS[name])
        faults = {"version": 5, "guest_policy": policy, "platform_info": honoured}
        _check(platform, _guest(**{"cxl": Want.ANY, name: wanted}), **faults)
        with pytest.raises(GuestPolicyError, match=f"not so: .*{name}"):
            _check(platform, _guest(**{"cxl": Want.ANY, name: other}), **faults)


@pytest.mark.parametrize("name", PLATFORM_BITS)
def test_each_machine_setting_can_be_required_or_forbidden(platform: SimulatedSnpPlatform, name: str) -> None:
    everything = sum(PLATFORM_BITS.values())
    for info, wanted, other in (
        (everything, Want.REQUIRED, Want.FORBIDDEN),
        (everything & ~PLATFORM_BITS[name], Want.FORBIDDEN, Want.REQUIRED),
    ):
        faults = {"version": 5, "platform_info": info}
        _check(platform, _machine(**{"alias_check_complete": Want.ANY, name: wanted}), **faults)
        with pytest.raises(PlatformSettingsError, match=f"not so: {name}"):
            _check(platform, _machine(**{"alias_check_complete": Want.ANY, name: other}), **faults)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param("ecc", 2, id="error-correction-in-version-2"),
        pytest.param("rapl_disabled", 2, id="power-use-in-version-2"),
        pytest.param("ciphertext_hiding", 2, id="ciphertext-hiding-in-version-2"),
        pytest.param("alias_check_complete", 2, id="aliases-in-version-2"),
        pytest.param("tio", 4, id="trusted-devices-in-version-4"),
    ],
)
@pytest.mark.parametrize("want", [Want.REQUIRED, Want.FORBIDDEN])
def test_refused_what_the_report_version_cannot_tell(
    platform: SimulatedSnpPlatform, name: str, version: int, want: Want
) -> None:
    rules = _machine(**{"alias_check_complete": Want.ANY, name: want})
    with pytest.raises(PlatformSettingsError, match=f"version {version} reports cannot tell {name}"):
        _check(platform, rules, version=version, platform_info=SMT_ON)
    _check(platform, _machine(alias_check_complete=Want.ANY), version=version, platform_info=SMT_ON)


@pytest.mark.parametrize(
    ("faults", "refusal"),
    [
        pytest.param({"platform_info": SMT_ON}, PlatformSettingsError, id="memory-aliases-nobody-looked-for"),
        pytest.param({"guest_policy": USUAL | 1 << 21}, GuestPolicyError, id="guest-pages-on-devices-outside"),
        pytest.param({"guest_policy": 0x10000}, GuestPolicyError, id="guest-policy-without-its-fixed-bit"),
        pytest.param({"guest_policy": USUAL | 1 << 26}, GuestPolicyError, id="guest-setting-nobody-knows"),
        pytest.param({"guest_policy": USUAL | 1 << 25}, GuestPolicyError, id="guest-setting-of-a-later-version"),
        pytest.param({"guest_policy": USUAL | 1 << 63}, GuestPolicyError, id="guest-setting-in-the-last-bit"),
        pytest.param({"platform_info": ALIASES | 1 << 6}, PlatformSettingsError, id="machine-setting-nobody-knows"),
        pytest.param({"platform_info": ALIASES | TIO}, PlatformSettingsError, id="machine-setting-of-a-later-version"),
        pytest.param({"guest_policy": 0x20000}, PlatformSettingsError, id="smt-on-although-the-guest-forbids-it"),
        pytest.param({"guest_policy": USUAL | 1 << 23}, PlatformSettingsError, id="power-use-read-against-the-guest"),
        pytest.param({"guest_policy": USUAL | 1 << 24}, PlatformSettingsError, id="ciphertext-read-against-the-guest"),
    ],
)
def test_refused_by_default(
    platform: SimulatedSnpPlatform, faults: dict[str, object], refusal: type[AttestationError]
) -> None:
    with pytest.raises(refusal):
        _check(platform, **faults)


def test_the_lowest_abi_is_the_guests_own_demand(platform: SimulatedSnpPlatform) -> None:
    rules = _guest(abi_min=(1, 51))
    for abi in ((1, 51), (1, 52), (2, 0)):
        _check(platform, rules, guest_policy=USUAL | abi[0] << 8 | abi[1])
    for abi in ((1, 50), (0, 99), (0, 0)):
        with pytest.raises(GuestPolicyError, match="SNP guest ABI"):
            _check(platform, rules, guest_policy=USUAL | abi[0] << 8 | abi[1])


def test_firmware_must_be_new_enough_running_and_committed(platform: SimulatedSnpPlatform) -> None:
    rules = _machine(firmware_min=(1, 55, 39))
    _check(platform, rules, firmware=(1, 55, 39))
    _check(platform, rules, firmware=(2, 0, 0))
    with pytest.raises(PlatformSettingsError, match="SNP firmware version"):
        _check(platform, rules, firmware=(1, 55, 38))
    with pytest.raises(PlatformSettingsError, match="SNP firmware version"):
        _check(platform, rules, firmware=(1, 58, 1), committed_firmware=(1, 54, 99))


def test_mitigations_must_be_there_at_launch_and_now(platform: SimulatedSnpPlatform) -> None:
    rules = _machine(mitigations=0b101)
    _check(platform, rules, version=5, mitigations=(0b101, 0b111))
    for missing in ((0b001, 0b101), (0b101, 0b100)):
        with pytest.raises(PlatformSettingsError, match="SNP mitigations"):
            _check(platform, rules, version=5, mitigations=missing)
    with pytest.raises(PlatformSettingsError, match="untold"):
        _check(platform, rules, version=4)


IDENTITY = SnpIdentityRules(
    id_keys=frozenset({BLOCK.id_key_digest, b"o" * 48}),
    author_keys=frozenset({BLOCK.author_key_digest}),
    family_ids=frozenset({BLOCK.family_id}),
    image_ids=frozenset({BLOCK.image_id}),
    svn_min=3,
)


def test_an_id_block_by_the_named_keys_holds(platform: SimulatedSnpPlatform) -> None:
    claims = _check(platform, SnpRules(identity=IDENTITY), id_block=BLOCK)
    assert (claims.report.family_id, claims.report.image_id, claims.report.guest_svn) == (b"f" * 16, b"m" * 16, 3)
    assert (claims.report.id_key_digest, claims.report.author_key_digest) == (b"i" * 48, b"a" * 48)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"id_key_digest": b"x" * 48}, id="signed-by-another-key"),
        pytest.param({"id_key_digest": bytes(48)}, id="no-id-block"),
        pytest.param({"author_key_digest": b"x" * 48}, id="certified-by-another-key"),
        pytest.param({"author_key_digest": bytes(48)}, id="certified-by-nobody"),
        pytest.param({"family_id": b"x" * 16}, id="another-family"),
        pytest.param({"image_id": b"x" * 16}, id="another-image"),
        pytest.param({"guest_svn": 2}, id="an-older-guest"),
    ],
)
def test_refused_id_block(platform: SimulatedSnpPlatform, change: dict[str, object]) -> None:
    with pytest.raises(IdentityBlockError):
        _check(platform, SnpRules(identity=IDENTITY), id_block=replace(BLOCK, **change))


@pytest.mark.parametrize(
    ("product", "family", "models"),
    [
        (SnpProduct.MILAN, 0x19, [0x00, 0x01, 0x0F]),
        (SnpProduct.GENOA, 0x19, [0x10, 0x11, 0x1F, 0xA0, 0xAF]),
        (SnpProduct.TURIN, 0x1A, [0x00, 0x02, 0x11]),
    ],
)
def test_processors_belong_to_one_product_line(product: SnpProduct, family: int, models: list[int]) -> None:
    for model in models:
        assert [line for line in SnpProduct if is_cpu_of(line, family, model)] == [product]
    assert not any(is_cpu_of(line, 0x17, models[0]) or is_cpu_of(line, family, 0xC0) for line in SnpProduct)


@pytest.mark.parametrize("product", SnpProduct)
def test_refused_processor_of_another_line(product: SnpProduct) -> None:
    other = amd().make_platform(product=product)
    with pytest.raises(EndorsementMismatchError, match="SNP processor"):
        _check(other, cpu_family=0x19 if product is SnpProduct.TURIN else 0x1A)


@pytest.mark.parametrize(
    ("version", "offset"),
    [
        (2, 0x188),
        (2, 0x18A),
        (3, 0x18B),
        (3, 0x19F),
        (3, 0x1F8),
        (4, 0x207),
        (5, 0x208),
        (5, 0x29F),
        (5, 0x1EB),
        (5, 0x1EF),
        (3, 0x4C),
        (3, 0x4F),
        (3, 0x49),
    ],
)
def test_refused_value_in_a_reserved_place(platform: SimulatedSnpPlatform, version: int, offset: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"a place that version {version} reserves"):
        _check(platform, _machine(), version=version, reserved=(offset, 1))


def test_a_lent_key_is_accepted_only_by_name() -> None:
    lent = amd().make_platform(vlek=True)
    claims = _check(lent, SnpRules(signing_keys=frozenset({SnpSigningKey.VLEK})))
    assert (claims.signing_key, claims.provider) == (SnpSigningKey.VLEK, "Simulated provider")
    with pytest.raises(SigningKeyError, match="VLEK of Simulated provider; required: VCEK"):
        _check(lent)
    with pytest.raises(SigningKeyError, match="VCEK; required: VLEK"):
        _check(amd().make_platform(), SnpRules(signing_keys=frozenset({SnpSigningKey.VLEK})))


def test_a_verdict_says_whose_key_signed() -> None:
    lent = vendors().make_host(SNP_CPU, quote_latency_s=0, vlek=True)
    policy = policy_for(lent, snp_signing_keys=frozenset(SnpSigningKey))
    verdict = verify(evidence_of(lent), policy, nonce=NONCE, now=NOW)
    assert verdict.signing_key == "VLEK of Simulated provider"
    assert verdict.to_dict()["signing_key"] == "VLEK of Simulated provider"
    own = host(SNP_CPU)
    assert verify(evidence_of(own), policy_for(own), nonce=NONCE, now=NOW).signing_key == "VCEK"
    with pytest.raises(SigningKeyError):
        verify(evidence_of(lent), policy_for(lent), nonce=NONCE, now=NOW)


def test_a_policys_rules_reach_the_report() -> None:
    attester = host(SNP_CPU)
    evidence = evidence_of(attester)
    for change, refusal in (
        ({"snp_guest": SnpGuestRules(smt=Want.FORBIDDEN)}, GuestPolicyError),
        ({"snp_platform": SnpPlatformRules(tsme=Want.REQUIRED)}, PlatformSettingsError),
        ({"snp_identity": SnpIdentityRules(id_keys=frozenset({b"k" * 48}))}, IdentityBlockError),
    ):
        with pytest.raises(refusal) as caught:
            verify(evidence, policy_for(attester, **change), nonce=NONCE, now=NOW)
        assert caught.value.checks[-1].outcome == "failed"
