"""Known TDX images, field by field: what a measurement id stands for, and which field of which image differs.

Descriptions explain; they allow nothing. Which images are allowed is said by their measurement ids alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attestation.errors import MeasurementNotAllowedError, PolicyError
from attestation.tdx import Loaded, measurement_id
from attestation.verdict import CheckLog

IMAGES_MAX = 256
NAME_SIZE_MAX = 64
FIELDS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "mr_config_id", "mr_owner", "mr_owner_config")
_ZERO = bytes(48)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """One image by name, 48 bytes in each other field.

    Attributes:
        name: for people, at most 64 characters.
        mr_td: measurement of the initial image.
        rtmr0: firmware configuration.
        rtmr1: boot loader and kernel.
        rtmr2: what the kernel was given: command line, initial file system.
        mr_config_id: configuration named at creation.
        mr_owner: owner named at creation.
        mr_owner_config: owner's configuration named at creation.
    """

    name: str
    mr_td: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    mr_config_id: bytes = _ZERO
    mr_owner: bytes = _ZERO
    mr_owner_config: bytes = _ZERO

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= NAME_SIZE_MAX or not self.name.isprintable():
            raise PolicyError(
                f"image name {self.name[:NAME_SIZE_MAX]!r}: want 1 to {NAME_SIZE_MAX} printable characters"
            )
        for field in FIELDS:
            if len(getattr(self, field)) != len(_ZERO):
                raise PolicyError(f"image {self.name!r}: {field} must be {len(_ZERO)} bytes")

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The registers when the image has booted; nothing has been extended into the last one yet."""
        return self.rtmr0, self.rtmr1, self.rtmr2, _ZERO

    def measurement_id(self) -> bytes:
        """Return the 32 bytes by which this image is allowed."""
        return measurement_id(self)


def check_image(loaded: Loaded, images: Sequence[ImageReference], allowed: frozenset[bytes], log: CheckLog) -> bytes:
    """Return the measurement id of what was loaded, which must be allowed; each field is a check of its own.

    Args:
        loaded: what the quote says.
        images: descriptions of known images.
        allowed: measurement ids, 32 bytes each.
        log: where the checks go. A refusal lists the fields that are as in the nearest allowed image, and its last
            check says which are not.

    Raises:
        MeasurementNotAllowedError: it is none of the allowed.
    """
    identity = measurement_id(loaded)
    values = fields_of(loaded)
    exact = next((image for image in images if fields_of(image) == values), None)
    held = identity in allowed
    nearest = exact if held else _nearest(values, [image for image in images if image.measurement_id() in allowed])
    required = f"as in image {nearest.name}" if nearest else "named by the measurement id"
    differing = []
    for field, value in zip(FIELDS, values, strict=True):
        if held or (nearest and getattr(nearest, field) == value):
            log.require(
                f"tdx {field}", True, seen=value.hex()[:32], required=required, error=MeasurementNotAllowedError
            )
        else:
            differing.append(field)
    log.require(
        "image",
        held,
        seen=identity.hex() + ("" if held else _difference(exact, nearest, differing)),
        required=f"one of {len(allowed)} allowed measurement ids",
        error=MeasurementNotAllowedError,
    )
    return identity


def fields_of(loaded: Loaded) -> tuple[bytes, ...]:
    """Return the values in the order of `FIELDS`, 48 bytes each."""
    return (loaded.mr_td, *loaded.rtmrs[:3], loaded.mr_config_id, loaded.mr_owner, loaded.mr_owner_config)


def _nearest(values: tuple[bytes, ...], images: Sequence[ImageReference]) -> ImageReference | None:
    """Return the image that shares most fields, if any is shared beyond those that are zero everywhere."""
    shared = [sum(one == two != _ZERO for one, two in zip(values, fields_of(image), strict=True)) for image in images]
    return images[shared.index(max(shared))] if any(shared) else None


def _difference(exact: ImageReference | None, nearest: ImageReference | None, differing: list[str]) -> str:
    if exact is not None:
        return f": image {exact.name}, which is not allowed"
    if nearest is None:
        return ": like no described image that is allowed"
    verb = "differs" if len(differing) == 1 else "differ"
    return f": {', '.join(differing)} {verb} from image {nearest.name}; all else equal"
