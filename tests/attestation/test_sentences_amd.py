"""What a refusal of AMD's reports, certificates and lists says, word for word; and the last value accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from attestation import snp_measure
from attestation.errors import (
    MalformedEvidenceError,
)
from attestation.evidence import SnpEvidence
from attestation.ovmf import Firmware
from attestation.sim.der import element
from attestation.sim.snp import SIMULATED_TCB
from attestation.sim.snp_platform import SimulatedSnpPlatform, SnpFaults, SnpIdBlock
from attestation.snp import SnpClaims, check_report, parse_report
from attestation.snp_chain import check_chain, check_crl
from attestation.snp_policy import (
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpRules,
    SnpSigningKey,
    SnpTcb,
    SnpTcbFloor,
    Want,
)
from attestation.snp_report import compose_measurement_id
from attestation.snp_tcb import SnpProduct
from attestation.verdict import CheckLog
from tests.attestation.firmware import SECTIONS, image
from tests.attestation.said import Said, refusal
from tests.attestation.vendors import NOW, amd

SECOND = timedelta(seconds=1)
FLOOR = SnpTcbFloor(milan=SIMULATED_TCB, genoa=SIMULATED_TCB, turin=SIMULATED_TCB)
BOTH_KEYS = SnpRules(signing_keys=frozenset(SnpSigningKey))
REPORT_DATA = bytes(range(64))
KERNEL = snp_measure.KernelHashes.of(kernel=b"kernel")
PLAIN = snp_measure.Launch(firmware=Firmware.parse(image()), vcpus=1, signature=snp_measure.vcpu_signature("EPYC"))


@pytest.fixture(scope="module")
def snp() -> SimulatedSnpPlatform:
    return amd().make_platform()


def _reported(snp: SimulatedSnpPlatform, **faults: object) -> SnpEvidence:
    return snp.evidence(snp.report(REPORT_DATA, measurement=b"m" * 48, faults=SnpFaults(**faults)))


def _snp(evidence: SnpEvidence, **changes: object) -> SnpClaims:
    usual = {"roots": frozenset({amd().root}), "floor": FLOOR, "rules": BOTH_KEYS, "now": NOW}
    return check_report(evidence, **{**usual, **changes})


def test_every_field_of_a_report_is_read_where_amd_puts_it() -> None:
    raw = bytearray((at * 7 + 3) % 251 + 1 for at in range(1184))
    for start, end in ((0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x18B, 0x1A0), (0x208, 0x2A0), (0x330, 0x4A0), (0x4C, 0x50)):
        raw[start:end] = bytes(end - start)
    raw[0:4], raw[0x48:0x4C] = (5).to_bytes(4, "little"), b"\x05\0\0\0"
    report, data = parse_report(bytes(raw)), bytes(raw)
    number = lambda start, end: int.from_bytes(data[start:end], "little")  # noqa: E731
    assert (report.version, report.guest_svn, report.policy.raw) == (5, number(4, 8), number(8, 16))
    assert (report.family_id, report.image_id) == (data[0x10:0x20], data[0x20:0x30])
    assert (report.vmpl, report.signature_algorithm) == (number(0x30, 0x34), number(0x34, 0x38))
    assert (report.current_tcb, report.platform_info.raw) == (data[0x38:0x40], number(0x40, 0x48))
    assert (report.key_flags, report.author_key_named, report.chip_key_masked) == (5, True, False)
    assert report.signing_key is SnpSigningKey.VLEK
    assert (report.report_data, report.measurement) == (data[0x50:0x90], data[0x90:0xC0])
    assert (report.host_data, report.id_key_digest) == (data[0xC0:0xE0], data[0xE0:0x110])
    assert (report.author_key_digest, report.report_id) == (data[0x110:0x140], data[0x140:0x160])
    assert (report.report_id_ma, report.reported_tcb) == (data[0x160:0x180], data[0x180:0x188])
    assert report.cpu == (data[0x188], data[0x189], data[0x18A])
    assert (report.chip_id, report.committed_tcb) == (data[0x1A0:0x1E0], data[0x1E0:0x1E8])
    assert report.current_firmware == (data[0x1EA], data[0x1E9], data[0x1E8])
    assert report.committed_firmware == (data[0x1EE], data[0x1ED], data[0x1EC])
    assert report.launch_tcb == data[0x1F0:0x1F8]
    assert (report.launch_mitigations, report.current_mitigations) == (number(0x1F8, 0x200), number(0x200, 0x208))
    assert report.signed == data[:0x2A0]
    assert report.signature == (number(0x2A0, 0x2E8), number(0x2E8, 0x330))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:-1], "SNP report of 1183 bytes, want 1184"),
        (lambda data: b"\1" + data[1:], "SNP report version 1, want one of (2, 3, 4, 5)"),
        (lambda data: b"\6" + data[1:], "SNP report version 6, want one of (2, 3, 4, 5)"),
        (lambda data: data[:0x330] + b"\1" + data[0x331:], "SNP report carries bytes behind its signature"),
        (lambda data: data[:-1] + b"\1", "SNP report carries bytes behind its signature"),
        (lambda data: data[:0x4C] + b"\1" + data[0x4D:], "SNP report has a value in a place that version 3 reserves"),
        (lambda data: data[:0x48] + b"\x20" + data[0x49:], "SNP report has a value in a place that version 3 reserves"),
    ],
)
def test_a_report_is_refused_with_what_is_wrong(
    snp: SimulatedSnpPlatform, spoil: Callable[[bytes], bytes], says: str
) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_report(spoil(_reported(snp).report))
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("version", "reserved"),
    [(2, 0x188), (2, 0x19F), (2, 0x1F8), (3, 0x18B), (3, 0x19F), (3, 0x29F), (4, 0x1F8), (5, 0x208)],
)
def test_each_reserved_place_begins_and_ends_where_amd_says(
    snp: SimulatedSnpPlatform, version: int, reserved: int
) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"a place that version {version} reserves"):
        parse_report(_reported(snp, version=version, reserved=(reserved, 1)).report)


def test_values_of_another_size_have_no_measurement_id() -> None:
    good = {
        "measurement": bytes(48),
        "host_data": bytes(32),
        "id_key_digest": bytes(48),
        "author_key_digest": bytes(48),
    }
    assert len(compose_measurement_id(**good, policy=(1 << 64) - 1)) == 32
    for name, value in good.items():
        with pytest.raises(ValueError, match=r"^want 48 bytes of measurement, 32 of host data, 48 of each key digest"):
            compose_measurement_id(**{**good, name: value + b"\0"}, policy=0)
    assert compose_measurement_id(**good, policy=0) != compose_measurement_id(**good, policy=1)
    for policy in (-1, 1 << 64):
        with pytest.raises(ValueError, match=r"a policy of 64 bits$"):
            compose_measurement_id(**good, policy=policy)


@pytest.mark.parametrize(
    ("faults", "rules", "check"),
    [
        (
            {"debug": True, "migration_agent": True},
            {},
            Said(
                "SNP guest policy",
                "0xf0000 (debug, migrate_ma)",
                "bit 17 set, no debug, no migration agent, no unknown bit",
            ),
        ),
        (
            {"guest_policy": 0x10000},
            {},
            Said(
                "SNP guest policy",
                "0x10000 (no debug, no migration)",
                "bit 17 set, no debug, no migration agent, no unknown bit",
            ),
        ),
        ({"vmpl": 1}, {}, Said("SNP privilege level", "1", "0")),
        (
            {"guest_policy": 0x230000},
            {"guest": SnpGuestRules(smt=Want.FORBIDDEN, rapl_disabled=Want.REQUIRED)},
            Said(
                "SNP guest settings",
                "not so: smt, cxl, rapl_disabled",
                "smt forbidden, cxl forbidden, rapl_disabled required",
            ),
        ),
        (
            {"guest_policy": 0x30133},
            {"guest": SnpGuestRules(abi_min=(1, 52))},
            Said("SNP guest ABI", "1.51", "at least 1.52"),
        ),
        (
            {"platform_info": 0x40},
            {},
            Said("SNP platform info", "0x40", "only settings that version 3 reports know"),
        ),
        (
            {"guest_policy": 0x1820000, "version": 5, "platform_info": 0x21},
            {},
            Said(
                "SNP guest policy honoured",
                "ignored: rapl_disabled, ciphertext_hiding, smt off",
                "all settings the guest insists on",
            ),
        ),
        (
            {"version": 2, "platform_info": 1},
            {"platform": SnpPlatformRules(tsme=Want.REQUIRED, ecc=Want.REQUIRED)},
            Said(
                "SNP platform settings",
                "not so: tsme, ecc, alias_check_complete; version 2 reports cannot tell ecc, alias_check_complete",
                "tsme required, ecc required, alias_check_complete required",
            ),
        ),
        (
            {"platform_info": 1},
            {"platform": SnpPlatformRules(smt=Want.FORBIDDEN)},
            Said(
                "SNP platform settings",
                "not so: smt, alias_check_complete",
                "smt forbidden, alias_check_complete required",
            ),
        ),
        (
            {"firmware": (1, 55, 41), "committed_firmware": (1, 54, 3)},
            {"platform": SnpPlatformRules(firmware_min=(1, 54, 4))},
            Said("SNP firmware version", "1.55.41 running, 1.54.3 committed", "at least 1.54.4"),
        ),
        (
            {"version": 5, "mitigations": (0x3, 0x1)},
            {"platform": SnpPlatformRules(mitigations=0x2)},
            Said("SNP mitigations", "0x3, 0x1", "0x2 at launch and now"),
        ),
        (
            {},
            {"platform": SnpPlatformRules(mitigations=0x2)},
            Said("SNP mitigations", "untold, untold", "0x2 at launch and now"),
        ),
        (
            {},
            {"identity": SnpIdentityRules(id_keys=frozenset({b"k" * 48, b"l" * 48}))},
            Said("SNP id key", "00" * 48, "one of 2 the policy names"),
        ),
        (
            {"id_block": SnpIdBlock(id_key_digest=b"k" * 48)},
            {"identity": SnpIdentityRules(author_keys=frozenset({b"a" * 48}))},
            Said("SNP author key", "none", "one of 1 the policy names"),
        ),
        (
            {"id_block": SnpIdBlock(id_key_digest=b"k" * 48, family_id=b"x" * 16)},
            {"identity": SnpIdentityRules(id_keys=frozenset({b"k" * 48}), family_ids=frozenset({b"f" * 16}))},
            Said("SNP family id", "78" * 16, "one of 1 the policy names"),
        ),
        (
            {"id_block": SnpIdBlock(id_key_digest=b"k" * 48, image_id=b"x" * 16)},
            {"identity": SnpIdentityRules(id_keys=frozenset({b"k" * 48}), image_ids=frozenset({b"f" * 16}))},
            Said("SNP image id", "78" * 16, "one of 1 the policy names"),
        ),
        (
            {"id_block": SnpIdBlock(id_key_digest=b"k" * 48, guest_svn=1)},
            {"identity": SnpIdentityRules(id_keys=frozenset({b"k" * 48}), svn_min=2)},
            Said("SNP guest SVN", "1", "at least 2"),
        ),
    ],
)
def test_a_processor_is_refused_with_what_was_seen_and_wanted(
    snp: SimulatedSnpPlatform, faults: dict[str, object], rules: dict[str, object], check: Said
) -> None:
    assert refusal(lambda: _snp(_reported(snp, **faults), rules=SnpRules(**rules))) == check


def test_rules_are_met_by_their_lowest_value(snp: SimulatedSnpPlatform) -> None:
    block = SnpIdBlock(id_key_digest=b"k" * 48, guest_svn=2)
    faults = {"guest_policy": 0x30133, "firmware": (1, 54, 4), "version": 5, "mitigations": (2, 3), "id_block": block}
    rules = SnpRules(
        guest=SnpGuestRules(abi_min=(1, 51)),
        platform=SnpPlatformRules(firmware_min=(1, 54, 4), mitigations=2),
        identity=SnpIdentityRules(id_keys=frozenset({b"k" * 48}), svn_min=2),
    )
    claims = _snp(_reported(snp, **faults), rules=rules)
    held = {check.name: (check.seen, check.required) for check in claims.checks}
    assert held["SNP guest settings"] == ("as required", "cxl forbidden")
    assert held["SNP platform settings"] == ("as required", "alias_check_complete required")
    assert held["SNP guest policy honoured"][0] == "all"
    anything = SnpRules(guest=SnpGuestRules(cxl=Want.ANY), platform=SnpPlatformRules(alias_check_complete=Want.ANY))
    held = {check.name: check.required for check in _snp(_reported(snp), rules=anything).checks}
    assert held["SNP guest settings"] == held["SNP platform settings"] == "nothing"


@pytest.mark.parametrize(
    ("faults", "check"),
    [
        (
            {"signature_algorithm": 2},
            Said("SNP signature algorithm", "2", "1 (ECDSA P-384 with SHA-384)"),
        ),
        ({"foreign_key": True}, Said("SNP report signature", "invalid", "valid")),
        ({"signing_key": 1}, Said("SNP signing key", "VLEK", "VCEK, as the certificate")),
        ({"signing_key": 7}, Said("SNP signing key", "none", "VCEK, as the certificate")),
        ({"mask_chip_key": True}, Said("SNP signing key", "VCEK, masked", "VCEK, as the certificate")),
        (
            {"cpu_family": 0x1A},
            Said("SNP processor", "family 0x1a model 0x1 stepping 0x0", "a Milan, as the certificate"),
        ),
    ],
)
def test_a_report_that_is_not_the_certificates_says_which_value(
    snp: SimulatedSnpPlatform, faults: dict[str, object], check: Said
) -> None:
    assert refusal(lambda: _snp(_reported(snp, **faults))) == check


def test_old_firmware_is_refused_with_both_versions(snp: SimulatedSnpPlatform) -> None:
    low = replace(SIMULATED_TCB, snp=23)
    words = "bootloader 4 tee 0 snp {} microcode 219 fmc 0"
    for name in ("current", "committed", "launch"):
        check = refusal(lambda name=name: _snp(_reported(snp, **{name: low})))
        assert check == Said(f"SNP {name} TCB floor", words.format(23), f"at least {words.format(24)}")
    check = refusal(lambda: _snp(_reported(snp, reported=low)))
    required = f"{words.format(24)}, as the certificate"
    assert check == Said("SNP reported TCB", words.format(23), required)
    check = refusal(lambda: _snp(_reported(snp), floor=SnpTcbFloor(genoa=SIMULATED_TCB)))
    assert check == Said("SNP product", "Milan", "a product the policy has a TCB floor for")


def test_a_chip_is_refused_with_the_one_wanted(snp: SimulatedSnpPlatform) -> None:
    check = refusal(lambda: _snp(_reported(snp, chip_id=b"c" * 64)))
    assert check == Said("SNP chip", "63" * 8, f"{snp.chip_id[:8].hex()}, not masked")


def test_amds_certificates_and_list_hold_from_their_first_to_their_last_second(snp: SimulatedSnpPlatform) -> None:
    short = amd().make_platform(valid_days=30)
    evidence, roots = _reported(short), frozenset({amd().root})
    chain = check_chain(evidence, roots=roots, now=NOW, log=CheckLog())
    for now in (chain.not_before, chain.not_after):
        assert check_chain(evidence, roots=roots, now=now, log=CheckLog()) == chain
    for now in (chain.not_before - SECOND, chain.not_after + SECOND):
        check = refusal(lambda now=now: check_chain(evidence, roots=roots, now=now, log=CheckLog()))
        assert (check.seen, check.required) == (f"{chain.not_before} to {chain.not_after}", f"valid at {now}")
    crl = check_crl(evidence.crl, chain, now=NOW, log=CheckLog())
    for now in (crl.issued, crl.renewed):
        assert check_crl(evidence.crl, chain, now=now, log=CheckLog()) == crl
    for now in (crl.issued - SECOND, crl.renewed + SECOND):
        check = refusal(lambda now=now: check_crl(evidence.crl, chain, now=now, log=CheckLog()))
        assert check == Said("AMD revocation list validity", f"{crl.issued} to {crl.renewed}", f"valid at {now}")


@pytest.mark.parametrize("vlek", [False, True])
def test_a_revoked_certificate_is_named_with_its_place(vlek: bool) -> None:
    honest = amd().make_platform(serial=77, vlek=vlek)
    chain = check_chain(_reported(honest), roots=frozenset({amd().root}), now=NOW, log=CheckLog())
    ark, ask, _ = chain.serials
    names = {ark: f"ARK {ark}", ask: f"{'ASVK' if vlek else 'ASK'} {ask}", 77: f"{'VLEK' if vlek else 'VCEK'} 77"}
    for serials in ([ark], [ask], [77], [ark, ask, 77]):
        crl = amd().make_crl(revoked=[5, *serials])
        check = refusal(lambda crl=crl: check_crl(crl, chain, now=NOW, log=CheckLog()))
        assert check == Said("AMD revocation", ", ".join(names[one] for one in serials), "none revoked")
    log = CheckLog()
    check_crl(amd().make_crl(revoked=[5, 6], number=9), chain, now=NOW, log=log)
    assert log.checks[-1].seen == "none of 2, list number 9"


def test_a_revocation_list_that_is_not_the_roots_says_how(snp: SimulatedSnpPlatform) -> None:
    chain = check_chain(_reported(snp), roots=frozenset({amd().root}), now=NOW, log=CheckLog())
    required = "valid, by the root key"
    other = amd().make_crl(product=SnpProduct.GENOA)
    check = refusal(lambda: check_crl(other, chain, now=NOW, log=CheckLog()))
    assert check == Said("AMD revocation list signature", "another issuer", required)
    spoilt = snp.crl[:-1] + bytes([snp.crl[-1] ^ 1])
    check = refusal(lambda: check_crl(spoilt, chain, now=NOW, log=CheckLog()))
    assert check == Said("AMD revocation list signature", "invalid", required)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda one, other: replace(one, vcek=one.ask), "a certificate has other rights than its place needs"),
        (lambda one, other: replace(one, ask=one.vcek), "a certificate has other rights than its place needs"),
        (lambda one, other: replace(one, vcek=other.vcek), "VCEK is named by another issuer"),
        (lambda one, other: replace(one, ask=other.ask), "ASK is named by another issuer"),
        (lambda one, other: replace(one, ark=other.ark), "ASK is named by another issuer"),
    ],
)
def test_amds_chain_is_refused_with_the_link_that_breaks(
    snp: SimulatedSnpPlatform, spoil: Callable[..., SnpEvidence], says: str
) -> None:
    other = _reported(amd().make_platform(product=SnpProduct.GENOA))
    check = refusal(lambda: _snp(spoil(_reported(snp), other)))
    required = "each named and signed by the next, the root by itself"
    assert check == Said("AMD certificate chain", says, required)


def test_a_signature_of_amds_that_does_not_hold_says_whose(snp: SimulatedSnpPlatform) -> None:
    evidence = _reported(snp)
    spoilt = {
        "ARK": replace(evidence, ark=evidence.ark[:-1] + bytes([evidence.ark[-1] ^ 1])),
        "ASK": replace(evidence, ask=evidence.ask[:-1] + bytes([evidence.ask[-1] ^ 1])),
        "VCEK": replace(evidence, vcek=evidence.vcek[:-1] + bytes([evidence.vcek[-1] ^ 1])),
    }
    for name, one in spoilt.items():
        assert refusal(lambda one=one: _snp(one)).seen == f"{name} is not signed by its issuer"


def test_an_amd_root_nobody_pinned_is_named(snp: SimulatedSnpPlatform) -> None:
    check = refusal(lambda: _snp(_reported(snp), roots=frozenset()))
    assert check == Said("AMD root", amd().root.hex(), "a pinned AMD root key")


def test_a_key_for_another_line_is_refused_with_both_names() -> None:
    wrong = amd().make_platform(product=SnpProduct.MILAN, line=SnpProduct.GENOA)
    check = refusal(lambda: _snp(_reported(wrong)))
    assert check == Said("AMD product line", "SEV-VCEK, SEV-Genoa, ARK-Genoa", "SEV-VCEK, SEV-Milan, ARK-Milan")


_AMD = "1.3.6.1.4.1.3704.1"


@pytest.mark.parametrize("name", [b"p", b"p" * 64, b"Provider of clouds", b"caf\xe9"])
def test_a_provider_with_a_readable_name_is_taken(name: bytes) -> None:
    lent = amd().make_platform(vlek=True, extensions={f"{_AMD}.5": element(0x16, name)})
    assert _snp(_reported(lent)).provider == name.decode("ascii", "replace")


@pytest.mark.parametrize("name", [b"", b"p" * 65, b"a\nb", b"\x1b[2J"])
def test_a_provider_without_a_readable_name_is_refused(name: bytes) -> None:
    lent = amd().make_platform(vlek=True, extensions={f"{_AMD}.5": element(0x16, name)})
    with pytest.raises(MalformedEvidenceError) as caught:
        _snp(_reported(lent))
    words = name[:64].decode("ascii", "replace")
    assert str(caught.value) == f"AMD certificate names no readable provider: {words!r}"


@pytest.mark.parametrize(
    ("extensions", "says"),
    [
        ({f"{_AMD}.2": element(0x16, b"Rome-B0")}, "AMD certificate is for the unknown product 'Rome-B0'"),
        ({f"{_AMD}.4": b"c" * 63}, "Milan chip id of 63 bytes"),
        ({f"{_AMD}.5": element(0x16, b"p")}, "AMD certificate names both a chip and a provider, or neither"),
        (
            {f"{_AMD}.3.3": element(0x02, b"\1\0")},
            "AMD certificate names security version 256, at most 255",
        ),
    ],
)
def test_a_certificate_of_amds_is_refused_with_the_value(extensions: dict[str, bytes], says: str) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        _snp(_reported(amd().make_platform(extensions=extensions)))
    assert str(caught.value) == says


def test_the_highest_security_version_is_read() -> None:
    high = amd().make_platform(tcb=SnpTcb(bootloader=255, tee=255, snp=255, microcode=255))
    assert _snp(_reported(high)).tcb == SnpTcb(bootloader=255, tee=255, snp=255, microcode=255)


def test_a_kernel_is_hashed_in_three_parts() -> None:

    assert snp_measure.KernelHashes.of(kernel=b"k") == snp_measure.KernelHashes(
        kernel=sha256(b"k").digest(), initrd=sha256(b"").digest(), cmdline=sha256(b"\0").digest()
    )
    assert snp_measure.KernelHashes.of(kernel=b"k", initrd=b"i", cmdline="c") == snp_measure.KernelHashes(
        kernel=sha256(b"k").digest(), initrd=sha256(b"i").digest(), cmdline=sha256(b"c\0").digest()
    )


def test_a_report_that_does_not_tell_its_processor_says_so(snp: SimulatedSnpPlatform) -> None:
    rules = replace(BOTH_KEYS, platform=SnpPlatformRules(alias_check_complete=Want.ANY))
    held = {one.name: Said.by(one) for one in _snp(_reported(snp, version=2), rules=rules).checks}
    assert held["SNP processor"] == ("SNP processor", "untold before version 3", "a Milan, as the certificate")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"signature": 0}, "QEMU measures the processor: want its signature"),
        (
            {"firmware": Firmware.parse(image(sections=SECTIONS[:5])), "kernel": KERNEL},
            "this firmware has no place for kernel hashes, so a kernel would not be measured",
        ),
        (
            {"firmware": Firmware.parse(image(reset_address=None)), "vcpus": 2},
            "this firmware does not say where further processors start",
        ),
        ({"vcpus": 0}, "0 virtual processors, want 1 to 1024"),
        ({"features": 0}, "guest features 0x0: want bit 0 (SNP active), 64 bits at most"),
    ],
)
def test_a_launch_that_cannot_be_says_why(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(PLAIN, **changes)
    assert str(caught.value) == says
