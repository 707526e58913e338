"""Reference manifests: NVIDIA's own files are read; anything odd is malformed, before it can mean something."""

from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.rim import ELEMENTS_MAX, RIM_SIZE_MAX, parse_rim
from attestation.sim.firmware import DRIVER_BLOCKS, GPU_MODELS, VBIOS_BLOCKS
from tests.attestation.vendors import flipped, vector

DRIVER = GPU_MODELS["H100"].driver_manifest()
FIRST = b'index="0" active="False" alternatives="1"'
SEVENTH = b'index="7" active="True" alternatives="1"'


@pytest.mark.parametrize(
    ("name", "version", "active"),
    [
        ("NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", "535.86.09", {7, *range(21, 42)}),
        ("NV_GPU_DRIVER_GH100_550.144.03.xml", "550.144.03", set(DRIVER_BLOCKS)),
        ("NV_GPU_DRIVER_GH100_570.124.03_expired.xml", "570.124.03", set(DRIVER_BLOCKS)),
        ("Driver_RIM_test_no_gpu.swidtag", "545.00", set(DRIVER_BLOCKS)),
        ("1010_0200_882_96005E0001_test_no_gpu.swidtag", "96.00.5E.00.01", set(VBIOS_BLOCKS)),
    ],
)
def test_a_genuine_manifest_is_read(name: str, version: str, active: set[int]) -> None:
    data = vector(f"nvidia-gpu/{name}").read_bytes()
    rim = parse_rim(data)
    assert (rim.product, rim.version, rim.digest) == ("GH100", version, sha256(data).digest())
    assert set(rim.measurements) == active
    assert all(len(value) == 48 for values in rim.measurements.values() for value in values)


def test_alternatives_of_a_genuine_manifest_are_all_kept() -> None:
    rim = parse_rim(vector("nvidia-gpu/NV_GPU_DRIVER_GH100_550.144.03.xml").read_bytes())
    assert sorted(len(values) for values in rim.measurements.values()) == [1] * 14 + [2] * 5 + [3, 4]


def test_a_simulated_manifest_is_read_the_same_way() -> None:
    firmware = GPU_MODELS["H100"]
    driver, vbios = (parse_rim(manifest) for manifest in firmware.manifests())
    assert (driver.version, vbios.version) == (firmware.driver, firmware.vbios)
    assert set(driver.measurements) == set(DRIVER_BLOCKS)
    assert set(vbios.measurements) == set(VBIOS_BLOCKS)
    assert len(driver.measurements[22]) == 2


def _without(name: bytes) -> bytes:
    head, _, rest = DRIVER.partition(b" " + name + b'="')
    return head + rest.partition(b'"')[2]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 100, id="no-xml"),
        pytest.param(DRIVER[:-10], id="cut-short"),
        pytest.param(DRIVER + b"<more/>", id="a-second-document-behind"),
        pytest.param(b"<!DOCTYPE x>" + DRIVER, id="document-type"),
        pytest.param(
            b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + DRIVER,
            id="entities-that-swell",
        ),
        pytest.param(b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + DRIVER, id="entity-from-a-file"),
        pytest.param(DRIVER.decode().encode("utf-16"), id="another-encoding"),
        pytest.param(DRIVER.replace(b"SoftwareIdentity", b"SoftwareIdentities"), id="another-document"),
        pytest.param(DRIVER.replace(b"2015/schema.xsd", b"2016/schema.xsd"), id="another-namespace"),
        pytest.param(DRIVER.replace(FIRST, FIRST.replace(b'"0"', b'"7"')), id="a-measurement-given-twice"),
        pytest.param(DRIVER.replace(FIRST, FIRST.replace(b'"0"', b'"256"')), id="an-index-out-of-range"),
        pytest.param(DRIVER.replace(FIRST, FIRST.replace(b'"0"', b'"-1"')), id="a-negative-index"),
        pytest.param(DRIVER.replace(SEVENTH, SEVENTH.replace(b"True", b"true")), id="an-activity-of-unknown-spelling"),
        pytest.param(DRIVER.replace(SEVENTH, SEVENTH.replace(b's="1"', b's="2"')), id="an-alternative-missing"),
        pytest.param(DRIVER.replace(SEVENTH, SEVENTH + b' ns2:Hash1="00"'), id="an-alternative-too-many"),
        pytest.param(DRIVER.replace(SEVENTH, SEVENTH.replace(b's="1"', b's="0"')), id="no-alternative-at-all"),
        pytest.param(DRIVER.replace(b'Hash0="', b'Hash0="zz', 1), id="a-value-that-is-not-hexadecimal"),
        pytest.param(DRIVER.replace(b'Hash0="00', b'Hash0="', 1), id="a-value-too-short"),
        pytest.param(DRIVER.replace(b'"True"', b'"False"'), id="nothing-active"),
        pytest.param(_without(b"product"), id="no-product"),
        pytest.param(_without(b"colloquialVersion"), id="no-version"),
        pytest.param(
            DRIVER.replace(b"<ns0:Payload ", b"<ns0:Other ").replace(b"</ns0:Payload", b"</ns0:Other"),
            id="measurements-out-of-place",
        ),
        pytest.param(
            DRIVER.replace(b"    <ns0:Payload", b'    <ns0:Meta product="X"/><ns0:Payload'), id="two-versions"
        ),
        pytest.param(
            DRIVER.replace(b"</ns0:Payload>", b"<x/>" * ELEMENTS_MAX + b"</ns0:Payload>"), id="too-many-elements"
        ),
        pytest.param(DRIVER + b" " * RIM_SIZE_MAX, id="too-large"),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_rim(data)


def test_a_declared_encoding_does_not_change_how_bytes_are_read() -> None:
    assert (
        parse_rim(b'<?xml version="1.0" encoding="ISO-8859-1"?>' + DRIVER).measurements
        == parse_rim(DRIVER).measurements
    )


@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(data=b"<a/>")
@example(data=b"<SoftwareIdentity/>")
def test_the_parser_raises_only_its_own_error(data: bytes) -> None:
    with suppress(MalformedEvidenceError):
        parse_rim(data)


@given(bit=st.integers(0, len(DRIVER) * 8 - 1))
@settings(max_examples=200, deadline=None)
def test_the_parser_raises_only_its_own_error_on_damaged_manifests(bit: int) -> None:
    with suppress(MalformedEvidenceError):
        parse_rim(flipped(DRIVER, bit))
