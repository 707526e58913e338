"""Endorsements by HTTP from simulated vendors: fetched when they run out, kept while they hold, never trusted."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from attestation.collect import extend_named
from attestation.endorse import EndorsedAttester, Endorser
from attestation.endorse_settings import parse_endorser
from attestation.endorsement_requests import AmdService, IntelService, NvidiaService
from attestation.endorsements import ends, ocsp_parser, parse_crl, parse_qe_identity, parse_tcb_info
from attestation.errors import (
    AttesterError,
    EndorsementExpiredError,
    EndorsementFetchError,
    MalformedEvidenceError,
    RevokedError,
    TcbStatusError,
)
from attestation.fetch import FAILURES_MAX, RETRY_AFTER, Fetcher, HttpSource, Request, Response, check_url
from attestation.merkle import inclusion_proof
from attestation.nvidia_facts import read_facts
from attestation.policy import Revocation
from attestation.roots import PRODUCTION
from attestation.sim.intel import LIFE, CollateralFaults, SimulatedIntel
from attestation.sim.ocsp import OcspFaults
from attestation.simulate import SimulatedHost, SimulatedVendors
from attestation.snp_policy import SnpTcb
from attestation.snp_tcb import SnpProduct
from attestation.spdm import parse_spdm
from attestation.verdict import TeeKind, Verdict
from attestation.verify import verify
from tests.attestation.hosts import NONCE, NONCES, NOW, base_transcript, policy_for, vendors
from tests.attestation.vendor_server import Answer, VendorServer

STALE = timedelta(days=400)  # what a host was made with has long run out


@dataclass
class World:
    """A host without good endorsements, vendors' services, and a clock."""

    server: VendorServer
    host: SimulatedHost
    folder: Path
    now: datetime
    online: bool = True

    def attester(self) -> EndorsedAttester:
        url, guest = self.server.url, self.host.restarted()
        extend_named(guest, base_transcript())
        endorser = Endorser(
            fetcher=Fetcher(folder=self.folder, source=HttpSource(timeout_s=5) if self.online else None),
            roots=vendors().roots(),
            intel=IntelService(base=url),
            amd=AmdService(base=url),
            nvidia=NvidiaService(rim=url, ocsp=url),
        )
        return EndorsedAttester(guest, endorser, clock=lambda: self.now)

    def appraise(self, **changes: object) -> Verdict:
        evidence = self.attester().attest(base_transcript()).evidence(inclusion_proof(NONCES, 2))
        policy = replace(policy_for(self.host), **changes)  # type: ignore[arg-type]
        return verify(evidence, policy, nonce=NONCE, now=self.now)

    def publish(self, *, later: timedelta, **changes: object) -> None:
        self.now += later
        self.server.now = self.now
        for name, value in changes.items():
            setattr(self.server, name, value)


def make_host(kind: TeeKind, gpus: int, switches: int = 0) -> SimulatedHost:
    made = vendors().make_host(kind, gpus=gpus, switches=switches, quote_latency_s=0, now=NOW)
    if kind is TeeKind.TDX:
        collateral = vendors().intel.collateral(made.platform, NOW - STALE)  # type: ignore[arg-type]
        return replace(made, platform=made.platform.with_collateral(collateral))  # type: ignore[union-attr]
    return replace(made, platform=made.platform.with_crl(vendors().amd.make_crl(issued=NOW - STALE)))  # type: ignore[union-attr]


@contextlib.contextmanager
def world(tmp_path: Path, kind: TeeKind, gpus: int = 0, switches: int = 0) -> Iterator[World]:
    host = make_host(kind, gpus, switches)
    server = VendorServer(vendors=vendors(), host=host, now=NOW)
    with server.serve():
        yield World(server=server, host=host, folder=tmp_path / "cache", now=NOW)


@pytest.fixture
def tdx(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, TeeKind.TDX) as made:
        yield made


