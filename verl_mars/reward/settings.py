"""What a user may set under ``reward.reward_kwargs`` (manager ``mars``) or pass to ``compute_score``."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, model_validator

from verl_mars.config import Settings

Coordinates = Literal["pixel", "qwen2_5_vl", "qwen3_vl"]


class ImageLimits(Settings):
    """How verl's path resizes an image before a Qwen2.5-VL model sees it (see :mod:`verl_mars.reward.coordinates`).

    The defaults are those that Qwen2.5-VL is published with. The manager takes them from the model's own files.
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


class OverlongBuffer(Settings):
    """DAPO's soft overlong punishment, with the keys and the meaning of verl's ``dapo`` manager."""

    enable: bool = False
    len: int = Field(default=0, ge=0)
    penalty_factor: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    log: bool = False


class RewardSettings(Settings):
    """How answers are read and weighed. The same settings hold for every row of a run."""

    variant: Literal["mars", "authors"] = "mars"
    """``authors``: the published formulas of the MARS authors, for comparison (:mod:`verl_mars.reward.authors`)."""

    accuracy_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    format_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """``score = accuracy_weight * acc + format_weight * format``. Both or neither. Neither: the authors' proportions
    (grounding 1 : 0.75, everything else 1 : 0.5) scaled so that a perfect answer scores 1."""

    coordinates: Coordinates | None = None
    """The frame of an answer's boxes. Overrides ``extra_info["coordinates"]`` and the model's own."""

    image_processor: ImageLimits | None = None
    """The model's image processor, for ``qwen2_5_vl``. Overrides what the model's files say."""

    answer_tags: Literal["required", "optional"] = "required"
    """``optional``: where a response has no ``<answer>`` at all, what follows its thought is the answer."""

    think_in_prompt: bool = False
    """The prompt ends in ``<think>``, so a response starts inside its thought."""

    iou_threshold: float = Field(default=0.3, ge=0, lt=1, allow_inf_nan=False)
    """A matched pair of boxes earns its IoU only above this."""

    math_timeout_seconds: float = Field(default=1.0, gt=0, le=60, allow_inf_nan=False)
    """An expression that math-verify cannot settle in this time counts as wrong, and says so."""

    overlong_buffer_cfg: OverlongBuffer | None = None
    max_resp_len: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "RewardSettings":
        if (self.accuracy_weight is None) != (self.format_weight is None):
            raise ValueError("accuracy_weight and format_weight go together: set both or neither")
        if self.accuracy_weight is not None and self.accuracy_weight + (self.format_weight or 0.0) == 0.0:
            raise ValueError("accuracy_weight and format_weight are both 0: every score would be 0")
        if self.variant == "authors" and self.accuracy_weight is not None:
            raise ValueError("variant=authors has the published weights: leave accuracy_weight and format_weight out")
        buffer = self.overlong_buffer_cfg
        if buffer is not None and buffer.enable:
            if buffer.len <= 0:
                raise ValueError(
                    f"overlong_buffer_cfg.len must be above 0 when the penalty is enabled, got {buffer.len}; "
                    "overlong_buffer_cfg.enable=False turns it off"
                )
            if self.max_resp_len is None:
                raise ValueError(
                    "max_resp_len is needed when overlong_buffer_cfg is enabled; usually "
                    "reward.reward_kwargs.max_resp_len=${data.max_response_length}"
                )
            if self.max_resp_len < buffer.len:
                raise ValueError(f"max_resp_len ({self.max_resp_len}) is below overlong_buffer_cfg.len ({buffer.len})")
        return self

    @classmethod
    def read(cls, section: Mapping[str, Any] | None, where: str = "reward.reward_kwargs") -> "RewardSettings":
        """Settings from a plain mapping.

        Raises:
            ValueError: an unknown key or an impossible value; one line per fault, each naming ``where`` and the key.
        """
        return cls.from_mapping(section, where) if section else DEFAULTS


DEFAULTS = RewardSettings()


@lru_cache(maxsize=64)
def _from_items(items: tuple[tuple[str, Any], ...]) -> RewardSettings:
    return RewardSettings.read(dict(items), "compute_score")


def from_kwargs(kwargs: Mapping[str, Any]) -> RewardSettings:
    """Settings from the keyword arguments of one ``compute_score`` call; repeated calls cost a look-up.

    Raises:
        ValueError: as :meth:`RewardSettings.read`.
    """
    if not kwargs:
        return DEFAULTS
    try:
        return _from_items(tuple(sorted(kwargs.items())))
    except TypeError:  # a value that cannot be hashed, such as a plain dict for image_processor
        return RewardSettings.read(kwargs, "compute_score")
