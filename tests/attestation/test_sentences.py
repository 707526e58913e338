"""What a refusal says names the place and what is wanted there, word for word: it is all that its reader has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from attestation.errors import MalformedEvidenceError, PolicyError
from attestation.intel import TcbRules
from attestation.policy import AppraisalPolicy
from attestation.sim.tdx import SimulatedTdxPlatform, image_of
from attestation.snp_floor import SnpFloorFile, parse_floor_file
from attestation.snp_measure import KernelHashes
from attestation.snp_policy import SnpIdentityRules, SnpPlatformRules, SnpTcb, SnpTcbFloor
from attestation.snp_tcb import SnpProduct, describe_tcb, parse_tcb
from attestation.tdx_quote import cut_quote, parse_quote
from attestation.tdx_rules import TdxRules
from tests.attestation.hosts import vendors
from tests.attestation.vendors import NOW

FLOOR_FILE = """version: 1
number: 3
dated: "2026-06-01"
products:
  milan: {bootloader: 4, tee: 0, snp: 24, microcode: 255}
"""
TAIL = 48 + 584 + 4  # where the authentication data of a quote of version 4 begins
QE = TAIL + 134  # and the quoting enclave's report in it
AUTH = QE + 384 + 64  # and what that enclave added


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "the floor file is empty or no map"),
        ("version: 1", "the floor file lacks dated, number, products"),
        (FLOOR_FILE.replace("version: 1", "version: x"), "version: want a whole number, got 'x'"),
        (FLOOR_FILE.replace("version: 1", "version: 2"), "the floor file has format version 2, want 1"),
        (FLOOR_FILE.replace("number: 3", "number: x"), "number: want a whole number, got 'x'"),
        (FLOOR_FILE.replace("number: 3", "number: 0"), "floor file number 0, want at least 1"),
        (FLOOR_FILE.replace('"2026-06-01"', "June"), "dated: want a day as 2026-06-01, got 'June'"),
        (FLOOR_FILE.replace("milan", "rome"), "products: unknown key 'rome'; known: genoa, milan, turin"),
        (FLOOR_FILE.replace("snp: 24, ", ""), "products.milan: want bootloader, microcode, snp, tee"),
        (FLOOR_FILE.replace("255", "256"), "products.milan: security versions are numbers from 0 to 255"),
        (FLOOR_FILE.replace("24", "x"), "products.milan.snp: want a whole number, got 'x'"),
        (" " * 20_000, "the floor file of 20000 characters, at most 16384 are read"),
    ],
)
def test_a_floor_file_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_floor_file(text)
    assert str(caught.value) == says


def test_a_floor_file_that_is_no_yaml_is_called_so() -> None:
    with pytest.raises(PolicyError, match=r"^the floor file is not YAML: "):
        parse_floor_file("x: [")


def test_the_first_issue_and_the_highest_version_are_read() -> None:
    tcb = SnpTcb(bootloader=4, tee=0, snp=24, microcode=255)
    read = parse_floor_file(FLOOR_FILE.replace("number: 3", "number: 1"))
    assert read == SnpFloorFile(number=1, dated=datetime(2026, 6, 1, tzinfo=UTC).date(), floor=SnpTcbFloor(milan=tcb))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("snp_guest: 1", "snp_guest is empty or no map"),
        ("snp_guest: {abi_min: 1}", "snp_guest.abi_min: want a text of 2 numbers with dots between, got 1"),
        ("snp_guest: {smt: yes}", "snp_guest.smt: want any, required, forbidden, got True"),
        ("snp_platform: 1", "snp_platform is empty or no map"),
        (
            "snp_platform: {firmware_min: 1}",
            "snp_platform.firmware_min: want a text of 3 numbers with dots between, got 1",
        ),
        ("snp_platform: {mitigations: x}", "snp_platform.mitigations: want a whole number, got 'x'"),
        ("snp_platform: {smt: yes}", "snp_platform.smt: want any, required, forbidden, got True"),
        ("snp_identity: 1", "snp_identity is empty or no map"),
        ("snp_identity: {id_keys: 1}", "snp_identity.id_keys: want a list of texts (quote hex digits)"),
        ("snp_identity: {id_keys: []}", "snp_identity.id_keys: an empty list would ask nothing; leave the key out"),
        ("snp_identity: {author_keys: ['00']}", "snp_identity.author_keys: '00' is not 48 bytes in hex (96 digits)"),
        ("snp_identity: {family_ids: ['00']}", "snp_identity.family_ids: '00' is not 16 bytes in hex (32 digits)"),
        ("snp_identity: {image_ids: ['00']}", "snp_identity.image_ids: '00' is not 16 bytes in hex (32 digits)"),
        ("snp_identity: {svn_min: x}", "snp_identity.svn_min: want a whole number, got 'x'"),
        ("snp_signing_keys: 1", "snp_signing_keys: want a list of texts (quote hex digits)"),
        ("snp_signing_keys: [ARK]", "snp_signing_keys ['ARK']: want VCEK, VLEK or both"),
        ("snp_floor: 1", "snp_floor is empty or no map"),
        ("snp_floor: {rome: {}}", "snp_floor: unknown key 'rome'; known: genoa, milan, turin"),
        ("snp_floor: {milan: 1}", "snp_floor.milan is empty or no map"),
        ("snp_floor: {genoa: {x: 1}}", "snp_floor.genoa: unknown key 'x'; known: bootloader, fmc, microcode, snp, tee"),
        (
            "snp_floor: {turin: {fmc: 1, bootloader: 1, tee: 0, snp: 24}}",
            "snp_floor.turin: want bootloader, fmc, microcode, snp, tee",
        ),
    ],
)
def test_a_policy_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        AppraisalPolicy.from_yaml(f"reference: {{measurements: [], models: []}}\n{text}")
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SnpPlatformRules(mitigations=1 << 64), "snp_platform.mitigations: want 64 bits"),
        (lambda: SnpIdentityRules(id_keys=frozenset({b"k"})), "snp_identity.id_keys: every value must be 48 bytes"),
        (
            lambda: SnpIdentityRules(author_keys=frozenset({b"k"})),
            "snp_identity.author_keys: every value must be 48 bytes",
        ),
        (
            lambda: SnpIdentityRules(family_ids=frozenset({b"k"})),
            "snp_identity.family_ids: every value must be 16 bytes",
        ),
        (lambda: SnpIdentityRules(image_ids=frozenset({b"k"})), "snp_identity.image_ids: every value must be 16 bytes"),
        (
            lambda: SnpIdentityRules(svn_min=1),
            "snp_identity: family_ids, image_ids and svn_min mean nothing without id_keys or author_keys",
        ),
        (lambda: TdxRules(xfam_allowed=1), "tdx_xfam_allowed 0x1: want bits of 0x6dbe7 with 0x3"),
        (lambda: TdxRules(modules=frozenset({b"m"})), "tdx_modules: every measurement must be 48 bytes"),
        (lambda: TcbRules(statuses=frozenset({"Good", "Fine"})), "unknown TCB status 'Fine'"),
        (lambda: TcbRules(age_max_s=-1), "want at least one TCB status, and no negative age or evaluation number"),
    ],
)
def test_rules_that_cannot_be_are_refused_with_what_is_wanted(make: Callable[[], object], says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make()
    assert str(caught.value) == says


def test_hashes_of_a_kernel_have_one_size() -> None:
    with pytest.raises(ValueError, match=r"^every hash must be 32 bytes$"):
        KernelHashes(kernel=bytes(32), initrd=bytes(32), cmdline=b"")


@pytest.fixture(scope="module")
def platform() -> SimulatedTdxPlatform:
    return vendors().intel.make_platform(NOW)


def _put(at: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("version", "spoil", "says"),
    [
        (4, lambda quote: b"", "quote ends before byte 0"),
        (4, lambda quote: quote[:3], "quote ends before byte 2"),
        (4, lambda quote: quote[:7], "quote ends before byte 4"),
        (4, lambda quote: quote[:631], "quote ends inside its report"),
        (4, lambda quote: quote[:635], "quote ends before byte 632"),
        (4, lambda quote: bytes(32 * 1024 + 1), "quote of 32769 bytes, at most 32768 are read"),
        (4, _put(0, b"\6"), "quote version 6, want 4 or 5"),
        (4, _put(2, b"\3"), "quote with key type 3 and TEE type 0x81 is not TDX over P-256"),
        (4, _put(4, b"\0"), "quote with key type 2 and TEE type 0x0 is not TDX over P-256"),
        (5, _put(48, b"\1"), "quote version 5 with a body that is neither TD 1.0 nor TD 1.5"),
        (5, _put(48, b"\2"), "quote version 5 with a body that is neither TD 1.0 nor TD 1.5"),
        (5, lambda quote: quote[:49], "quote ends before byte 50"),
        (5, lambda quote: quote[:53], "quote ends before byte 50"),
        (5, lambda quote: quote[:60], "quote ends inside its report"),
        (4, _put(TAIL + 128, b"\7"), "quote without a quoting-enclave report up to its end"),
        (4, _put(TAIL + 130, b"\0"), "quote without a quoting-enclave report up to its end"),
        (4, _put(AUTH, b"\0"), "QE authentication data is not 32 bytes"),
        (4, _put(AUTH + 34, b"\6"), "quote without a PCK certificate chain up to its end"),
        (4, _put(AUTH + 36, b"\0"), "quote without a PCK certificate chain up to its end"),
        (4, _put(AUTH + 40, b"\xff"), "PCK certificate chain is not text"),
    ],
)
def test_a_quote_is_refused_with_the_place(
    platform: SimulatedTdxPlatform, version: int, spoil: Callable[[bytes], bytes], says: str
) -> None:
    body_type = 2 if version == 4 else 3
    quote = platform.quote(bytes(64), image=image_of(b"i" * 32), version=version, body_type=body_type)
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_quote(spoil(quote))
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda quote: quote[:-1], "quote of {short} bytes has another length inside; cut padding off"),
        (lambda quote: quote + b"\0", "quote of {long} bytes has another length inside; cut padding off"),
    ],
)
def test_a_quote_of_another_length_is_told_to_be_cut(
    platform: SimulatedTdxPlatform, spoil: Callable[[bytes], bytes], says: str
) -> None:
    quote = platform.quote(bytes(64), image=image_of(b"i" * 32))
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_quote(spoil(quote))
    assert str(caught.value) == says.format(short=len(quote) - 1, long=len(quote) + 1)


def test_a_quote_is_cut_only_where_zeros_follow(platform: SimulatedTdxPlatform) -> None:
    quote = platform.quote(bytes(64), image=image_of(b"i" * 32))
    assert cut_quote(quote) == cut_quote(quote + b"\0") == quote
    for padded in (quote + b"\0\1", quote[:-1]):
        with pytest.raises(MalformedEvidenceError) as caught:
            cut_quote(padded)
        assert str(caught.value) == f"quote of {len(padded)} bytes says it has {len(quote)}, the rest is not padding"


def test_the_largest_quote_is_read_and_one_byte_more_is_not() -> None:
    with pytest.raises(MalformedEvidenceError, match="is not TDX over P-256"):
        parse_quote(bytes(32 * 1024))
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_quote(bytes(32 * 1024 + 1))


@pytest.mark.parametrize(
    ("product", "raw", "says"),
    [
        (SnpProduct.MILAN, bytes(7), "TCB_VERSION of 7 bytes, want 8"),
        (
            SnpProduct.MILAN,
            bytes([4, 0, 0, 0, 0, 1, 8, 9]),
            "TCB_VERSION 0400000000010809 has reserved bytes that are not zero",
        ),
        (
            SnpProduct.GENOA,
            bytes([4, 0, 1, 0, 0, 0, 8, 9]),
            "TCB_VERSION 0400010000000809 has reserved bytes that are not zero",
        ),
        (
            SnpProduct.TURIN,
            bytes([4, 0, 1, 0, 1, 0, 0, 9]),
            "TCB_VERSION 0400010001000009 has reserved bytes that are not zero",
        ),
        (
            SnpProduct.TURIN,
            bytes([4, 0, 1, 0, 0, 0, 1, 9]),
            "TCB_VERSION 0400010000000109 has reserved bytes that are not zero",
        ),
    ],
)
def test_a_tcb_version_is_refused_with_its_bytes(product: SnpProduct, raw: bytes, says: str) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_tcb(raw, product)
    assert str(caught.value) == says


def test_every_byte_of_a_tcb_version_has_its_place() -> None:
    assert parse_tcb(bytes([1, 2, 0, 0, 0, 0, 7, 8]), SnpProduct.GENOA) == SnpTcb(
        bootloader=1, tee=2, snp=7, microcode=8
    )
    assert parse_tcb(bytes([1, 2, 3, 4, 0, 0, 0, 8]), SnpProduct.TURIN) == SnpTcb(
        fmc=1, bootloader=2, tee=3, snp=4, microcode=8
    )
    assert describe_tcb(SnpTcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=8)) == (
        "bootloader 2 tee 3 snp 4 microcode 8 fmc 1"
    )