@pytest.mark.parametrize(("kind", "asked"), [(TeeKind.TDX, 4), (TeeKind.SEV_SNP, 3)])
def test_a_host_with_stale_endorsements_holds_with_fetched_ones_and_asks_once(
    tmp_path: Path, kind: TeeKind, asked: int
) -> None:
    with world(tmp_path, kind) as made:
        bare = made.host.attest(base_transcript()).evidence(inclusion_proof(NONCES, 2))
        with pytest.raises(EndorsementExpiredError):
            verify(bare, policy_for(made.host), nonce=NONCE, now=NOW)
        assert made.appraise().platform_id == made.appraise().platform_id
        assert len(made.server.asked) == asked


def test_gpus_get_answers_that_they_were_not_revoked(tmp_path: Path) -> None:
    with world(tmp_path, TeeKind.TDX, gpus=2) as made:
        verdict = made.appraise(gpu_revocation=Revocation.REQUIRED)
        assert len(verdict.gpus) == 2
        assert made.server.asked.count("/") == 4  # two GPUs, and what they share


def test_switches_get_answers_and_manifests_too(tmp_path: Path) -> None:
    with world(tmp_path, TeeKind.TDX, gpus=8, switches=4) as made:
        verdict = made.appraise(gpu_revocation=Revocation.REQUIRED)
        assert len(verdict.switches) == 4
        assert made.server.asked.count("/") == 14  # twelve devices, and two certificates that they share
        assert sum("NV_SWITCH_BIOS" in path for path in made.server.asked) == 1


def test_a_manifest_of_other_firmware_is_refused_and_not_kept(tmp_path: Path) -> None:
    other = vendors().nvidia.make_gpu("B200").rims

    def lie(path: str, answer: Answer) -> Answer:
        rim = base64.b64encode(other["VBIOS" in path]).decode()
        return (200, json.dumps({"rim": rim}).encode(), {}) if path.startswith("/v1/rim/") else answer

    with world(tmp_path, TeeKind.TDX, gpus=1) as made:
        made.server.lie, honest = lie, made.server.lie
        with pytest.raises(AttesterError, match="RimMismatchError"):
            made.appraise()
        made.server.lie = honest
        assert len(made.appraise().gpus) == 1


def test_manifests_are_fetched_by_name_and_taken_by_their_pinned_digest(tmp_path: Path) -> None:
    with world(tmp_path, TeeKind.TDX, gpus=1) as made:
        service = NvidiaService(rim="https://rim.invalid")
        facts = read_facts(parse_spdm(made.host.gpus[0].attest(bytes(32)).report))
        driver, vbios = service.manifests(facts, made.host.gpus[0].firmware.chip)
        assert driver.url == f"https://rim.invalid/v1/rim/NV_GPU_DRIVER_GH100_{facts.driver}"
        assert vbios.url.startswith("https://rim.invalid/v1/rim/NV_GPU_VBIOS_")


def test_manifests_of_blackwell_and_of_switches_have_names_of_their_own() -> None:
    service, device = NvidiaService(rim="https://rim.invalid"), vendors().nvidia.make_gpu("B200")
    facts = read_facts(parse_spdm(device.attest(bytes(32)).report))
    names = [request.url.rpartition("/")[2] for request in service.manifests(facts, "GB100")]
    assert names == [f"NV_GPU_CC_DRIVER_GB100_{facts.driver}", facts.vbios_manifest]
    told = service.manifests(replace(facts, chip="GB102"), "GB100")[0]
    assert told.url.endswith(f"NV_GPU_CC_DRIVER_GB102_{facts.driver}")
    assert service.switch_manifest("96.10.55.00.01").url.endswith("/NV_SWITCH_BIOS_5612_0002_890_9610550001")


def test_new_tcb_info_reaches_the_evidence_when_the_old_runs_out(tdx: World) -> None:
    assert tdx.appraise().tcb_status == "UpToDate"
    tdx.publish(later=LIFE - timedelta(hours=2), intel=CollateralFaults(evaluation=18))
    tdx.appraise()
    assert len(tdx.server.asked) == 4
    with pytest.raises(TcbStatusError):
        tdx.appraise(tcb_evaluation_min=18)
    tdx.publish(later=timedelta(hours=2))
    tdx.appraise(tcb_evaluation_min=18)
    assert len(tdx.server.asked) == 8


