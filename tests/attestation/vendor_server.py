"""Simulated vendors behind HTTP on loopback, answering in the shapes of the real services; it can be told to lie."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

from cryptography.x509 import ocsp

from attestation.sim.intel import GOOD, CollateralFaults
from attestation.sim.ocsp import NO_FAULTS, OcspFaults
from attestation.sim.snp_platform import SimulatedSnpPlatform
from attestation.sim.tdx import SimulatedTdxPlatform
from attestation.simulate import SimulatedHost, SimulatedVendors
from attestation.x509 import encode_pem

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class VendorServer:
    """Publishes, at `now`, what the vendors sign about one host.

    `lie` may replace any answer; `asked` is every path that was asked for.
    """

    vendors: SimulatedVendors
    host: SimulatedHost
    now: datetime
    intel: CollateralFaults = GOOD
    ocsp: OcspFaults = NO_FAULTS
    lie: Callable[[str, Answer], Answer] = lambda _, answer: answer
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: bytes) -> Answer:
        self.asked.append(path)
        return self.lie(path, self._honest(path, body))

    def _honest(self, path: str, body: bytes) -> Answer:
        parts = urlsplit(path)
        if body:
            return 200, self._ocsp(body), {}
        if "/certification/v4/" in parts.path:
            return self._intel(parts.path, parts.query)
        if parts.path.startswith(("/vcek/v1/Milan/", "/vlek/v1/Milan/")):
            return self._amd(parts.path.rpartition("/")[2])
        if parts.path.startswith("/v1/rim/"):
            return self._rim(parts.path.rpartition("/")[2])
        return 404, b"<html>not found</html>", {}

    def _intel(self, path: str, query: str) -> Answer:
        platform = self.host.platform
        assert isinstance(platform, SimulatedTdxPlatform)
        published = json.loads(self.vendors.intel.collateral(platform, self.now, self.intel))
        if path == "/tdx/certification/v4/tcb" and query == f"fmspc={platform.fmspc.hex().upper()}":
            return self._signed(published, "tcbInfo", "tcb_info", "TCB-Info-Issuer-Chain")
        if path == "/tdx/certification/v4/qe/identity":
            return self._signed(published, "enclaveIdentity", "qe_identity", "SGX-Enclave-Identity-Issuer-Chain")
        if path == "/sgx/certification/v4/pckcrl" and query == "ca=platform&encoding=der":
            chain = quote(published["pck_crl_issuer_chain"])
            return 200, bytes.fromhex(published["pck_crl"]), {"SGX-PCK-CRL-Issuer-Chain": chain}
        if path == "/sgx/certification/v4/rootcacrl":
            return 200, published["root_ca_crl"].encode(), {}
        return 404, b"", {}

    @staticmethod
    def _signed(published: dict[str, str], name: str, text: str, header: str) -> Answer:
        body = f'{{"{name}":{published[text]},"signature":"{published[text + "_signature"]}"}}'
        return 200, body.encode(), {header: quote(published[text + "_issuer_chain"])}

    def _amd(self, name: str) -> Answer:
        platform = self.host.platform
        assert isinstance(platform, SimulatedSnpPlatform)
        if name == "cert_chain":
            return 200, encode_pem((platform.ask, platform.ark)).encode(), {}
        if name == "crl":
            return 200, self.vendors.amd.make_crl(issued=self.now), {}
        return (200, platform.vcek, {}) if name == platform.chip_id.hex() else (404, b"", {})

    def _rim(self, name: str) -> Answer:
        rims: dict[str, bytes] = {}
        for gpu in self.host.gpus:
            firmware, kind = gpu.firmware, "DRIVER" if gpu.firmware.hopper else "CC_DRIVER"
            board = "_".join((firmware.project, firmware.project_sku, firmware.chip_sku))
            names = f"{kind}_{firmware.chip}_{firmware.driver}", f"VBIOS_{board}_{firmware.vbios.replace('.', '')}"
            rims.update(zip((f"NV_GPU_{each}" for each in names), gpu.rims, strict=True))
        for switch in self.host.switches:
            bios = switch.firmware.bios.replace(".", "")
            rims[f"NV_SWITCH_BIOS_5612_0002_890_{bios}"] = switch.firmware.manifest()
        if name not in rims:
            return 404, b"", {}
        rim = rims[name]
        document = {"id": name, "rim": base64.b64encode(rim).decode(), "sha256": hashlib.sha256(rim).hexdigest()}
        return 200, json.dumps(document).encode(), {}

    def _ocsp(self, body: bytes) -> bytes:
        request = ocsp.load_der_ocsp_request(body)
        nonce = next((extension.value.nonce for extension in request.extensions), b"")  # type: ignore[attr-defined]
        for chain in (*(gpu.chain for gpu in self.host.gpus), *(switch.chain for switch in self.host.switches)):
            for position, certificate in enumerate(chain[1:-1], 1):
                issuer = chain[position + 1]
                parsed = self.vendors.nvidia.responder.answer(certificate, issuer, now=self.now)
                if ocsp.load_der_ocsp_response(parsed).serial_number == request.serial_number:
                    return self.vendors.nvidia.responder.answer(
                        certificate, issuer, now=self.now, nonce=nonce, faults=self.ocsp
                    )
        return b"\x30\x03\x0a\x01\x06"  # unauthorized: not one of ours

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on loopback and give the URL."""
        vendors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(b"")

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers["content-length"])))

            def _reply(self, body: bytes) -> None:
                status, answer, headers = vendors.answer(self.path, body)
                self.send_response(status)
                for name, value in {"content-length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            self.url = f"http://127.0.0.1:{server.server_port}"
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
