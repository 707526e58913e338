"""The policy: strict by default, unknown keys are errors, trust domains never mix."""

from __future__ import annotations

import pytest

from attestation import (
    AppraisalPolicy,
    PolicyError,
    ReferenceValues,
    SnpTcb,
    SnpTcbFloor,
    Tier,
    TrustedRoots,
    UnsafeSimulatedRoots,
)
from attestation.intel import TcbRules
from attestation.nvidia_facts import GpuFeature
from attestation.roots import AMD_ARK_MILAN, INTEL_SGX_ROOT, NVIDIA_DEVICE_ROOT, PRODUCTION, trust_domain
from attestation.tdx_rules import TdxRules

DIGEST, DIGEST_48 = "ab" * 32, "ef" * 48
IMAGE = f"{{name: v1, mr_td: '{DIGEST_48}', rtmr0: '{DIGEST_48}', rtmr1: '{DIGEST_48}', rtmr2: '{DIGEST_48}'}}"
REFERENCE = f"reference: {{measurements: ['{DIGEST}'], models: ['{DIGEST}']}}\n"
NOTHING = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
SIMULATED = UnsafeSimulatedRoots(intel=frozenset({b"s" * 32}))


def test_a_policy_of_reference_values_alone_is_the_strict_one() -> None:
    policy = AppraisalPolicy.from_yaml(REFERENCE)
    assert policy.reference.measurements == {bytes.fromhex(DIGEST)}
    assert policy.reference.rims == frozenset()
    assert policy.roots == PRODUCTION
    assert policy.required_tier is Tier.CONFIDENTIAL
    assert policy.tcb_statuses == {"UpToDate"}
    assert (policy.max_age_s, policy.unsafe_accept_open_hosts) == (600, False)
    assert policy.snp_floor.of("Milan") is None
    assert policy.job_bundles == frozenset()
    assert policy.gpu_modes == frozenset(GpuFeature)
    assert policy.gpu_topologies == {"hgx-8x4"}


def test_every_field_can_be_written() -> None:
    policy = AppraisalPolicy.from_yaml(
        f"""
        reference: {{measurements: ['{DIGEST}'], rims: ['{DIGEST}'], models: []}}
        roots: {{intel: ['{INTEL_SGX_ROOT.hex()}']}}
        required_tier: confidential-cpu
        max_age_s: 60
        tcb_statuses: [UpToDate, OutOfDate]
        tcb_age_max_s: 86400
        tcb_advisories_allowed: [INTEL-SA-00615]
        tcb_evaluation_min: 17
        collateral_lag_max_s: 3600
        tdx_xfam_allowed: 0x602e7
        tdx_modules: ['{DIGEST_48}']
        images: [{{name: v1, mr_td: '{DIGEST_48}', rtmr0: '{DIGEST_48}', rtmr1: '{DIGEST_48}', rtmr2: '{DIGEST_48}'}}]
        snp_floor: {{milan: {{bootloader: 4, tee: 0, snp: 24, microcode: 219}}}}
        gpu_modes: [spt]
        gpu_topologies: []
        denied_platforms: ['{DIGEST}']
        require_firmware_log: true
        engines: ['{DIGEST}']
        image_configs: ['{DIGEST}']
        job_bundles: ['{DIGEST}']
        unsafe_accept_open_hosts: true
        """
    )
    assert policy.roots == TrustedRoots(intel=frozenset({INTEL_SGX_ROOT}))
    assert policy.pins("amd") == frozenset()
    assert (policy.gpu_modes, policy.gpu_topologies) == (frozenset({GpuFeature.SPT}), frozenset())
    assert policy.snp_floor.of("Milan") == SnpTcb(bootloader=4, tee=0, snp=24, microcode=219)
    lists = (policy.denied_platforms, policy.engines, policy.image_configs, policy.job_bundles)
    assert set(lists) == {frozenset({bytes.fromhex(DIGEST)})}
    assert policy.require_firmware_log
    assert policy.tcb_rules == TcbRules(
        statuses=frozenset({"UpToDate", "OutOfDate"}),
        age_max_s=86400,
        advisories=frozenset({"INTEL-SA-00615"}),
        evaluation_min=17,
    )
    assert policy.tdx_rules == TdxRules(xfam_allowed=0x602E7, modules=frozenset({b"\xef" * 48}))
    assert (policy.collateral_lag_max_s, policy.images[0].name) == (3600, "v1")
    assert policy.images[0].rtmrs == (b"\xef" * 48, b"\xef" * 48, b"\xef" * 48, bytes(48))


