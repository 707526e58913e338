"""A simulated AMD processor: its reports are byte-exact SEV-SNP, signed for real, with faults on request."""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, replace
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation import cbor
from attestation.evidence import SnpEvidence
from attestation.sim.der import key_bytes, load_ec_key
from attestation.snp import REPORT_SIZE
from attestation.snp_policy import SnpTcb
from attestation.snp_tcb import SnpProduct, encode_tcb, parse_tcb

_SMT_ALLOWED = 0x30000  # SMT and the bit that must be one
_SMT_ON, _ALIAS_CHECKED = 0x01, 0x20  # platform info; version 2 reports know no alias check
_FAMILY_MODEL = {SnpProduct.MILAN: (0x19, 0x01), SnpProduct.GENOA: (0x19, 0x11), SnpProduct.TURIN: (0x1A, 0x02)}
_SIGNED_SIZE = 0x2A0
# Security versions of simulated firmware; they mean nothing on real processors.
SIMULATED_TCB = SnpTcb(bootloader=4, tee=0, snp=24, microcode=219)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpIdBlock:
    """What a guest's ID block says and who signed it, as the report carries it; all zero without one.

    Attributes:
        id_key_digest: SHA-384 of the key that signed the block.
        author_key_digest: SHA-384 of the key that certified that key; zero without one.
        family_id: 16 bytes.
        image_id: 16 bytes.
        guest_svn: security version of the guest.
    """

    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0


NO_ID_BLOCK = SnpIdBlock()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpFaults:
    """What is wrong or unusual with a report; by default nothing. The signature is good unless `foreign_key`.

    Attributes:
        debug: the guest may be debugged.
        migration_agent: the guest may be migrated.
        vmpl: privilege level that asked for the report.
        version: report version.
        guest_policy: the POLICY word; `debug` and `migration_agent` set their bits in it.
        platform_info: the PLATFORM_INFO word; by default SMT on and, from version 3, aliases checked.
        firmware: version of the running SNP firmware, (major, minor, build).
        committed_firmware: that of the lowest it can be rolled back to; the same by default.
        mitigations: vectors at launch and now; written from version 5.
        id_block: what the guest was launched with.
        signature_algorithm: 1 is ECDSA P-384 with SHA-384.
        signing_key: 0 VCEK, 1 VLEK, 7 none; None says what the certificate is.
        mask_chip_id: the host hides the chip id.
        mask_chip_key: the host forbids signing with the chip's key; the report says so and is signed nevertheless.
        chip_id: another processor's id, 64 bytes.
        cpu_family: CPUID family of another product.
        cpu_model: CPUID model of another product.
        reserved: (offset, value) of a byte the version reserves.
        current, committed, reported, launch: a TCB other than the platform's.
        foreign_key: signed by a key nobody certified.
    """

    debug: bool = False
    migration_agent: bool = False
    vmpl: int = 0
    version: int = 3
    guest_policy: int = _SMT_ALLOWED
    platform_info: int | None = None
    firmware: tuple[int, int, int] = (1, 55, 41)
    committed_firmware: tuple[int, int, int] | None = None
    mitigations: tuple[int, int] = (0, 0)
    id_block: SnpIdBlock = NO_ID_BLOCK
    signature_algorithm: int = 1
    signing_key: int | None = None
    mask_chip_id: bool = False
    mask_chip_key: bool = False
    chip_id: bytes | None = None
    cpu_family: int | None = None
    cpu_model: int | None = None
    reserved: tuple[int, int] | None = None
    current: SnpTcb | None = None
    committed: SnpTcb | None = None
    reported: SnpTcb | None = None
    launch: SnpTcb | None = None
    foreign_key: bool = False


