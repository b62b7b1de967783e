"""Model families by ``model_type``: how each sees an image, and the frame in which it writes boxes.

A family that is not listed has no frame: its boxes would be guesses, so ``reward.reward_kwargs.coordinates`` must say.
"""

from dataclasses import dataclass
from typing import Literal

from verl_mars.errors import SampleError
from verl_mars.vision.resize import ImageLimits, Size, seen_size


@dataclass(frozen=True, slots=True)
class Frame:
    """How four numbers of an answer become (x1, y1, x2, y2) in pixels of the original image."""

    unit: Literal["pixel", "seen", "share"]
    """Pixels of the original image; pixels of the image as the model sees it; parts of its width and height."""

    parts: float = 1.0
    """For ``share``: into how many parts width and height are cut."""

    def scale(self, size: Size, limits: ImageLimits, seen: Size | None = None) -> tuple[float, float]:
        """What to multiply x and y with.

        Args:
            size: of the original image.
            limits: of the model's image processor.
            seen: size of the image as the model saw it, if the row knows it.

        Raises:
            SampleError: the image is one that verl cannot resize.
        """
        if self.unit == "pixel":
            return 1.0, 1.0
        if self.unit == "share":
            return size[0] / self.parts, size[1] / self.parts
        width, height = seen or seen_size(size, limits)
        return size[0] / width, size[1] / height


PIXEL = Frame("pixel")
THOUSANDTHS = Frame("share", 1000.0)
SEEN = Frame("seen")


@dataclass(frozen=True, slots=True)
class Family:
    """A model family; ``limits`` are those of the published checkpoints."""

    frame: Frame
    limits: ImageLimits


_PATCH_14 = ImageLimits()
_PATCH_16 = ImageLimits(patch_size=16, min_pixels=256 * 256, max_pixels=4096 * 4096)

FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(SEEN, _PATCH_14),
    "qwen3_vl": Family(THOUSANDTHS, _PATCH_16),
    "qwen3_vl_moe": Family(THOUSANDTHS, _PATCH_16),
}
"""``model_type`` of a checkpoint's ``config.json`` -> its family."""


IMAGE_LIMITS: dict[str, ImageLimits] = {name: FAMILIES[name].limits for name in ("qwen2_5_vl", "qwen3_vl")}
"""Families with different token counts; those of the other families equal one of them."""


def frame_named(name: object) -> Frame:
    """The frame called ``name``: ``pixel``, or that of a family.

    Raises:
        SampleError: there is none.
    """
    if name == "pixel":
        return PIXEL
    if not isinstance(name, str) or name not in FAMILIES:
        raise SampleError("coordinates", f"{name!r} is no frame of boxes; allowed: pixel, {', '.join(FAMILIES)}")
    return FAMILIES[name].frame