def test_a_simulated_policy_can_be_written_and_trusts_nobody_else() -> None:
    text = f"{REFERENCE}roots: none\nunsafe_simulated_roots: {{intel: ['{'cd' * 32}']}}\n"
    policy = AppraisalPolicy.from_yaml(text)
    assert policy.pins("intel") == {b"\xcd" * 32}
    assert policy.pins("amd") == policy.pins("nvidia") == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("{}", "empty", id="empty-map"),
        pytest.param("[]", "no map", id="list"),
        pytest.param("a: [", "not YAML", id="not-yaml"),
        pytest.param("max_age_s: 5", "no reference", id="no-reference-values"),
        pytest.param(REFERENCE + "max_age: 5", "unknown key 'max_age'", id="misspelt-key"),
        pytest.param(REFERENCE + "gpu_modes: [sptt]", "want any of spt, mpt, ppcie", id="unknown-gpu-mode"),
        pytest.param(REFERENCE + "gpu_modes: spt", "want a list", id="gpu-mode-that-is-no-list"),
        pytest.param(REFERENCE + "gpu_topologies: [hgx]", "unknown 'hgx'", id="unknown-topology"),
        pytest.param(REFERENCE + "? [1, 2]\n: 5", "YAML", id="key-that-is-a-list"),
        pytest.param(REFERENCE + "7: 5", "unknown key '7'", id="key-that-is-a-number"),
        pytest.param(
            "reference: {measurements: [], models: [], rmis: []}", "unknown key 'rmis'", id="misspelt-reference"
        ),
        pytest.param("reference: {measurements: []}", "want measurements and models", id="no-models"),
        pytest.param("reference: {measurements: [abc], models: []}", "not a SHA-256", id="short-digest"),
        pytest.param("reference: {measurements: [12], models: []}", "list of texts", id="digest-read-as-a-number"),
        pytest.param("reference: {measurements: abc, models: []}", "list of texts", id="text-in-place-of-a-list"),
        pytest.param(REFERENCE + REFERENCE, "given twice", id="key-given-twice"),
        pytest.param(REFERENCE + "max_age_s: 0", "max_age_s must be positive", id="no-age"),
        pytest.param(REFERENCE + "max_age_s: true", "whole number", id="age-that-is-a-flag"),
        pytest.param(REFERENCE + "max_age_s: 1.5", "whole number", id="age-that-is-a-fraction"),
        pytest.param(REFERENCE + "unsafe_accept_open_hosts: 1", "true or false", id="flag-that-is-a-number"),
        pytest.param(REFERENCE + "required_tier: best", "want one of", id="unknown-tier"),
        pytest.param(REFERENCE + "required_tier: open", "unsafe_accept_open_hosts", id="open-without-saying-unsafe"),
        pytest.param(REFERENCE + "tcb_statuses: [Revoked]", "unknown TCB status", id="revoked-accepted"),
        pytest.param(REFERENCE + "tcb_statuses: []", "at least one TCB status", id="no-status"),
        pytest.param(REFERENCE + "tcb_age_max_s: -1", "not negative", id="negative-age"),
        pytest.param(REFERENCE + "collateral_lag_max_s: -1", "not negative", id="negative-lag"),
        pytest.param(REFERENCE + "tdx_xfam_allowed: 0x100000", "want bits of", id="unknown-feature"),
        pytest.param(REFERENCE + "tdx_xfam_allowed: 0x1", "want bits of", id="no-sse"),
        pytest.param(REFERENCE + "tdx_modules: ['abcd']", r"tdx_modules: .* not 48 bytes", id="short-module"),
        pytest.param(REFERENCE + "images: {}", "list of maps", id="images-that-are-no-list"),
        pytest.param(REFERENCE + "images: [{name: v1}]", "want name", id="image-without-measurements"),
        pytest.param(REFERENCE + f"images: [{IMAGE}, {IMAGE}]", "each name once", id="image-named-twice"),
        pytest.param(
            REFERENCE + f"images: [{IMAGE.replace('mr_td', 'mrtd')}]", "unknown key 'mrtd'", id="misspelt-measurement"
        ),
        pytest.param(
            REFERENCE + f"images: [{IMAGE.replace('ef' * 48, 'ef', 1)}]",
            r"mr_td: .* not 48 bytes",
            id="short-measurement",
        ),
        pytest.param(REFERENCE + "roots: none", "trusts no root", id="no-root"),
        pytest.param(REFERENCE + "roots: mine", "no map", id="unknown-roots"),
        pytest.param(REFERENCE + "roots: {arm: []}", "unknown key 'arm'", id="unknown-vendor"),
        pytest.param(REFERENCE + f"roots: {{intel: ['{DIGEST}']}}", "no root of intel", id="own-root-as-intels"),
        pytest.param(
            REFERENCE + f"roots: {{intel: ['{AMD_ARK_MILAN.hex()}']}}", "no root of intel", id="amds-root-as-intels"
        ),
        pytest.param(
            REFERENCE + f"unsafe_simulated_roots: {{intel: ['{DIGEST}']}}",
            "cannot stand in one policy",
            id="both-worlds",
        ),
        pytest.param(REFERENCE + "snp_floor: {rome: {}}", "unknown key 'rome'", id="unknown-product"),
        pytest.param(REFERENCE + "snp_floor: {milan: {snp: 1}}", "want bootloader", id="partial-floor"),
        pytest.param(
            REFERENCE + "snp_floor: {milan: {bootloader: x, tee: 0, snp: 0, microcode: 0}}",
            "milan.bootloader",
            id="floor",
        ),
        pytest.param(REFERENCE + "denied_platforms: ['00']", "not a SHA-256", id="short-platform"),
        pytest.param(REFERENCE + "require_firmware_log: 'no'", "true or false", id="flag-that-is-a-text"),
        pytest.param(REFERENCE + "engines: []", "would accept any", id="no-engine-meaning-any"),
        pytest.param(REFERENCE + "image_configs: []", "would accept any", id="no-configuration-meaning-any"),
        pytest.param(REFERENCE + "job_bundles: ['00']", "not a SHA-256", id="short-bundle"),
        pytest.param("#" * 300_000, "at most", id="too-large"),
        pytest.param("a: !!python/object/apply:os.system ['true']", "not YAML", id="code-in-yaml"),
    ],
)
def test_an_unusable_policy_is_refused(text: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        AppraisalPolicy.from_yaml(text)


def test_reference_values_come_from_the_registry_or_the_file_and_never_from_both() -> None:
    assert AppraisalPolicy.from_yaml("max_age_s: 60", reference=NOTHING).reference == NOTHING
    with pytest.raises(PolicyError, match="come from the registry"):
        AppraisalPolicy.from_yaml(REFERENCE, reference=NOTHING)


def test_simulated_roots_cannot_stand_beside_production_roots() -> None:
    with pytest.raises(PolicyError, match="cannot stand in one policy"):
        AppraisalPolicy(reference=NOTHING, unsafe_simulated_roots=SIMULATED)


def test_a_genuine_root_cannot_be_named_simulated() -> None:
    with pytest.raises(PolicyError, match="genuine"):
        UnsafeSimulatedRoots(nvidia=frozenset({NVIDIA_DEVICE_ROOT}))


def test_no_simulated_root_is_no_simulation() -> None:
    with pytest.raises(PolicyError, match="at least one"):
        UnsafeSimulatedRoots()


def test_a_trust_domain_names_the_vendor_only_for_its_genuine_root() -> None:
    assert trust_domain("intel", INTEL_SGX_ROOT) == "intel"
    assert trust_domain("amd", AMD_ARK_MILAN) == "amd"
    assert trust_domain("nvidia", NVIDIA_DEVICE_ROOT) == "nvidia"
    assert trust_domain("intel", AMD_ARK_MILAN).startswith("sim:")
    assert trust_domain("intel", b"\xab" * 32) == "sim:abababab"


@pytest.mark.parametrize("field", ["measurements", "rims", "models"])
def test_reference_values_are_whole_digests(field: str) -> None:
    values = {"measurements": frozenset(), "rims": frozenset(), "models": frozenset(), field: frozenset({b"short"})}
    with pytest.raises(PolicyError, match=field):
        ReferenceValues(**values)


@pytest.mark.parametrize("field", ["denied_platforms", "engines", "image_configs", "job_bundles"])
def test_lists_of_a_policy_are_whole_digests(field: str) -> None:
    with pytest.raises(PolicyError, match=field):
        AppraisalPolicy(reference=NOTHING, **{field: frozenset({b"short"})})


def test_tiers_are_ordered() -> None:
    assert Tier.CONFIDENTIAL.satisfies(Tier.CONFIDENTIAL_CPU)
    assert Tier.CONFIDENTIAL_CPU.satisfies(Tier.OPEN)
    assert not Tier.OPEN.satisfies(Tier.CONFIDENTIAL_CPU)
    assert not Tier.CONFIDENTIAL_CPU.satisfies(Tier.CONFIDENTIAL)


def test_policies_are_values() -> None:
    assert AppraisalPolicy.from_yaml(REFERENCE) == AppraisalPolicy.from_yaml(REFERENCE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: &x 1\nb: *x", id="alias"),
        pytest.param("reference: &r {measurements: [], models: []}\n<<: *r", id="merge-key"),
        pytest.param("[" * 10_000, id="deep"),
        pytest.param("max_age_s: 2026-13-45", id="no-date"),
        pytest.param("max_age_s: " + "9" * 5000, id="huge-number"),
        pytest.param("max_age_s: !!int x", id="no-number"),
        pytest.param("max_age_s: !!timestamp x", id="no-time"),
    ],
)
def test_yaml_that_is_more_than_it_looks_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="YAML"):
        AppraisalPolicy.from_yaml(text)


