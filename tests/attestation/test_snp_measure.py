"""The launch digest of an image: equal to an independent implementation's, published values, and fixed for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attestation.__main__ import main
from attestation.ovmf import Firmware
from attestation.snp import measurement_id, parse_report
from attestation.snp_measure import VCPU_TYPES, KernelHashes, Launch, launch_digest, vcpu_signature
from attestation.vmsa import Hypervisor, cpu_signature
from tests.attestation.firmware import SECTIONS, image
from tests.attestation.vendors import amd

SIGNATURE = vcpu_signature("EPYC-v4")
KERNEL = KernelHashes.of(kernel=b"kernel", initrd=b"initrd", cmdline="console=ttyS0")
PLAIN = Launch(firmware=Firmware.parse(image()), vcpus=1, signature=SIGNATURE)
LAUNCHES = [
    pytest.param(PLAIN, id="one-processor"),
    pytest.param(replace(PLAIN, vcpus=5), id="five-processors"),
    pytest.param(replace(PLAIN, features=0x21), id="debug-swap"),
    pytest.param(replace(PLAIN, kernel=KERNEL), id="direct-kernel"),
    pytest.param(replace(PLAIN, kernel=KERNEL, vcpus=3, signature=vcpu_signature("EPYC-Genoa-v1")), id="genoa"),
    pytest.param(replace(PLAIN, hypervisor=Hypervisor.EC2, vcpus=2), id="ec2"),
    pytest.param(replace(PLAIN, hypervisor=Hypervisor.GCE, vcpus=4), id="gce"),
    pytest.param(replace(PLAIN, firmware=Firmware.parse(image(reset_address=0xFFFFFFF0)), vcpus=2), id="same-reset"),
    pytest.param(
        replace(PLAIN, firmware=Firmware.parse(image(reset_address=0xFFFFFFF0)), hypervisor=Hypervisor.EC2, vcpus=2),
        id="same-reset-on-ec2",
    ),
]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_an_independent_implementation_computes_the_same(launch: Launch, tmp_path: Path) -> None:
    guest = pytest.importorskip("sevsnpmeasure.guest", reason="sev-snp-measure is not installed")
    from sevsnpmeasure.sev_mode import SevMode  # noqa: PLC0415  (absent on hosts without development tools)
    from sevsnpmeasure.vmm_types import VMMType  # noqa: PLC0415

    files = {"ovmf": launch.firmware.data, "kernel": b"kernel", "initrd": b"initrd"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    kernel = (str(tmp_path / "kernel"), str(tmp_path / "initrd"), "console=ttyS0") if launch.kernel else (None,) * 3
    kinds = {Hypervisor.QEMU: VMMType.QEMU, Hypervisor.EC2: VMMType.ec2, Hypervisor.GCE: VMMType.gce}
    theirs = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        launch.vcpus,
        launch.signature,
        str(tmp_path / "ovmf"),
        *kernel,
        launch.features,
        vmm_type=kinds[launch.hypervisor],
    )
    assert launch_digest(launch) == theirs


def test_the_digest_of_one_image_is_this_value_for_good() -> None:
    assert (
        launch_digest(PLAIN).hex()
        == "994321b22f324640be76443aed4e74dfc737cb26e6d82f1d6d3311fe65fa9c02c62491a4ca49b4e3f93bf6e6a4d04db4"
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda: replace(PLAIN, firmware=Firmware.parse(image(seed=1))), id="code"),
        pytest.param(lambda: replace(PLAIN, firmware=Firmware.parse(image(sections=SECTIONS[::-1]))), id="order"),
        pytest.param(lambda: replace(PLAIN, vcpus=2), id="processors"),
        pytest.param(lambda: replace(PLAIN, signature=vcpu_signature("EPYC-Milan")), id="processor"),
        pytest.param(lambda: replace(PLAIN, features=3), id="features"),
        pytest.param(lambda: replace(PLAIN, hypervisor=Hypervisor.GCE), id="hypervisor"),
        pytest.param(lambda: replace(PLAIN, kernel=KERNEL), id="kernel"),
        pytest.param(lambda: replace(PLAIN, kernel=replace(KERNEL, kernel=b"k" * 32)), id="other-kernel"),
        pytest.param(lambda: replace(PLAIN, kernel=replace(KERNEL, initrd=b"k" * 32)), id="other-initrd"),
        pytest.param(lambda: replace(PLAIN, kernel=replace(KERNEL, cmdline=b"k" * 32)), id="other-command-line"),
    ],
)
def test_everything_loaded_changes_the_digest(change: Callable[[], Launch]) -> None:
    changed = change()
    before = replace(PLAIN, kernel=KERNEL) if changed.kernel not in (None, KERNEL) else PLAIN
    assert launch_digest(changed) != launch_digest(before)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"vcpus": 0}, "virtual processors", id="no-processor"),
        pytest.param({"vcpus": 1025}, "virtual processors", id="too-many-processors"),
        pytest.param({"features": 0x20}, "SNP active", id="not-an-snp-guest"),
        pytest.param({"features": 1 | 1 << 64}, "64 bits", id="features-too-large"),
        pytest.param({"signature": 0}, "signature", id="qemu-without-a-processor"),
        pytest.param(
            {"firmware": Firmware.parse(image(reset_address=None)), "vcpus": 2}, "start", id="no-reset-address"
        ),
        pytest.param(
            {"firmware": Firmware.parse(image(sections=SECTIONS[:5])), "kernel": KERNEL},
            "not be measured",
            id="kernel-nobody-would-measure",
        ),
        pytest.param(
            {"firmware": Firmware.parse(image(hash_table_address=None)), "kernel": KERNEL},
            "not be measured",
            id="kernel-without-a-place-for-its-hashes",
        ),
    ],
)
def test_a_launch_that_cannot_be_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(PLAIN, **changes)


def test_a_hash_table_across_pages_is_refused() -> None:
    firmware = Firmware.parse(image(hash_table_address=0x810FC0))
    with pytest.raises(ValueError, match="does not fit"):
        launch_digest(replace(PLAIN, firmware=firmware, kernel=KERNEL))


def test_processors_are_known_by_name_and_version() -> None:
    assert vcpu_signature("EPYC") == vcpu_signature("EPYC-v4") == 0x800F12
    assert [vcpu_signature(name) for name in VCPU_TYPES] == [
        0x800F12,
        0x800F12,
        0x830F10,
        0xA00F11,
        0xA10F10,
        0xB00F00,
    ]
    for unknown in ("Skylake", "EPYC-v", "EPYC-Milan-vx", ""):
        with pytest.raises(ValueError, match="unknown processor"):
            vcpu_signature(unknown)
    with pytest.raises(ValueError, match="no processor"):
        cpu_signature(25, 256, 0)
    assert cpu_signature(6, 0x2A, 7) == 0x206A7, "families up to 15 need no extension"


@pytest.fixture
def ovmf(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(image())
    return path


def test_the_command_prints_what_a_report_of_that_image_measures_as(
    ovmf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kernel", "initrd"):
        (ovmf.parent / name).write_bytes(name.encode())
    kernel = [f"--kernel={ovmf.parent / 'kernel'}", f"--initrd={ovmf.parent / 'initrd'}", "--append=console=ttyS0"]
    assert main(["measure-snp", f"--ovmf={ovmf}", "--vcpus=2", *kernel, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    digest = launch_digest(replace(PLAIN, vcpus=2, kernel=KERNEL))
    report = parse_report(amd().make_platform().report(bytes(64), measurement=digest))
    assert printed == {"launch_digest": digest.hex(), "measurement_id": measurement_id(report).hex()}


def test_the_command_prints_words_without_json(ovmf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure-snp", f"--ovmf={ovmf}", "--vcpus=1", "--vmm=ec2"]) == 0
    digest = launch_digest(replace(PLAIN, hypervisor=Hypervisor.EC2, signature=0))
    assert f"launch_digest  {digest.hex()}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["--vcpus=0"], "virtual processors", id="no-processor"),
        pytest.param(["--vcpus=1", "--vcpu-type=Skylake"], "unknown processor", id="unknown-processor"),
        pytest.param(["--vcpus=1", "--initrd=x"], "belong to a --kernel", id="initrd-without-kernel"),
        pytest.param(["--vcpus=1", "--kernel=missing"], "missing", id="missing-file"),
        pytest.param(["--vcpus=1", "--policy=0x10000"], "bit 17", id="impossible-guest-policy"),
    ],
)
def test_the_command_says_what_it_cannot_compute(
    ovmf: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure-snp", f"--ovmf={ovmf}", *arguments]) == 2
    assert why in capsys.readouterr().err


def test_the_command_refuses_a_file_that_is_no_firmware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no-firmware"
    path.write_bytes(bytes(8192))
    assert main(["measure-snp", f"--ovmf={path}", "--vcpus=1"]) == 2
    assert "no OVMF GUID table" in capsys.readouterr().err