NO_FAULTS = SnpFaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSnpPlatform:
    """One processor: its chip key and what AMD would endorse it with. Holds no key of the vendor.

    Attributes:
        product: what it claims to be.
        chip_id: 64 bytes.
        tcb: firmware versions.
        vlek: whether a provider's key signs instead of the chip's.
        vcek, ask, ark, crl: certificates and revocation list, DER.
    """

    product: SnpProduct
    chip_id: bytes
    tcb: SnpTcb
    vlek: bool
    key: ec.EllipticCurvePrivateKey
    vcek: bytes
    ask: bytes
    ark: bytes
    crl: bytes

    def report(
        self,
        report_data: bytes,
        *,
        measurement: bytes,
        host_data: bytes = bytes(32),
        faults: SnpFaults = NO_FAULTS,
    ) -> bytes:
        """Return a signed ATTESTATION_REPORT, 1184 bytes.

        Args:
            report_data: 64 bytes of the guest.
            measurement: launch digest, 48 bytes.
            host_data: 32 bytes of the host.
            faults: what to get wrong.
        """
        if (len(report_data), len(measurement), len(host_data)) != (64, 48, 32):
            raise ValueError("want 64 bytes of report_data, 48 of measurement, 32 of host_data")
        report = bytearray(REPORT_SIZE)
        block = faults.id_block
        policy = faults.guest_policy | faults.migration_agent << 18 | faults.debug << 19
        struct.pack_into("<IIQ", report, 0, faults.version, block.guest_svn, policy)
        report[0x10:0x30] = block.family_id + block.image_id
        struct.pack_into("<II", report, 0x30, faults.vmpl, faults.signature_algorithm)
        key_kind = int(self.vlek) if faults.signing_key is None else faults.signing_key
        flags = key_kind << 2 | faults.mask_chip_key << 1 | any(block.author_key_digest)
        struct.pack_into("<QI", report, 0x40, self._platform_info(faults), flags)
        report[0x50:0xE0] = report_data + measurement + host_data
        report[0xE0:0x140] = block.id_key_digest + block.author_key_digest
        report[0x140:0x180] = secrets.token_bytes(32) + b"\xff" * 32  # REPORT_ID, and no migration agent's
        tcbs = {0x38: faults.current, 0x180: faults.reported, 0x1E0: faults.committed, 0x1F0: faults.launch}
        for offset, tcb in tcbs.items():
            report[offset : offset + 8] = encode_tcb(tcb or self.tcb, self.product)
        report[0x1A0:0x1E0] = bytes(64) if faults.mask_chip_id else faults.chip_id or self.chip_id
        report[0x1E8:0x1EB] = bytes(reversed(faults.firmware))
        report[0x1EC:0x1EF] = bytes(reversed(faults.committed_firmware or faults.firmware))
        self._write_later_fields(report, faults)
        if faults.reserved:
            report[faults.reserved[0]] = faults.reserved[1]
        return self._signed(report, faults)

    def _platform_info(self, faults: SnpFaults) -> int:
        if faults.platform_info is not None:
            return faults.platform_info
        return _SMT_ON | (_ALIAS_CHECKED if faults.version > 2 else 0)

    def _write_later_fields(self, report: bytearray, faults: SnpFaults) -> None:
        if faults.version >= 3:
            family, model = _FAMILY_MODEL[self.product]
            cpu = (faults.cpu_family or family, model if faults.cpu_model is None else faults.cpu_model, 0)
            report[0x188:0x18B] = bytes(cpu)
        if faults.version >= 5:
            struct.pack_into("<QQ", report, 0x1F8, *faults.mitigations)

    def _signed(self, report: bytearray, faults: SnpFaults) -> bytes:
        key = ec.generate_private_key(ec.SECP384R1()) if faults.foreign_key else self.key
        for offset, number in zip(
            (_SIGNED_SIZE, _SIGNED_SIZE + 72),
            decode_dss_signature(key.sign(bytes(report[:_SIGNED_SIZE]), ec.ECDSA(SHA384()))),
            strict=True,
        ):
            report[offset : offset + 72] = number.to_bytes(72, "little")
        return bytes(report)

    def evidence(self, report: bytes) -> SnpEvidence:
        """Return the report with this platform's certificates."""
        return SnpEvidence(report=report, vcek=self.vcek, ask=self.ask, ark=self.ark, crl=self.crl)

    def with_crl(self, crl: bytes) -> SimulatedSnpPlatform:
        """Return the platform after it fetched another revocation list."""
        return replace(self, crl=crl)

    def to_bytes(self) -> bytes:
        """Return everything, the chip's private key included."""
        return cbor.encode(
            {
                "product": str(self.product),
                "chip_id": self.chip_id,
                "tcb": encode_tcb(self.tcb, self.product),
                "vlek": self.vlek,
                "key": key_bytes(self.key),
                "certificates": [self.vcek, self.ask, self.ark, self.crl],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(data):
            case {
                "product": str(product),
                "chip_id": bytes(chip_id),
                "tcb": bytes(tcb),
                "vlek": bool(vlek),
                "key": bytes(key),
                "certificates": [bytes(vcek), bytes(ask), bytes(ark), bytes(crl)],
            }:
                line = SnpProduct(product)
                return cls(
                    product=line,
                    chip_id=chip_id,
                    tcb=parse_tcb(tcb, line),
                    vlek=vlek,
                    key=load_ec_key(key),
                    vcek=vcek,
                    ask=ask,
                    ark=ark,
                    crl=crl,
                )
        raise ValueError("not a saved simulated AMD platform; make a new one")
