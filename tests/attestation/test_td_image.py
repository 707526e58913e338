"""Images: each field of what was loaded is a check, and a refusal says which field of which image differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation import PolicyError
from attestation import errors as refusals
from attestation.errors import MeasurementNotAllowedError
from attestation.sim.tdx import TdImage, image_of
from attestation.simulate import DEFAULT_IMAGE, Fault
from attestation.td_image import FIELDS, ImageReference, check_image
from attestation.tdx import measurement_id
from attestation.verdict import CheckLog
from tests.attestation.hosts import TDX_CPU, appraise, evidence_of, host, policy_for


def _described(name: str, image: TdImage) -> ImageReference:
    return ImageReference(
        name=name, mr_td=image.mr_td, rtmr0=image.rtmrs[0], rtmr1=image.rtmrs[1], rtmr2=image.rtmrs[2]
    )


def _image(digit: bytes) -> TdImage:
    return TdImage(mr_td=digit * 48, rtmrs=(b"0" + digit * 47, b"1" + digit * 47, b"2" + digit * 47, bytes(48)))


OLD, NEW = _image(b"x"), _image(b"y")
IMAGES = (_described("v1.1", OLD), _described("v1.2", NEW))
ALLOWED = frozenset({measurement_id(NEW)})


def _refused(loaded: TdImage, images: tuple[ImageReference, ...] = IMAGES) -> MeasurementNotAllowedError:
    with pytest.raises(MeasurementNotAllowedError) as caught:
        check_image(loaded, images, ALLOWED, CheckLog())
    assert [check.outcome for check in caught.value.checks].count("failed") == 1
    assert caught.value.checks[-1].name == "image"
    return caught.value


def test_a_description_has_the_measurement_id_of_its_image() -> None:
    assert IMAGES[1].measurement_id() == measurement_id(NEW)


def test_every_field_of_an_allowed_image_is_a_check_that_held() -> None:
    log = CheckLog()
    assert check_image(NEW, IMAGES, ALLOWED, log) == measurement_id(NEW)
    assert [check.name for check in log.checks] == [*(f"tdx {field}" for field in FIELDS), "image"]
    assert {check.outcome for check in log.checks} == {"held"}
    assert log.checks[0].required == "as in image v1.2"


def test_an_allowed_image_needs_no_description() -> None:
    log = CheckLog()
    check_image(NEW, (), ALLOWED, log)
    assert len(log.checks) == len(FIELDS) + 1


@pytest.mark.parametrize("field", FIELDS)
def test_a_refusal_names_the_one_field_that_differs(field: str) -> None:
    if field.startswith("rtmr"):
        rtmrs = list(NEW.rtmrs)
        rtmrs[int(field[-1])] = b"?" * 48
        loaded = replace(NEW, rtmrs=tuple(rtmrs))
    else:
        loaded = replace(NEW, **{field: b"?" * 48})
    error = _refused(loaded)
    assert f"{field} differs from image v1.2; all else equal" in str(error)
    assert {check.name for check in error.checks[:-1]} == {f"tdx {name}" for name in FIELDS if name != field}


def test_a_refusal_names_all_fields_that_differ() -> None:
    loaded = replace(NEW, mr_td=b"?" * 48, mr_owner=b"?" * 48)
    assert "mr_td, mr_owner differ from image v1.2; all else equal" in str(_refused(loaded))


def test_a_known_image_that_is_no_longer_allowed_is_refused_by_name() -> None:
    assert "image v1.1, which is not allowed" in str(_refused(OLD))


@pytest.mark.parametrize("images", [(), IMAGES[:1], IMAGES])
def test_an_unknown_image_is_refused_whatever_is_described(images: tuple[ImageReference, ...]) -> None:
    assert "like no described image" in str(_refused(_image(b"z"), images))


def test_a_description_allows_nothing() -> None:
    foreign = host(TDX_CPU, 0, Fault.FOREIGN_MEASUREMENT)
    image = evidence_image(foreign)
    with pytest.raises(refusals.MeasurementNotAllowedError, match="image foreign, which is not allowed"):
        appraise(evidence_of(foreign), policy_for(foreign, images=(image,)))


def evidence_image(attester: object) -> ImageReference:
    from attestation.tdx_quote import parse_quote  # noqa: PLC0415

    body = parse_quote(evidence_of(attester).cpu.quote).body
    return ImageReference(
        name="foreign", mr_td=body.mr_td, rtmr0=body.rtmrs[0], rtmr1=body.rtmrs[1], rtmr2=body.rtmrs[2]
    )


def test_a_verdict_lists_every_field_of_the_image() -> None:
    verdict = appraise(
        evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU), images=(_described("demo", image_of(DEFAULT_IMAGE)),))
    )
    listed = {check.name for check in verdict.checks if check.required == "as in image demo"}
    assert listed == {f"tdx {field}" for field in FIELDS}


@pytest.mark.parametrize(
    "changes",
    [{"name": ""}, {"name": "x" * 65}, {"name": "two\nlines"}, {"mr_td": b"short"}, {"rtmr1": bytes(49)}],
)
def test_a_description_that_is_none_is_a_mistake(changes: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        replace(IMAGES[0], **changes)