def test_a_tcb_recovery_and_a_revocation_are_carried_and_refused_by_the_verifier(tdx: World) -> None:
    tdx.server.intel = CollateralFaults(tcb_status="OutOfDate")
    with pytest.raises(TcbStatusError):
        tdx.appraise()
    tdx.publish(later=LIFE, intel=CollateralFaults(revoke_platform=True))
    with pytest.raises(RevokedError):
        tdx.appraise()


def test_a_revoked_gpu_is_carried_and_refused_by_the_verifier(tmp_path: Path) -> None:
    with world(tmp_path, TeeKind.TDX, gpus=1) as made:
        made.server.ocsp = OcspFaults(status="revoked")
        with pytest.raises(RevokedError):
            made.appraise()


def test_offline_what_is_kept_works_until_it_runs_out(tdx: World) -> None:
    tdx.appraise()
    tdx.online = False
    tdx.appraise()
    tdx.now += LIFE
    with pytest.raises(AttesterError, match="offline; what is kept ended"):
        tdx.appraise()
    assert len(tdx.server.asked) == 4


def test_offline_with_nothing_kept_is_a_named_refusal(tdx: World) -> None:
    tdx.online = False
    with pytest.raises(AttesterError, match="offline"):
        tdx.appraise()
    assert tdx.server.asked == []


def alter(change: bytes | None = None, *, status: int = 200, headers: dict[str, str] | None = None) -> object:
    def lie(_: str, answer: Answer) -> Answer:
        return status, answer[1] if change is None else change, answer[2] if headers is None else headers

    return lie


def foreign(path: str, _: Answer) -> Answer:
    """The same answers, signed by vendors of somebody else."""
    other = _others()
    platform = other.intel.make_platform(NOW)
    server = VendorServer(vendors=other, host=SimulatedHost(platform=platform), now=NOW)
    return server.answer(path, b"")


@cache
def _others() -> SimulatedVendors:
    return replace(vendors(), intel=SimulatedIntel.create(NOW))


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        pytest.param(foreign, "does not verify: UntrustedRootError", id="signed-by-another-root"),
        pytest.param(alter(b"<html>try later</html>"), "not what was asked for", id="an-html-page"),
        pytest.param(alter(b""), "not what was asked for", id="nothing"),
        pytest.param(alter(b"{" * 100_000), "not what was asked for", id="deep-json"),
        pytest.param(alter(bytes(1 << 20)), "more than", id="a-mebibyte"),
        pytest.param(alter(headers={}), "not what was asked for", id="no-issuer-chain"),
        pytest.param(alter(headers={"TCB-Info-Issuer-Chain": "%2D" * 2000}), "not what was asked for", id="no-pem"),
        pytest.param(alter(headers={"TCB-Info-Issuer-Chain": "x" * 17_000}), "header", id="a-long-header"),
        pytest.param(alter(status=500), "status 500", id="an-error"),
        pytest.param(
            alter(status=302, headers={"location": "https://elsewhere.invalid/"}), "status 302", id="a-redirect"
        ),
    ],
)
def test_a_source_that_lies_is_refused_and_a_good_one_is_believed_afterwards(
    tdx: World, lie: object, words: str
) -> None:
    honest = tdx.server.lie
    tdx.server.lie = lie  # type: ignore[assignment]
    with pytest.raises(AttesterError, match=words):
        tdx.appraise()
    tdx.server.lie = honest
    assert tdx.appraise().tcb_status == "UpToDate"


def test_stale_answers_are_not_kept(tdx: World) -> None:
    tdx.server.now = NOW - STALE
    with pytest.raises(AttesterError, match="what it sent ended"):
        tdx.appraise()
    assert not list(tdx.folder.glob("*"))


def test_a_truncated_answer_is_refused(tdx: World) -> None:
    def cut(_: str, answer: Answer) -> Answer:
        return 200, answer[1][:-100], {**answer[2], "content-length": str(len(answer[1]))}

    tdx.server.lie = cut
    with pytest.raises(AttesterError, match=r"cut short|IncompleteRead"):
        tdx.appraise()


