"""AMD's certificates and revocation lists: read as a full library reads them, followed strictly, cached safely."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.certificate import Certificate, common_name
from attestation.chain_cache import ChainCache
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RevokedError,
    UntrustedRootError,
)
from attestation.evidence import SnpEvidence
from attestation.revocation import CRL_SIZE_MAX, ENTRIES_MAX, RevocationList
from attestation.roots import AMD_ARK_MILAN
from attestation.sim.der import element, integer, sequence
from attestation.sim.snp import SIMULATED_TCB, SimulatedSnpPlatform
from attestation.snp import SnpClaims, check_report, check_signed, parse_report
from attestation.snp_chain import check_chain
from attestation.snp_policy import SnpRules, SnpSigningKey, SnpTcb, SnpTcbFloor
from attestation.snp_tcb import SnpProduct
from attestation.verdict import CheckLog
from tests.attestation.vendors import NOW, amd, flipped, vector

FLOOR = SnpTcbFloor(milan=SIMULATED_TCB, genoa=SIMULATED_TCB, turin=SIMULATED_TCB)
BOTH_KEYS = SnpRules(signing_keys=frozenset(SnpSigningKey))
PEM_FILES = ("milan_ask_ark", "genoa_ask_ark", "genoa_vlek_ask_ark", "turin_ask_ark", "turin_vlek_ask_ark")
OF_THE_LIBRARY = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # its reader's, not ours
_SIGNED_BITS = 0x2A0 * 8
_SIGNATURE_BITS = 144 * 8


@pytest.fixture(scope="module")
def platform() -> SimulatedSnpPlatform:
    return amd().make_platform()


@pytest.fixture(scope="module")
def evidence(platform: SimulatedSnpPlatform) -> SnpEvidence:
    return _evidence(platform)


def _evidence(platform: SimulatedSnpPlatform) -> SnpEvidence:
    return platform.evidence(platform.report(bytes(64), measurement=bytes(48)))


def _check(
    evidence: SnpEvidence,
    *,
    chains: ChainCache | None = None,
    later: timedelta = timedelta(),
    roots: frozenset[bytes] | None = None,
) -> SnpClaims:
    roots = frozenset({amd().root}) if roots is None else roots
    return check_report(evidence, roots=roots, floor=FLOOR, rules=BOTH_KEYS, now=NOW + later, cache=chains)


def _genuine(name: str) -> list[bytes]:
    path = vector(f"sev-snp/{name}")
    if name.endswith(".der"):
        return [path.read_bytes()]
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(path.read_bytes())]


def _assert_read_alike(der: bytes) -> None:
    mine = Certificate.parse(der)
    theirs = x509.load_der_x509_certificate(der)
    extensions = {one.oid.dotted_string: one.value for one in theirs.extensions}
    assert mine.serial == theirs.serial_number
    assert (mine.signed, mine.signature) == (theirs.tbs_certificate_bytes, theirs.signature)
    assert (mine.issuer, mine.subject) == (theirs.issuer.public_bytes(), theirs.subject.public_bytes())
    assert (mine.not_before, mine.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    spki = theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (mine.public_key_info, mine.public_key()) == (spki, theirs.public_key())
    found = {_dotted(oid): value for oid, value in mine.extensions.items()}
    assert found.keys() == extensions.keys()
    unknown = {oid: one.value for oid, one in extensions.items() if isinstance(one, x509.UnrecognizedExtension)}
    assert unknown == {oid: found[oid] for oid in unknown}, "the library writes those it knows anew"
    names = theirs.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert common_name(mine.subject) == names[0].value


def _dotted(content: bytes) -> str:
    return x509.ObjectIdentifier(".".join(map(str, _arcs(content)))).dotted_string


def _arcs(content: bytes) -> Iterator[int]:
    yield from divmod(content[0], 40)
    arc = 0
    for octet in content[1:]:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            yield arc
            arc = 0


@pytest.mark.parametrize(
    "name", [*(f"{name}.pem" for name in PEM_FILES), "virtee_milan_vcek.der", "virtee_turin_vcek.der"]
)
@OF_THE_LIBRARY
def test_genuine_certificates_are_read_as_the_library_reads_them(name: str) -> None:
    for der in _genuine(name):
        _assert_read_alike(der)


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("product", SnpProduct)
@OF_THE_LIBRARY
def test_simulated_certificates_are_read_as_the_library_reads_them(product: SnpProduct, vlek: bool) -> None:
    made = amd().make_platform(product=product, vlek=vlek)
    for der in (made.vcek, made.ask, made.ark):
        _assert_read_alike(der)


def test_serial_number_0_is_verified_without_the_library_loading_the_certificate(
    evidence: SnpEvidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("a later release refuses serial number 0")

    for name in ("load_der_x509_certificate", "load_der_x509_crl", "load_pem_x509_certificate"):
        monkeypatch.setattr(x509, name, refuse)
    assert Certificate.parse(evidence.vcek).serial == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _check(evidence).signing_key is SnpSigningKey.VCEK


def test_a_genuine_report_is_verified_without_a_warning() -> None:
    leaf, (ask, ark) = _genuine("virtee_milan_vcek.der")[0], _genuine("milan_ask_ark.pem")
    report = parse_report(bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text()))
    chain = SnpEvidence(report=b"", vcek=leaf, ask=ask, ark=ark, crl=b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        endorsement = check_chain(chain, roots=frozenset({AMD_ARK_MILAN}), now=NOW, log=CheckLog())
    assert (endorsement.serials, endorsement.provider) == ((0x10000, 0x10001, 0), "")
    assert endorsement.names == ("SEV-VCEK", "SEV-Milan", "ARK-Milan")
    assert report.signing_key is endorsement.signing_key


@pytest.mark.parametrize(
    ("product", "line"), [(SnpProduct.GENOA, SnpProduct.MILAN), (SnpProduct.MILAN, SnpProduct.GENOA)]
)
def test_refused_key_certified_for_another_product_line(product: SnpProduct, line: SnpProduct) -> None:
    with pytest.raises(EndorsementMismatchError, match="AMD product line"):
        _check(_evidence(amd().make_platform(product=product, line=line)))


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek-by-the-asvk", "vlek-by-the-ask"])
def test_refused_key_certified_by_the_authority_of_the_other_kind(vlek: bool) -> None:
    with pytest.raises(EndorsementMismatchError, match="AMD product line"):
        _check(_evidence(amd().make_platform(vlek=vlek, other_authority=True)))


@cache
def _hosts() -> dict[str, SimulatedSnpPlatform]:
    return {
        "chip": amd().make_platform(),
        "other chip": amd().make_platform(),
        "genoa": amd().make_platform(product=SnpProduct.GENOA),
        "lent": amd().make_platform(vlek=True),
    }


@pytest.mark.parametrize(
    ("honest", "swaps"),
    [
        pytest.param("chip", {"vcek": ("other chip", "vcek")}, id="certificate-of-another-chip"),
        pytest.param("chip", {"vcek": ("genoa", "vcek")}, id="certificate-of-another-product"),
        pytest.param("chip", {"ask": ("genoa", "ask")}, id="authority-of-another-product"),
        pytest.param("chip", {"ark": ("genoa", "ark")}, id="root-of-another-product"),
        pytest.param("chip", {"ask": ("genoa", "ask"), "ark": ("genoa", "ark")}, id="both-of-another-product"),
        pytest.param("chip", {"ask": ("lent", "ask")}, id="asvk-in-place-of-the-ask"),
        pytest.param("chip", {"vcek": ("lent", "vcek"), "ask": ("lent", "ask")}, id="chips-report-under-a-lent-key"),
        pytest.param("lent", {"vcek": ("chip", "vcek"), "ask": ("chip", "ask")}, id="lent-keys-report-under-a-chip"),
        pytest.param("chip", {"ark": ("chip", "ask")}, id="ask-as-root"),
        pytest.param("chip", {"vcek": ("chip", "ask"), "ask": ("chip", "ark")}, id="chain-moved-up-by-one"),
        pytest.param("chip", {"ask": ("chip", "vcek")}, id="chip-as-authority"),
        pytest.param("chip", {"crl": ("genoa", "crl")}, id="revocation-list-of-another-product"),
    ],
)
def test_refused_exchanged_certificate(honest: str, swaps: dict[str, tuple[str, str]]) -> None:
    exchanged = {part: getattr(_hosts()[other], field) for part, (other, field) in swaps.items()}
    with pytest.raises((EvidenceSignatureError, UntrustedRootError, EndorsementMismatchError)):
        _check(replace(_evidence(_hosts()[honest]), **exchanged))


@pytest.mark.parametrize(
    "bits", [range(part, _SIGNED_BITS, 8) for part in range(8)], ids=[f"bit-{n}" for n in range(8)]
)
def test_no_bit_of_the_signed_report_is_free(evidence: SnpEvidence, bits: range) -> None:
    chains = ChainCache()
    _check(evidence, chains=chains)
    for bit in bits:
        with pytest.raises(AttestationError):
            _check(replace(evidence, report=flipped(evidence.report, bit)), chains=chains)


def test_no_bit_of_the_reports_signature_is_free(evidence: SnpEvidence) -> None:
    chains = ChainCache()
    for bit in range(_SIGNED_BITS, _SIGNED_BITS + _SIGNATURE_BITS):
        with pytest.raises(EvidenceSignatureError):
            _check(replace(evidence, report=flipped(evidence.report, bit)), chains=chains)


def test_no_byte_of_a_genuine_report_is_free() -> None:
    leaf, (ask, ark) = _genuine("virtee_milan_vcek.der")[0], _genuine("milan_ask_ark.pem")
    chain = SnpEvidence(report=b"", vcek=leaf, ask=ask, ark=ark, crl=b"")
    endorsement = check_chain(chain, roots=frozenset({AMD_ARK_MILAN}), now=NOW, log=CheckLog())
    genuine = bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text())
    floor = SnpTcbFloor(milan=SnpTcb(bootloader=0, tee=0, snp=0, microcode=0))
    for byte in range(0x330):
        with pytest.raises((EvidenceSignatureError, MalformedEvidenceError)):
            check_signed(parse_report(flipped(genuine, byte * 8 + byte % 8)), endorsement, floor=floor, log=CheckLog())


def test_a_cached_chain_gives_the_same_answer(evidence: SnpEvidence) -> None:
    chains = ChainCache()
    assert _check(evidence) == _check(evidence, chains=chains) == _check(evidence, chains=chains)


def test_a_cached_chain_still_has_to_be_trusted_in_time_and_not_revoked() -> None:
    chains = ChainCache()
    short = _evidence(amd().make_platform(serial=77, valid_days=2))
    _check(short, chains=chains)
    with pytest.raises(UntrustedRootError):
        _check(short, chains=chains, roots=frozenset({AMD_ARK_MILAN}))
    with pytest.raises(EndorsementExpiredError, match="AMD certificate validity"):
        _check(short, chains=chains, later=timedelta(days=2))
    with pytest.raises(RevokedError, match="VCEK 77"):
        _check(replace(short, crl=amd().make_crl(revoked=[77])), chains=chains)
    _check(short, chains=chains)
    with pytest.raises(EvidenceSignatureError):
        _check(replace(short, report=flipped(short.report, 0x50 * 8)), chains=chains)


def test_a_cached_revocation_list_still_runs_out(evidence: SnpEvidence) -> None:
    chains = ChainCache()
    dated = replace(evidence, crl=amd().make_crl(issued=NOW, valid_days=1))
    _check(dated, chains=chains)
    with pytest.raises(EndorsementExpiredError, match="revocation list"):
        _check(dated, chains=chains, later=timedelta(days=2))


@pytest.mark.parametrize("part", ["vcek", "ask", "ark", "crl"])
def test_one_flipped_bit_misses_the_cache(evidence: SnpEvidence, part: str) -> None:
    chains = ChainCache()
    _check(evidence, chains=chains)
    for bit in range(0, 8 * len(getattr(evidence, part)), 509):
        with pytest.raises(AttestationError):
            _check(replace(evidence, **{part: flipped(getattr(evidence, part), bit)}), chains=chains)
    assert len(chains) == 2, "what was refused is not remembered"


def _library_crl(*extensions: tuple[x509.ExtensionType, bool], revoked: tuple[int, ...] = (5, 1 << 150)) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Simulated")]))
        .last_update(NOW)
        .next_update(datetime(2051, 1, 1, tzinfo=UTC))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
        reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
        builder = builder.add_revoked_certificate(entry.add_extension(reason, critical=serial == 5).build())
    return builder.sign(ec.generate_private_key(ec.SECP384R1()), SHA384()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("revoked", [(), (5, 1 << 150)])
@pytest.mark.parametrize("extensions", [(), ((x509.CRLNumber(1 << 70), False),)])
def test_a_list_is_read_as_the_library_reads_it(
    extensions: tuple[tuple[x509.ExtensionType, bool], ...], revoked: tuple[int, ...]
) -> None:
    der = _library_crl(*extensions, revoked=revoked)
    mine, theirs = RevocationList.parse(der), x509.load_der_x509_crl(der)
    assert (mine.signed, mine.signature) == (theirs.tbs_certlist_bytes, theirs.signature)
    assert mine.issuer == theirs.issuer.public_bytes()
    assert (mine.issued, mine.renewed) == (theirs.last_update_utc, theirs.next_update_utc)
    assert mine.revoked == {entry.serial_number for entry in theirs} == set(revoked)
    assert mine.number == (1 << 70 if extensions else None)


def test_claims_say_how_new_the_list_is(evidence: SnpEvidence) -> None:
    assert (_check(evidence).crl_number, _check(evidence).crl_issued) == (1, amd().issued)
    newer = _check(replace(evidence, crl=amd().make_crl(number=300, issued=NOW)))
    assert (newer.crl_number, newer.crl_issued) == (300, NOW)


_TIME = element(0x17, b"260601120000Z")
_ALGORITHM = sequence(element(6, b"\x2a"))


def _built(*parts: bytes) -> bytes:
    return sequence(sequence(*parts), _ALGORITHM, element(3, b"\0s"))


_HEAD = (integer(1), _ALGORITHM, sequence())


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="no-list"),
        pytest.param(bytes(CRL_SIZE_MAX + 1), id="too-large"),
        pytest.param(_library_crl((x509.DeltaCRLIndicator(1), True)), id="list-of-changes-only"),
        pytest.param(
            _library_crl((x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True)),
            id="list-for-some-certificates-only",
        ),
        pytest.param(_built(integer(0), _ALGORITHM, sequence(), _TIME, _TIME), id="version-1"),
        pytest.param(_built(*_HEAD, _TIME), id="never-renewed"),
        pytest.param(_built(*_HEAD, _TIME, sequence()), id="no-second-time"),
        pytest.param(_built(*_HEAD, _TIME, _TIME, sequence(), sequence()), id="two-lists"),
        pytest.param(_built(*_HEAD, _TIME, _TIME, sequence(sequence(integer(1)))), id="entry-without-time"),
        pytest.param(_built(*_HEAD, _TIME, _TIME, sequence(sequence(_TIME, _TIME))), id="entry-without-serial"),
        pytest.param(
            _built(*_HEAD, _TIME, _TIME, sequence(*[sequence(integer(n), _TIME) for n in range(ENTRIES_MAX + 1)])),
            id="too-many-entries",
        ),
    ],
)
def test_malformed_list(der: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        RevocationList.parse(der)


def test_a_list_as_long_as_allowed_is_read() -> None:
    entries = sequence(*[sequence(integer(n), _TIME) for n in range(2000)])
    assert len(RevocationList.parse(_built(*_HEAD, _TIME, _TIME, entries)).revoked) == 2000


@given(data=st.binary(max_size=300))
def test_the_list_reader_raises_only_its_own_error(data: bytes) -> None:
    with suppress(MalformedEvidenceError):
        RevocationList.parse(data)


@given(bit=st.integers(0, 1 << 14), cut=st.integers(1, 1200))
@settings(deadline=None)
def test_the_list_reader_raises_only_its_own_error_on_damaged_lists(evidence: SnpEvidence, bit: int, cut: int) -> None:
    for damaged in (flipped(evidence.crl, bit), evidence.crl[:cut], flipped(evidence.crl, bit)[:cut]):
        with suppress(MalformedEvidenceError):
            RevocationList.parse(damaged)


@given(extension=st.binary(max_size=20), oid=st.sampled_from([b"\2", b"\3\1", b"\3\x08", b"\4", b"\5"]))
@settings(deadline=None, max_examples=60)
def test_any_extension_in_a_leaf_amd_signed_is_read_or_refused_by_name(extension: bytes, oid: bytes) -> None:
    tail = {b"\2": "2", b"\3\1": "3.1", b"\3\x08": "3.8", b"\4": "4", b"\5": "5"}[oid]
    made = amd().make_platform(extensions={f"1.3.6.1.4.1.3704.1.{tail}": extension})
    with suppress(MalformedEvidenceError, EndorsementMismatchError):
        _check(_evidence(made))
