"""The size of an image as a model sees it, and its number of tokens.

verl resizes an image twice: ``qwen_vl_utils.fetch_image`` rounds its sides to multiples of patch x merge pixels, then
the image processor does so again within its own limits of pixels. The two scale the sides differently, so both are
computed here: 1280 x 1024 becomes 1288 x 1036 and, under a limit of 1.0 million pixels, 1092 x 896. Each resized image
becomes (h / f)(w / f) tokens, f = patch x merge, between one token that opens it and one that closes it.

Contract tests compare these formulas with the real libraries. They are written out because both libraries import torch
and torchvision: seconds and hundreds of megabytes for processes that otherwise need neither.
"""

import math
from functools import lru_cache

from pydantic import Field, model_validator

from verl_mars.config import Settings
from verl_mars.errors import SampleError
from verl_mars.fields import Fields

Size = tuple[int, int]
"""(width, height) in pixels."""

MAX_ASPECT_RATIO = 200
"""Both libraries refuse an image whose sides differ by more."""

_FIRST_MERGE = 2  # constants of qwen_vl_utils
_FIRST_MIN_TOKENS, _FIRST_MAX_TOKENS = 4, 16384


class ImageLimits(Settings):
    """Settings of an image processor of the Qwen-VL kind.

    The defaults are those that Qwen2.5-VL is published with.
    """

    patch_size: int = Field(default=14, ge=1, le=256)
    merge_size: int = Field(default=2, ge=1, le=16)
    min_pixels: int = Field(default=56 * 56, ge=1)
    max_pixels: int = Field(default=28 * 28 * 16384, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "ImageLimits":
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self

    @property
    def factor(self) -> int:
        """Side of one token in pixels."""
        return self.patch_size * self.merge_size


def limits_of(processor: Fields, mm_processor_kwargs: Fields | None = None) -> ImageLimits:
    """Limits from an image processor's settings (old and new names) and what the run changes in them.

    A call changes the limits by ``size``, or by ``min_pixels`` and ``max_pixels`` together: transformers ignores one
    without the other.

    Raises:
        ValueError: the processor does not resize.
    """
    limits = ImageLimits(min_pixels=56 * 56, max_pixels=28 * 28 * 1280).model_dump()  # the class's own defaults
    size = processor.get("size") or {}
    changes = {
        "min_pixels": processor.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": processor.get("max_pixels") or size.get("longest_edge"),
        "patch_size": processor.get("patch_size"),
        "merge_size": processor.get("merge_size"),
    }
    limits |= {name: int(value) for name, value in changes.items() if value}
    call = dict(mm_processor_kwargs or {})
    call |= dict(call.get("images_kwargs") or {})
    size = call.get("size") or {}
    pair = (size.get("shortest_edge"), size.get("longest_edge"))
    if call.get("min_pixels") is not None and call.get("max_pixels") is not None:
        pair = (call["min_pixels"], call["max_pixels"])
    limits |= {name: int(value) for name, value in zip(("min_pixels", "max_pixels"), pair, strict=True) if value}
    if not call.get("do_resize", processor.get("do_resize", True)):
        raise ValueError("the image processor has do_resize=False; give each row extra_info['seen_sizes'] instead")
    return ImageLimits(**limits)


def seen_size(size: Size, limits: ImageLimits, min_pixels: int | None = None, max_pixels: int | None = None) -> Size:
    """Size of an image as the model sees it.

    Args:
        size: of the file.
        limits: of the model's image processor.
        min_pixels: the image entry's own limit, which the first resize keeps.
        max_pixels: likewise.

    Raises:
        SampleError: sides too different, or limits that leave nothing of a side.
    """
    width, height = size
    shown = f"{width} x {height} pixels"
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise SampleError("aspect_ratio", f"{shown}: sides differ by more than {MAX_ASPECT_RATIO} times")
    first = limits.patch_size * _FIRST_MERGE
    low = min_pixels if min_pixels is not None else _FIRST_MIN_TOKENS * first**2
    high = max_pixels if max_pixels is not None else _FIRST_MAX_TOKENS * first**2
    if low > high:
        raise SampleError("record", f"min_pixels {low} is more than max_pixels {high}")
    # qwen_vl_utils.smart_resize: a side that is only rounded keeps at least one factor, one that shrinks may vanish
    height, width = _resized(height, width, first, low, high, least_rounded=first, least_shrunk=0)
    if not height or not width:
        raise SampleError("aspect_ratio", f"{shown}: a side has no pixel left under max_pixels {high}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise SampleError("aspect_ratio", f"{shown} becomes {width} x {height}, too narrow to process")
    # smart_resize of transformers' Qwen2-VL image processor: the other way round
    factor = limits.factor
    height, width = _resized(
        height, width, factor, limits.min_pixels, limits.max_pixels, least_rounded=0, least_shrunk=factor
    )
    return width, height


@lru_cache(maxsize=4096)
def visual_tokens(size: Size, limits: ImageLimits, min_pixels: int | None = None, max_pixels: int | None = None) -> int:
    """Tokens of one image, with the one before and the one after it."""
    width, height = seen_size(size, limits, min_pixels, max_pixels)
    return (width // limits.factor) * (height // limits.factor) + 2


def _resized(
    height: int, width: int, factor: int, low: int, high: int, *, least_rounded: int, least_shrunk: int
) -> tuple[int, int]:
    """Sides as multiples of ``factor``, their product between ``low`` and ``high`` where possible."""
    rounded = [max(least_rounded, round(side / factor) * factor) for side in (height, width)]
    if rounded[0] * rounded[1] > high:
        scale = math.sqrt(height * width / high)
        rounded = [max(least_shrunk, math.floor(side / scale / factor) * factor) for side in (height, width)]
    elif rounded[0] * rounded[1] < low:
        scale = math.sqrt(low / (height * width))
        rounded = [math.ceil(side * scale / factor) * factor for side in (height, width)]
    return rounded[0], rounded[1]