def test_damaged_files_in_the_cache_are_fetched_anew(tdx: World) -> None:
    tdx.appraise()
    for number, path in enumerate(sorted(tdx.folder.iterdir())):
        path.write_bytes([b"", b"garbage", path.read_bytes()[:-1], path.read_bytes()[::-1]][number])
    tdx.appraise()
    assert len(tdx.server.asked) == 8
    tdx.appraise()
    assert len(tdx.server.asked) == 8


def test_a_file_of_another_question_is_not_taken(tdx: World) -> None:
    tdx.appraise()
    first, second, *_ = sorted(tdx.folder.iterdir())
    first.write_bytes(second.read_bytes())
    tdx.appraise()
    assert len(tdx.server.asked) == 5


def test_an_altered_file_in_the_cache_is_thrown_away_and_then_fetched(tdx: World) -> None:
    tdx.appraise()
    for path in tdx.folder.iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"UpToDate"', b'"uptodate"'))
    with pytest.raises(AttesterError, match="does not verify"):
        tdx.appraise()
    assert tdx.appraise().tcb_status == "UpToDate"


# --- fetcher alone -------------------------------------------------------------------------------------------------


class Script:
    """A source that answers as told and counts."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def fetch(self, _: Request) -> Response:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Response(body=answer)


REQUEST = Request(url="https://vendor.invalid/")


def until(response: Response) -> datetime:
    return NOW + timedelta(days=int(response.body))


def get(fetcher: Fetcher, now: datetime, request: Request = REQUEST) -> bytes:
    return fetcher.get(request, lambda response: response, until, now=now).body


def test_a_failure_is_not_repeated_for_a_while() -> None:
    source = Script(EndorsementFetchError("down"), b"9")
    fetcher = Fetcher(folder=None, source=source)
    for seconds in (0, 1, 59):
        with pytest.raises(EndorsementFetchError, match="down"):
            get(fetcher, NOW + timedelta(seconds=seconds))
    assert source.asked == 1
    assert get(fetcher, NOW + RETRY_AFTER) == b"9"


def test_failures_that_are_remembered_are_bounded() -> None:
    fetcher = Fetcher(folder=None, source=Script(EndorsementFetchError("down")))
    for number in range(FAILURES_MAX + 10):
        with pytest.raises(EndorsementFetchError):
            get(fetcher, NOW, Request(url=f"https://vendor.invalid/{number}"))
    assert len(fetcher._failures) == FAILURES_MAX


def test_what_is_near_its_end_is_renewed_and_used_on_if_that_fails(tmp_path: Path) -> None:
    source = Script(b"1", EndorsementFetchError("down"), b"9")
    fetcher = Fetcher(folder=tmp_path, source=source, refresh_before=timedelta(hours=6))
    assert get(fetcher, NOW) == b"1"
    assert get(fetcher, NOW + timedelta(hours=17)) == b"1"
    assert source.asked == 1
    assert get(fetcher, NOW + timedelta(hours=19)) == b"1"
    assert get(fetcher, NOW + timedelta(hours=20)) == b"9"


def test_http_headers_do_not_decide_how_long_an_answer_is_kept(tdx: World) -> None:
    tdx.server.lie = lambda _, answer: (
        answer[0],
        answer[1],
        {**answer[2], "cache-control": "no-store", "expires": "0"},
    )
    tdx.appraise()
    tdx.appraise()
    assert len(tdx.server.asked) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://vendor.invalid/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://user:secret@vendor.invalid/",
        "https://",
        "https://vendor.invalid/#part",
        "https://vendor.invalid/ HTTP/1.1",
        "https://vendor.invalid/\r\nhost: other",
        "http://localhost.vendor.invalid/",
        "http://169.254.169.254/",
    ],
)
def test_an_address_that_is_not_to_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https"):
        check_url(url)


def test_a_server_that_never_finishes_is_given_up_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not done.wait(0.05):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(EndorsementFetchError, match=r"no whole answer in 0\.3 s"):
            HttpSource(timeout_s=0.3).fetch(Request(url=f"http://127.0.0.1:{listener.getsockname()[1]}/"))
    finally:
        done.set()
        thread.join()
        listener.close()


def test_nobody_listening_is_a_named_error() -> None:
    with pytest.raises(EndorsementFetchError, match="ConnectionRefusedError"):
        HttpSource(timeout_s=5).fetch(Request(url="http://127.0.0.1:1/"))


def test_a_tls_server_that_nobody_certified_is_refused(tdx: World) -> None:
    port = tdx.server.url.rpartition(":")[2]
    with pytest.raises(EndorsementFetchError, match="SSL"):
        HttpSource(timeout_s=5).fetch(Request(url=f"https://127.0.0.1:{port}/"))


@contextlib.contextmanager
def tls_server(folder: Path, address: str) -> Iterator[int]:
    """A server that says "hello", with a certificate for this address that vouches for itself in `ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own service")])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is the test
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_service_of_ones_own_is_believed_by_its_own_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # of the environment, and not asked
    with tls_server(tmp_path, "127.0.0.1") as port:
        request = Request(url=f"https://127.0.0.1:{port}/")
        assert HttpSource(timeout_s=5, ca_file=tmp_path / "ca.pem").fetch(request).body == b"hello"
        with pytest.raises(EndorsementFetchError, match="CERTIFICATE_VERIFY_FAILED"):
            HttpSource(timeout_s=5).fetch(request)


def test_a_certificate_for_another_address_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(EndorsementFetchError, match="certificate is not valid for")
    with tls_server(tmp_path, "127.0.0.2") as port, refused:
        HttpSource(timeout_s=5, ca_file=tmp_path / "ca.pem").fetch(Request(url=f"https://127.0.0.1:{port}/"))


def test_a_proxy_only_tunnels(tmp_path: Path) -> None:
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def tunnel() -> None:
        inner, _ = listener.accept()
        with inner, socket.create_connection(("127.0.0.1", port)) as outer:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += inner.recv(1)
            seen.append(head)
            inner.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(outer, inner))
            back.start()
            pump(inner, outer)
            back.join()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                seen.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with tls_server(tmp_path, "127.0.0.1") as port, listener:
        thread = threading.Thread(target=tunnel)
        thread.start()
        proxy = f"127.0.0.1:{listener.getsockname()[1]}"
        source = HttpSource(timeout_s=5, ca_file=tmp_path / "ca.pem", proxy=proxy)
        assert source.fetch(Request(url=f"https://127.0.0.1:{port}/secret")).body == b"hello"
        thread.join()
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.".encode())
    assert not any(b"secret" in data or b"hello" in data for data in seen)


# --- what is asked -------------------------------------------------------------------------------------------------

CHIP = bytes(range(1, 65))
TCB = SnpTcb(bootloader=4, tee=0, snp=22, microcode=213, fmc=1)


def test_amd_is_asked_by_chip_and_firmware_in_the_form_of_each_product() -> None:
    amd = AmdService(base="https://kds.invalid")
    milan = f"https://kds.invalid/vcek/v1/Milan/{CHIP.hex()}?blSPL=04&teeSPL=00&snpSPL=22&ucodeSPL=213"
    assert amd.vcek(SnpProduct.MILAN, CHIP, TCB).url == milan
    turin = "https://kds.invalid/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=04&teeSPL=00&snpSPL=22&ucodeSPL=213"
    assert amd.vcek(SnpProduct.TURIN, CHIP[:8].ljust(64, b"\0"), TCB).url == turin
    assert amd.cert_chain(SnpProduct.GENOA, vlek=True).url == "https://kds.invalid/vlek/v1/Genoa/cert_chain"
    assert amd.crl(SnpProduct.GENOA, vlek=False).url == "https://kds.invalid/vcek/v1/Genoa/crl"


@pytest.mark.parametrize(("product", "chip"), [("Turin", CHIP), ("Milan", bytes(64)), ("Milan", CHIP[:8])])
def test_a_chip_id_that_is_masked_or_of_another_product_is_not_asked_for(product: str, chip: bytes) -> None:
    with pytest.raises(ValueError, match="chip id"):
        AmdService(base="https://kds.invalid").vcek(SnpProduct(product), chip, TCB)


def test_intel_is_asked_for_the_root_list_where_it_is_published() -> None:
    assert IntelService(base="https://pccs.invalid").root_ca_crl().url.endswith("/sgx/certification/v4/rootcacrl")
    direct = IntelService(base="https://pcs.invalid", root_crl="https://crl.invalid/IntelSGXRootCA.der")
    assert direct.root_ca_crl().url == "https://crl.invalid/IntelSGXRootCA.der"


@pytest.mark.parametrize("base", ["", "https://x.invalid/", "http://x.invalid", "https://x.invalid?a=b"])
def test_a_service_without_a_plain_base_address_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https|slash"):
        IntelService(base=base)


@pytest.mark.parametrize("parse", [parse_tcb_info, parse_qe_identity, parse_crl])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 10_000,
        b'{"tcbInfo":{"nextUpdate":"2026-07-01T00:00:00Z"}}',
        b'{"tcbInfo":{"nextUpdate":"never"},"signature":"' + b"0" * 128 + b'"}',
        b"30" * 40,
    ],
)
def test_an_answer_of_another_form_is_refused(parse: object, body: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse(Response(body=body, header="x"))  # type: ignore[operator]


def test_a_nonce_that_is_not_repeated_is_refused(tmp_path: Path) -> None:
    with world(tmp_path, TeeKind.TDX, gpus=1) as made:
        chain, service = made.host.gpus[0].chain, NvidiaService(ocsp=made.server.url)
        request = service.status(chain[1], chain[2], nonce=b"n" * 32)
        answer = HttpSource().fetch(request)
        assert ends(ocsp_parser(b"n" * 32)(answer)) > NOW
        with pytest.raises(MalformedEvidenceError, match="nonce"):
            ocsp_parser(b"m" * 32)(answer)


# --- settings ------------------------------------------------------------------------------------------------------

PIN = "ab" * 32


def test_settings_name_every_address_and_real_roots_unless_told_otherwise(tmp_path: Path) -> None:
    endorser = parse_endorser(
        {"intel": "https://pccs.invalid", "amd": "https://kds.invalid", "amd_product": "Turin", "offline": True},
        tmp_path,
        tmp_path / "cache",
    )
    assert (endorser.roots, endorser.fetcher.source, endorser.nvidia) == (PRODUCTION, None, None)
    assert (endorser.intel, endorser.amd_product) == (IntelService(base="https://pccs.invalid"), SnpProduct.TURIN)
    online = {"nvidia_ocsp": "https://ocsp.invalid", "ca_file": "own.pem", "unsafe_simulated_roots": {"nvidia": [PIN]}}
    endorser = parse_endorser(online, tmp_path, tmp_path / "cache")
    assert endorser.fetcher.source == HttpSource(ca_file=tmp_path / "own.pem")
    assert endorser.roots.of("nvidia") == {bytes.fromhex(PIN)}
    assert (endorser.intel, endorser.amd) == (None, None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"offline": True},
        {"intel": "http://pccs.invalid"},
        {"intel": 5},
        {"intel": "https://pccs.invalid", "colour": "red"},
        {"intel": "https://pccs.invalid", "offline": "yes"},
        {"intel": "https://pccs.invalid", "refresh_before_s": -1},
        {"amd": "https://kds.invalid", "amd_product": "Rome"},
        {"amd": "https://kds.invalid", "unsafe_simulated_roots": {}},
        {"amd": "https://kds.invalid", "unsafe_simulated_roots": {"acme": [PIN]}},
        {"amd": "https://kds.invalid", "unsafe_simulated_roots": {"amd": ["short"]}},
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match=r"endorsements|https|Rome|roots|SHA-256"):
        parse_endorser(value, tmp_path, tmp_path)
