"""Boxes as files of other projects write them, in the one form of a :class:`~verl_mars.data.sample.Boxes`."""

import math
from collections.abc import Sequence
from typing import Literal, TypeGuard

from verl_mars.data.sample import Boxes
from verl_mars.errors import SampleError

BoxForm = Literal["xyxy", "xywh", "cxcywh"]
"""Corners; left top corner with width and height; centre with width and height."""
BoxUnit = Literal["pixels", "fractions", "thousandths"]
"""Of the image's width and height, but for pixels."""


def boxes_of(
    boxes: Sequence[object],
    labels: Sequence[str],
    form: BoxForm = "xyxy",
    unit: BoxUnit = "pixels",
    *,
    frame: int = 0,
    size: tuple[int, int] | None = None,
) -> Boxes:
    """Boxes of any form and unit.

    Raises:
        SampleError: not four finite numbers, numbers outside the unit, or not one label a box.
    """
    if len(labels) != len(boxes):
        raise SampleError("box", f"{len(boxes)} boxes but {len(labels)} labels: one label a box is needed", "labels")
    corners = tuple(_corners(box, form, f"boxes[{number}]") for number, box in enumerate(boxes))
    if unit != "pixels":
        most = 1.0 if unit == "fractions" else 1000.0
        for number, box in enumerate(corners):
            if min(box) < -1e-6 or max(box) > most + 1e-6:
                raise SampleError(
                    "box", f"{list(box)} leaves 0 to {most:g}, but the unit is {unit}", f"boxes[{number}]"
                )
        corners = tuple(tuple(min(max(value / most, 0.0), 1.0) for value in box) for box in corners)  # type: ignore[misc]
    return Boxes(corners, tuple(labels), frame, size, fractions=unit != "pixels")


def _is_four_numbers(value: object) -> TypeGuard[Sequence[float]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return False
    return all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)


def _corners(box: object, form: BoxForm, key: str) -> tuple[float, float, float, float]:
    if not _is_four_numbers(box):
        raise SampleError("box", f"{str(box)[:60]}, but four numbers are needed", key)
    a, b, c, d = (float(value) for value in box)
    if not all(map(math.isfinite, (a, b, c, d))):
        raise SampleError("box", f"{str(box)[:60]}, but finite numbers are needed", key)
    if form == "xywh":
        return a, b, a + c, b + d
    if form == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d
