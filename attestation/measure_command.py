"""`python -m attestation measure-snp --ovmf FILE --vcpus N`: what an SEV-SNP image will measure as, before it ever ran.

Prints the launch digest, which reports carry, and the measurement id, which the registry and policies list. Exit code
0: computed; 2: a file cannot be read or cannot be launched this way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from attestation.errors import MalformedEvidenceError
from attestation.ovmf import FIRMWARE_SIZE_MAX, Firmware
from attestation.snp_measure import KernelHashes, Launch, launch_digest, vcpu_signature
from attestation.snp_report import REPORT_VERSIONS, compose_measurement_id
from attestation.snp_settings import SnpGuestPolicy
from attestation.vmsa import SNP_ACTIVE, Hypervisor

COMPUTED, UNKNOWN = 0, 2
_SMT_ALLOWED = 0x30000  # the usual guest policy: SMT allowed, and the bit that must be one


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser("measure-snp", help="compute what an SEV-SNP image measures as")
    parser.add_argument("--ovmf", type=Path, required=True, help="firmware image (OVMF.fd)")
    parser.add_argument("--kernel", type=Path, help="kernel QEMU starts directly, as with its -kernel")
    parser.add_argument("--initrd", type=Path, help="initial RAM disk of that kernel")
    parser.add_argument("--append", default="", help="command line of that kernel")
    parser.add_argument("--vcpus", type=int, required=True, help="number of virtual processors")
    parser.add_argument("--vcpu-type", default="EPYC-v4", help="processor QEMU shows the guest (default: EPYC-v4)")
    parser.add_argument("--vmm", type=Hypervisor, choices=list(Hypervisor), default=Hypervisor.QEMU, help="hypervisor")
    parser.add_argument("--guest-features", type=_number, default=SNP_ACTIVE, help="SEV_FEATURES (default: 0x1)")
    parser.add_argument("--policy", type=_number, default=_SMT_ALLOWED, help="guest policy (default: 0x30000)")
    parser.add_argument("--host-data", type=_hex(32), default=bytes(32), help="32 bytes of the host (default: zero)")
    parser.add_argument(
        "--id-key", type=_hex(48), default=bytes(48), help="SHA-384 of the ID key (default: no ID block)"
    )
    parser.add_argument(
        "--author-key", type=_hex(48), default=bytes(48), help="SHA-384 of the author key (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute and print; return the exit code."""
    try:
        digest = launch_digest(_launch(options))
        identity = compose_measurement_id(
            measurement=digest,
            host_data=options.host_data,
            id_key_digest=options.id_key,
            author_key_digest=options.author_key,
            policy=options.policy,
        )
    except (OSError, MalformedEvidenceError, ValueError) as error:
        print(f"could not compute: {error}", file=sys.stderr)
        return UNKNOWN
    values = {"launch_digest": digest.hex(), "measurement_id": identity.hex()}
    if options.json:
        print(json.dumps(values, indent=2))
    else:
        print(*(f"{name:15}{value}" for name, value in values.items()), sep="\n")
    return COMPUTED


def _launch(options: argparse.Namespace) -> Launch:
    if not SnpGuestPolicy(options.policy).well_formed(max(REPORT_VERSIONS)):
        raise ValueError(f"guest policy {options.policy:#x}: want bit 17 set, no bit above 25")
    with options.ovmf.open("rb") as file:
        firmware = Firmware.parse(file.read(FIRMWARE_SIZE_MAX + 1))
    if options.kernel is None and (options.initrd or options.append):
        raise ValueError("--initrd and --append belong to a --kernel")
    qemu = options.vmm is Hypervisor.QEMU
    return Launch(
        firmware=firmware,
        vcpus=options.vcpus,
        signature=vcpu_signature(options.vcpu_type) if qemu else 0,
        hypervisor=options.vmm,
        features=options.guest_features,
        kernel=_kernel(options) if options.kernel else None,
    )


def _kernel(options: argparse.Namespace) -> KernelHashes:
    return KernelHashes(
        kernel=_hash_file(options.kernel),
        initrd=_hash_file(options.initrd) if options.initrd else hashlib.sha256().digest(),
        cmdline=hashlib.sha256(options.append.encode() + b"\0").digest(),
    )


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _number(text: str) -> int:
    return int(text, 0)


def _hex(size: int) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        data = bytes.fromhex(text)
        if len(data) != size:
            raise argparse.ArgumentTypeError(f"{len(data)} bytes, want {size} ({2 * size} hex digits)")
        return data

    return read
