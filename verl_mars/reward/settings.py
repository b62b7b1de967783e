"""What a user may set under ``reward.reward_kwargs`` (manager ``mars``) or pass to ``compute_score``."""

from functools import lru_cache
from typing import Literal

from pydantic import Field, model_validator

from verl_mars.config import Settings
from verl_mars.fields import Fields
from verl_mars.tasks.base import ScoringSettings


class OverlongBuffer(Settings):
    """DAPO's soft overlong punishment, with the keys and the meaning of verl's ``dapo`` manager."""

    enable: bool = False
    len: int = Field(default=0, ge=0)
    penalty_factor: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    log: bool = False


class RewardSettings(ScoringSettings):
    """How answers are read and weighed. The same settings hold for every row of a run."""

    variant: Literal["mars", "authors"] = "mars"
    """``authors``: the published formulas of the MARS authors, for comparison (:mod:`verl_mars.reward.authors`)."""

    accuracy_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    format_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """``score = accuracy_weight * acc + format_weight * format``. Both or neither. Neither: the authors' proportions
    (grounding 1 : 0.75, everything else 1 : 0.5) scaled so that a perfect answer scores 1."""

    answer_tags: Literal["required", "optional"] = "required"
    """``optional``: where a response has no ``<answer>`` at all, what follows its thought is the answer."""

    think_in_prompt: bool = False
    """The prompt ends in ``<think>``, so a response starts inside its thought."""

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

    @property
    def weights(self) -> tuple[float, float] | None:
        """(accuracy, format) where they are set; None: those of the task."""
        if self.accuracy_weight is None or self.format_weight is None:
            return None
        return self.accuracy_weight, self.format_weight

    @classmethod
    def read(cls, section: Fields | None, where: str = "reward.reward_kwargs") -> "RewardSettings":
        """Settings from a plain mapping.

        Raises:
            ValueError: an unknown key or an impossible value; one line per fault, each naming ``where`` and the key.
        """
        return cls.from_mapping(section, where) if section else DEFAULTS


DEFAULTS = RewardSettings()


@lru_cache(maxsize=64)
def _from_items(items: tuple[tuple[str, object], ...]) -> RewardSettings:
    return RewardSettings.read(dict(items), "compute_score")


def from_kwargs(kwargs: Fields) -> RewardSettings:
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
