"""The configuration under ``algorithm.mars``, validated before any model is loaded."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class MarsSettings(BaseModel):
    """What a user may set under ``algorithm.mars``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    anchors_per_source: int = Field(default=1, ge=1, le=64)
    """Mono sessions of each source. 1: greedy, as the authors do. Above 1: sampled like the fused rollouts."""

    mono_prompt: Literal["repeat", "drop"] = "repeat"
    """How the fused text is shown with one source, where the row has no prompt of the source's own. ``repeat``: the
    source's images fill every image placeholder (the authors' way); ``drop``: the other placeholders are left out."""

    anchor_timeout_seconds: float = Field(default=600.0, gt=0)
    """A mono session that takes longer counts as failed: its anchor is missing, its group goes on."""

    anchor_max_tokens: int | None = Field(default=None, ge=1)
    """Longest response of a mono session, in tokens; a longer one is cut there and scored as it is. None: as long as a
    fused one (``data.max_response_length``)."""

    anchor_every: int = Field(default=1, ge=1)
    """An anchor is used for so many epochs before its mono session is run again. 1: it is never used twice."""

    filter_on: Literal["union", "fused"] = "union"
    """What ``algorithm.filter_groups`` (DAPO's dynamic sampling) looks at. ``union``: a group is dropped when its fused
    rewards and its anchors are all equal; ``fused``: when its fused rewards are, whatever its anchors say."""

    check_data: bool = True
    """Read every row and the header of every image of the training files before the models load."""

    @classmethod
    def from_algorithm(cls, algorithm: Any) -> "MarsSettings":
        """Settings of a run from its ``algorithm`` section (any mapping, an OmegaConf ``DictConfig`` included).

        Raises:
            ValueError: an unknown key or an impossible value, each named with what is allowed.
        """
        section = algorithm.get("mars", None) if algorithm is not None else None
        if section is None:
            return cls()
        if not isinstance(section, Mapping) and not hasattr(section, "items"):
            raise ValueError(f"algorithm.mars must be a mapping of settings, got {section!r}")
        try:
            return cls(**dict(section.items()))
        except ValidationError as error:
            raise ValueError("\n".join(_sentence(fault) for fault in error.errors())) from None


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(MarsSettings.model_fields))
        return f"algorithm.mars.{key} is not a setting; allowed: {allowed}"
    return f"algorithm.mars.{key} = {fault['input']!r}: {fault['msg']}"
