"""From the frame a model answers in to pixels of the original image.

| frame | a box is in | used by |
|---|---|---|
| ``pixel`` | pixels of the original image | models taught so, and every model whose family is not listed |
| ``qwen2_5_vl`` | pixels of the image as the model saw it, after both resizes of verl's path | Qwen2.5-VL |
| ``qwen3_vl`` | thousandths of the image's width and height | Qwen3-VL |

verl resizes twice: ``qwen_vl_utils.fetch_image`` rounds the sides to a multiple of patch x merge, then the model's own
image processor does so again within its own limits of pixels. The two scale the sides differently, so both are
followed here (1280 x 1024 becomes 1288 x 1036 and, under a limit of 1.0 million pixels, 1092 x 896). The formulas are
those of the two libraries; a contract test holds them to the real path. They are written out because importing either
library costs seconds and torchvision, which the process that scores has no other use for.
"""

import math
from typing import get_args

from verl_mars.reward.settings import Coordinates, ImageLimits, RewardSettings
from verl_mars.reward.truth import Row, size_of_image

FRAME_OF_MODEL: dict[str, Coordinates] = {
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
}
"""The frame of a Hugging Face ``model_type``; any other: ``pixel``."""

_FIRST_MIN_TOKENS, _FIRST_MAX_TOKENS, _FIRST_MERGE = 4, 16384, 2  # qwen_vl_utils' constants


def scale_of_row(index: int, size: tuple[int, int] | None, row: Row, settings: RewardSettings) -> tuple[float, float]:
    """What to multiply x and y of the answer to a row with, where the truth is about image ``index`` of ``size``.

    Raises:
        RowError: an unknown frame, or one that needs the size of the image and the row has none.
    """
    frame = settings.coordinates or row.extra_info.get("coordinates") or "pixel"
    if frame not in get_args(Coordinates):
        raise row.error(f"extra_info coordinates = {frame!r}; allowed: {', '.join(get_args(Coordinates))}")
    if frame != "pixel" and size is None:
        raise row.error(
            f"coordinates {frame!r} need the size of image {index}: 'size' in the ground truth or 'image_sizes' in "
            "extra_info"
        )
    seen = size_of_image(row, "seen_sizes", index)
    try:
        return scale_to_original(frame, size, settings.image_processor or ImageLimits(), seen)
    except ValueError as error:
        raise row.error(str(error)) from None


def scale_to_original(
    frame: Coordinates, size: tuple[int, int] | None, limits: ImageLimits, seen: tuple[int, int] | None = None
) -> tuple[float, float]:
    """What to multiply x and y of an answer with to get pixels of the original image.

    ``size`` and ``seen`` are (width, height) of the original image and of the image as the model saw it, where known.

    Raises:
        ValueError: ``size`` is None although the frame needs it, or no resize of verl can take such an image.
    """
    if frame == "pixel":
        return 1.0, 1.0
    if size is None:
        raise ValueError(f"coordinates {frame!r} need the size of the image")
    width, height = size
    if frame == "qwen3_vl":
        return width / 1000.0, height / 1000.0
    seen_width, seen_height = seen or seen_size(width, height, limits)
    return width / seen_width, height / seen_height


def seen_size(width: int, height: int, limits: ImageLimits) -> tuple[int, int]:
    """(width, height) of an image of ``width`` x ``height`` pixels as the model sees it.

    Raises:
        ValueError: one side is over 200 times the other, which both libraries refuse.
    """
    if max(width, height) > 200 * min(width, height):
        raise ValueError(f"an image of {width} x {height} pixels is too narrow: verl takes at most 200 : 1")
    first = limits.patch_size * _FIRST_MERGE
    height, width = _first_resize(height, width, first, _FIRST_MIN_TOKENS * first**2, _FIRST_MAX_TOKENS * first**2)
    factor = limits.patch_size * limits.merge_size
    height, width = _second_resize(height, width, factor, limits.min_pixels, limits.max_pixels)
    return width, height


def _first_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """``qwen_vl_utils.smart_resize``: a side never rounds to 0 when neither limit is met."""
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return math.floor(height / shrink / factor) * factor, math.floor(width / shrink / factor) * factor
    if new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _second_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """``smart_resize`` of transformers' Qwen2-VL image processor: a side never rounds to 0 when it shrinks."""
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return new_height, new_width
