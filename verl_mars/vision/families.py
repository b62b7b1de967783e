"""Model families by ``model_type``: how each sees an image, and the frame in which it writes boxes.

A family that is not listed has no frame: its boxes would be guesses, so ``reward.reward_kwargs.coordinates`` must say.
The frame is the one in which the published checkpoints were taught to answer. A prompt that asks for another order or
scale, or fine-tuning on one, changes it: name that frame then.
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

    y_first: bool = False
    """The order is (y1, x1, y2, x2)."""

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


FRAMES: dict[str, Frame] = {
    "pixel": Frame("pixel"),
    "seen": Frame("seen"),
    "thousandths": Frame("share", 1000.0),
    "thousandths_yx": Frame("share", 1000.0, y_first=True),
    "fractions": Frame("share", 1.0),
}
"""Frames by name; a family's name stands for its frame too."""


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: the name of its frame, and the limits of the published checkpoints.

    ``limits`` is None for an image processor that resizes in another way than Qwen's; prompt lengths are unknown then.
    """

    frame: str
    limits: ImageLimits | None
    source: str
    """Where the frame is documented."""


_PATCH_14 = ImageLimits()
_PATCH_16 = ImageLimits(patch_size=16, min_pixels=256 * 256, max_pixels=4096 * 4096)
_QWEN2 = Family("thousandths", _PATCH_14, "arXiv 2409.12191, section 2.2: normalised within [0, 1000)")
_QWEN2_5 = Family("seen", _PATCH_14, "github.com/QwenLM/Qwen3-VL issue 676: absolute, in the size after the processor")
_QWEN3 = Family("thousandths", _PATCH_16, "github.com/QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb: 0 to 1000")
_QWEN3_5 = Family("thousandths", _PATCH_16, "github.com/QwenLM/Qwen3.8-Flash-Next issue 4: still 0 to 1000")
_GLM_V = Family("thousandths", None, "github.com/zai-org/GLM-V, skills/glmv-grounding: x = round(pixel / W * 1000)")
_INTERN = Family("thousandths", None, "internvl.readthedocs.io, chat data format: [[x1, y1, x2, y2]], 0 to 1000")
_KIMI = Family("fractions", None, "github.com/MoonshotAI/Kimi-VL issues 52 and 56: parts of 1 of width and height")
_GEMMA = Family("thousandths_yx", None, "huggingface.co/blog/gemma4: box_2d [y1, x1, y2, x2], 0 to 1000")

FAMILIES: dict[str, Family] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2_5,
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), _QWEN3),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), _QWEN3_5),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), _GLM_V),
    **dict.fromkeys(("internvl", "internvl_chat"), _INTERN),
    "kimi_vl": _KIMI,
    "gemma4": _GEMMA,
}
"""``model_type`` of a checkpoint's ``config.json`` -> its family."""

IMAGE_LIMITS: dict[str, ImageLimits] = {"qwen2_5_vl": _PATCH_14, "qwen3_vl": _PATCH_16}
"""Families with different token counts; those of the other families with limits equal one of them."""


def frame_named(name: object) -> Frame:
    """The frame called ``name``, or that of the family called so.

    Raises:
        SampleError: there is none.
    """
    frame = FAMILIES[name].frame if isinstance(name, str) and name in FAMILIES else name
    if not isinstance(frame, str) or frame not in FRAMES:
        allowed = ", ".join([*FRAMES, *FAMILIES])
        raise SampleError("coordinates", f"{name!r} is no frame of boxes; allowed: {allowed}")
    return FRAMES[frame]


def needs_limits(name: object) -> bool:
    """Whether boxes in this frame can only be read with the limits of the model's image processor."""
    return name in ("seen", *(family for family, row in FAMILIES.items() if row.frame == "seen"))