def test_a_policy_of_as_many_values_as_are_read_is_read_and_one_more_is_refused() -> None:
    text = "denied_platforms: [" + "'', " * 4093 + "]"
    with pytest.raises(PolicyError, match="not a SHA-256"):  # read to the end, and then not liked
        AppraisalPolicy.from_yaml(text)
    with pytest.raises(PolicyError, match="more than 4096 values, or nested deeper than 8"):
        AppraisalPolicy.from_yaml(text.replace("]", "'', ]"))


@pytest.mark.parametrize(("depth", "words"), [(7, "list of texts"), (8, "nested deeper than 8")])
def test_a_policy_is_read_to_eight_levels(depth: int, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        AppraisalPolicy.from_yaml("denied_platforms: " + "[" * depth + "]" * depth)


def test_levels_are_those_of_one_value_and_not_of_all_together() -> None:
    text = REFERENCE + "denied_platforms: [" + ", ".join([f"'{DIGEST}'"] * 50) + "]"
    assert AppraisalPolicy.from_yaml(text).denied_platforms == {bytes.fromhex(DIGEST)}


def test_a_policy_of_exactly_the_size_that_is_read_is_read() -> None:
    text = REFERENCE + "#"
    assert AppraisalPolicy.from_yaml(text.ljust(64 * 1024, "x")).reference.rims == frozenset()
    with pytest.raises(PolicyError, match="policy of 65537 characters, at most 65536 are read"):
        AppraisalPolicy.from_yaml(text.ljust(64 * 1024 + 1, "x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_age_s: 5", "the policy names no reference values; add 'reference:' with measurements, rims and models"),
        ("[]", "the policy is empty or no map"),
        (REFERENCE + "max_age: 5", "the policy: unknown key 'max_age'; known: "),
        ("reference: []", "reference is empty or no map"),
        ("reference: {measurements: []}", "reference: want measurements and models"),
        ("reference: {models: []}", "reference: want measurements and models"),
        (
            "reference: {measurements: [7], models: []}",
            "reference.measurements: want a list of texts",
        ),
        ("reference: {measurements: [], models: [7]}", "reference.models: want a list of texts (quote hex digits)"),
        ("reference: {measurements: [], models: [], rims: [7]}", "reference.rims: want a list of texts"),
        (REFERENCE + "roots: {intel: [7]}", "roots.intel: want a list of texts"),
        (REFERENCE + "roots: 7", "roots is empty or no map"),
        (REFERENCE + "unsafe_simulated_roots: 7", "unsafe_simulated_roots is empty or no map"),
        (REFERENCE + "unsafe_simulated_roots: {amd: 7}", "unsafe_simulated_roots.amd: want a list of texts"),
        (REFERENCE + "required_tier: best", "required_tier 'best': want one of confidential, confidential-cpu, open"),
        (REFERENCE + "snp_floor: 7", "snp_floor is empty or no map"),
        (REFERENCE + "snp_floor: {genoa: 7}", "snp_floor.genoa is empty or no map"),
        (REFERENCE + "snp_floor: {turin: {tee: 0}}", "snp_floor.turin: want bootloader, fmc, microcode, snp, tee"),
        (
            REFERENCE + "snp_floor: {milan: {bootloader: 0, tee: x, snp: 0, microcode: 0}}",
            "snp_floor.milan.tee: want a whole number, got 'x'",
        ),
        (REFERENCE + "max_age_s: x", "max_age_s: want a whole number, got 'x'"),
        (REFERENCE + "tcb_age_max_s: x", "tcb_age_max_s: want a whole number, got 'x'"),
        (REFERENCE + "tcb_evaluation_min: x", "tcb_evaluation_min: want a whole number, got 'x'"),
        (REFERENCE + "tcb_statuses: x", "tcb_statuses: want a list of texts (quote hex digits)"),
        (REFERENCE + "denied_platforms: x", "denied_platforms: want a list of texts (quote hex digits)"),
        (REFERENCE + "engines: x", "engines: want a list of texts (quote hex digits)"),
        (REFERENCE + "engines: []", "engines: an empty list would accept any; leave the key out to say so"),
        (REFERENCE + "image_configs: x", "image_configs: want a list of texts (quote hex digits)"),
        (REFERENCE + "job_bundles: x", "job_bundles: want a list of texts (quote hex digits)"),
        (REFERENCE + "require_firmware_log: x", "require_firmware_log: want true or false, got 'x'"),
        (REFERENCE + "unsafe_accept_open_hosts: x", "unsafe_accept_open_hosts: want true or false, got 'x'"),
        (
            REFERENCE + "tcb_age_max_s: -1",
            "max_age_s must be positive, tcb_age_max_s, tcb_",
        ),
        (REFERENCE + "tcb_evaluation_min: -1", "max_age_s must be positive"),
        (REFERENCE + "tcb_statuses: []", "tcb_statuses: want at least one TCB status"),
        (REFERENCE + "required_tier: open", "required_tier 'open' also needs unsafe_accept_open_hosts: true"),
        (REFERENCE + "roots: none", "the policy trusts no root; write 'roots: production', or name simulated roots"),
        (REFERENCE + "a: [", "the policy is not YAML: while parsing"),
    ],
)
def test_a_policy_that_is_refused_says_where_and_why(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        AppraisalPolicy.from_yaml(text)
    assert str(caught.value).startswith(words)


def test_every_number_and_list_of_the_file_reaches_its_own_field() -> None:
    policy = AppraisalPolicy.from_yaml(
        f"""
        reference: {{measurements: ['{"01" * 32}'], rims: ['{"02" * 32}'], models: ['{"03" * 32}']}}
        max_age_s: 1
        tcb_age_max_s: 2
        tcb_evaluation_min: 3
        engines: ['{"04" * 32}']
        image_configs: ['{"05" * 32}']
        job_bundles: ['{"06" * 32}']
        denied_platforms: ['{"07" * 32}']
        require_firmware_log: true
        snp_floor:
          genoa: {{bootloader: 1, tee: 2, snp: 3, microcode: 4}}
          turin: {{bootloader: 5, tee: 6, snp: 7, microcode: 8, fmc: 9}}
        """
    )
    lists = (*vars_of(policy.reference), policy.engines, policy.image_configs, policy.job_bundles)
    assert [value for values in (*lists, policy.denied_platforms) for value in values] == [
        bytes([number]) * 32 for number in range(1, 8)
    ]
    assert (policy.max_age_s, policy.tcb_age_max_s, policy.tcb_evaluation_min) == (1, 2, 3)
    assert policy.require_firmware_log
    assert policy.snp_floor.of("genoa") == SnpTcb(bootloader=1, tee=2, snp=3, microcode=4)
    assert policy.snp_floor.of("TURIN") == SnpTcb(bootloader=5, tee=6, snp=7, microcode=8, fmc=9)
    assert policy.snp_floor.of("milan") is None


def vars_of(reference: ReferenceValues) -> tuple[frozenset[bytes], ...]:
    return reference.measurements, reference.rims, reference.models


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        (
            REFERENCE,
            {"reference": NOTHING},
            "reference values come from the registry here: remove 'reference:' from the policy",
        ),
        (
            REFERENCE + "snp_floor: {milan: {bootloader: 0, tee: 0, snp: 0, microcode: 0}}",
            {"snp_floor": SnpTcbFloor()},
            "the AMD floor comes from a floor file here: remove 'snp_floor:' from the policy",
        ),
        (REFERENCE + "gpu_revocation: x", {}, "gpu_revocation 'x': want one of required, if-present"),
    ],
)
def test_a_value_that_comes_from_elsewhere_or_is_no_word_is_refused(text: str, given: dict, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        AppraisalPolicy.from_yaml(text, **given)
    assert str(caught.value) == words


def test_production_roots_are_a_word_of_the_file() -> None:
    assert AppraisalPolicy.from_yaml(REFERENCE + "roots: production").roots == PRODUCTION
