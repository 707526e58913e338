"""What to ask each vendor's service, at addresses somebody chose: there are no defaults.

Sources: Intel SGX and TDX Provisioning Certification Service API, version 4; AMD 57230 (VCEK certificate and KDS
interface); NVIDIA's RIM service; RFC 6960.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha384

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.certificate import Certificate
from attestation.fetch import Request, check_url
from attestation.nvidia_facts import GpuFacts
from attestation.snp_policy import SnpTcb
from attestation.snp_tcb import SnpProduct

CRL_SIZE_MAX = 256 * 1024
OCSP_SIZE_MAX = 16 * 1024
_CHIP_ID_SIZES = {SnpProduct.MILAN: 64, SnpProduct.GENOA: 64, SnpProduct.TURIN: 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelService:
    """Intel's PCS or a PCCS.

    Attributes:
        base: URL before "/sgx/certification/v4".
        root_crl: URL of the root's revocation list; empty takes it from a PCCS at `base`.
    """

    base: str
    root_crl: str = ""

    def __post_init__(self) -> None:
        _check_base(self.base)
        if self.root_crl:
            check_url(self.root_crl)

    def tcb_info(self, fmspc: bytes) -> Request:
        """Ask for the TCB info of a processor family (6 bytes)."""
        if len(fmspc) != 6:
            raise ValueError(f"FMSPC of {len(fmspc)} bytes, want 6")
        url = f"{self.base}/tdx/certification/v4/tcb?fmspc={fmspc.hex().upper()}"
        return Request(url=url, header="TCB-Info-Issuer-Chain")

    def qe_identity(self) -> Request:
        """Ask for the identity of the TD quoting enclave."""
        return Request(url=f"{self.base}/tdx/certification/v4/qe/identity", header="SGX-Enclave-Identity-Issuer-Chain")

    def pck_crl(self, ca: str) -> Request:
        """Ask for the revocation list of the "platform" or "processor" CA."""
        if ca not in {"platform", "processor"}:
            raise ValueError(f"PCK CA {ca!r}, want platform or processor")
        return Request(
            url=f"{self.base}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der",
            header="SGX-PCK-CRL-Issuer-Chain",
            size_max=CRL_SIZE_MAX,
        )

    def root_ca_crl(self) -> Request:
        """Ask for the revocation list of the root."""
        return Request(url=self.root_crl or f"{self.base}/sgx/certification/v4/rootcacrl", size_max=CRL_SIZE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdService:
    """AMD's key distribution service, or a mirror of it, at the URL before "/vcek/v1"."""

    base: str

    def __post_init__(self) -> None:
        _check_base(self.base)

    def vcek(self, product: SnpProduct, chip_id: bytes, tcb: SnpTcb) -> Request:
        """Ask for the certificate of a chip's key at a firmware version; `chip_id` as in the report, 64 bytes."""
        size = _CHIP_ID_SIZES[product]
        if len(chip_id) != 64 or any(chip_id[size:]) or not any(chip_id):
            raise ValueError(f"no chip id of {product}: want {size} bytes, then zeros up to 64")
        parts = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.microcode}
        if product is SnpProduct.TURIN:
            parts = {"fmcSPL": tcb.fmc, **parts}
        query = "&".join(f"{name}={version:02d}" for name, version in parts.items())
        return Request(url=f"{self.base}/vcek/v1/{product}/{chip_id[:size].hex()}?{query}")

    def cert_chain(self, product: SnpProduct, *, vlek: bool) -> Request:
        """Ask for the product's signing key and root certificates."""
        return Request(url=f"{self.base}/{'vlek' if vlek else 'vcek'}/v1/{product}/cert_chain")

    def crl(self, product: SnpProduct, *, vlek: bool) -> Request:
        """Ask for the product's revocation list."""
        return Request(url=f"{self.base}/{'vlek' if vlek else 'vcek'}/v1/{product}/crl", size_max=CRL_SIZE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaService:
    """NVIDIA's services, or mirrors of them; an empty URL means that this one is not asked.

    Attributes:
        rim: URL before "/v1/rim".
        ocsp: URL of the responder.
    """

    rim: str = ""
    ocsp: str = ""

    def __post_init__(self) -> None:
        if self.rim:
            _check_base(self.rim)
        if self.ocsp:
            check_url(self.ocsp)

    def manifests(self, facts: GpuFacts, chip: str) -> tuple[Request, Request]:
        """Ask for the manifests of the driver and the VBIOS that a GPU runs; `chip` as in its certificate ("GH100").

        A Blackwell report may name the chip whose driver counts. Under a Hopper-style name stands Hopper's manifest.
        """
        if not chip.isalnum():
            raise ValueError(f"chip {chip[:16]!r} is no word")
        kind = "NV_GPU_DRIVER" if chip.startswith("GH") else "NV_GPU_CC_DRIVER"
        return self._manifest(f"{kind}_{facts.chip or chip}_{facts.driver}"), self._manifest(facts.vbios_manifest)

    def switch_manifest(self, bios: str) -> Request:
        """Ask for the manifest of the BIOS ("96.10.73.00.01") that an LS10 switch runs; there is one board."""
        return self._manifest(f"NV_SWITCH_BIOS_5612_0002_890_{bios.replace('.', '')}")

    def _manifest(self, name: str) -> Request:
        return Request(url=f"{self.rim}/v1/rim/{name}")

    def status(self, certificate: bytes, issuer: bytes, *, nonce: bytes = b"") -> Request:
        """Ask whether a certificate (DER) that `issuer` signed is revoked.

        Args:
            certificate: what is asked about.
            issuer: who signed it.
            nonce: 1 to 32 bytes that the answer must repeat; empty when an answer made for others will do.
        """
        subject, signer = Certificate.parse(certificate), Certificate.parse(issuer)
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            sha384(signer.subject).digest(), sha384(signer.key_bits()).digest(), subject.serial, SHA384()
        )
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return Request(
            url=self.ocsp,
            body=builder.build().public_bytes(Encoding.DER),
            content_type="application/ocsp-request",
            size_max=OCSP_SIZE_MAX,
        )


def _check_base(url: str) -> None:
    if check_url(url).endswith("/") or "?" in url:
        raise ValueError(f"{url!r}: write it without a slash at its end and without a query")
