"""The configuration under ``algorithm.mars``, ``.pgpo`` and ``.vogue``, validated before any model is loaded."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from verl_mars import config

Section = TypeVar("Section", bound="Settings")


class Settings(config.Settings):
    """One section of ``algorithm``."""

    section: ClassVar[str]

    @classmethod
    def from_algorithm(cls: type[Section], algorithm: Any) -> Section:
        """Settings of a run from its ``algorithm`` section (any mapping, an OmegaConf ``DictConfig`` included).

        Raises:
            UserError: an unknown key or an impossible value, each named with what is allowed.
        """
        values = algorithm.get(cls.section, None) if algorithm is not None else None
        return cls.from_mapping(values, f"algorithm.{cls.section}")


class MarsSettings(Settings):
    """What a user may set under ``algorithm.mars``."""

    section = "mars"

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
    """Read every row and the header of every image of the training files, and count the tokens of every prompt, before
    the models load."""


GroupEstimator = Literal[
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "rloo",
    "rloo_vectorized",
    "opo",
    "gpg",
    "reinforce_plus_plus_baseline",
    "mars",
]
"""Estimators that give every token of a response one advantage, from the rewards of its group alone."""


Divergence = Literal["sampled", "exact"]


class PgpoSettings(Settings):
    """What a user may set under ``algorithm.pgpo``. Defaults are the paper's."""

    section = "pgpo"

    base: GroupEstimator = "grpo"
    """The estimator whose advantages are spread over the tokens."""

    tau: float = Field(default=0.4, ge=0, le=1)
    """Where suppression ends and boosting begins. 1: suppress only; 0: boost only."""

    beta: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """The most that boosting adds to a token's weight before a response's weights are brought to its length."""

    gate: Literal["absolute", "quantile"] = "absolute"
    """``absolute``: ``tau`` is a normalised dependency. ``quantile``: it is the share of a response's tokens."""

    divergence: Divergence = "sampled"
    """``sampled``: the estimate at the sampled token, as in the paper. ``exact``: over the whole vocabulary, by one
    forward pass more; needs FSDP without sequence parallelism and without fused kernels."""


class NoiseSettings(config.Settings):
    """What a user may set under ``algorithm.vogue.noise``: how images are perturbed, each on its own."""

    sigma: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    """Standard deviation of Gaussian noise on pixels from 0 to 1. 0: none."""

    flips: bool = True
    """Mirror left-right and upside-down, each with probability 1/2, in ``turnable_tasks``."""

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    """Turn by an angle up to this, either way, in ``turnable_tasks``. 0: never."""

    brightness: float = Field(default=0.15, ge=0, le=1)
    contrast: float = Field(default=0.15, ge=0, le=1)
    """Multiply by a factor of 1 +- this. 0: never."""

    turnable_tasks: tuple[str, ...] = Field(default=("count", "math"), strict=False)
    """Tasks (``extra_info.task``) whose answers stay right when an image is flipped or turned."""


class VogueSettings(Settings):
    """What a user may set under ``algorithm.vogue``. Defaults are the paper's."""

    section = "vogue"

    base: GroupEstimator = "grpo"
    """The estimator whose advantages get the bonuses."""

    variant: Literal["paper", "released"] = "paper"
    """``paper``: noisy groups are rolled out and trained on noisy images. ``released``: the authors' code; every group
    is rolled out and trained on raw images, and the noisy view of noisy groups is only scored."""

    divergence: Divergence = "sampled"
    """How far the noisy view moves the policy. ``sampled``: at the sampled token, as in the authors' code. ``exact``:
    over the whole vocabulary, as in the paper, by one forward pass more; needs FSDP without sequence parallelism and
    without fused kernels."""

    perception_alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    perception_beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """The bonus for perception is min(|A| / beta, alpha * divergence), in noisy groups."""

    output_alpha: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    output_beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """The bonus for output is min(|A| / beta, alpha * entropy), in all groups."""

    noisy_start: float = Field(default=1.0, ge=0, le=1)
    noisy_end: float = Field(default=0.0, ge=0, le=1)
    """Share of noisy groups at step 0 and at the last step; on a line in between. 0.5 and 0.5: the paper's ablation."""

    noise: NoiseSettings = NoiseSettings()
    """How images are perturbed."""


RESHAPED: Mapping[str, type[PgpoSettings] | type[VogueSettings]] = {"pgpo": PgpoSettings, "vogue": VogueSettings}
"""Estimators that reshape the advantages of a base estimator, by what scoring a view says."""


def group_estimator(algorithm: Any) -> str:
    """The estimator that turns a group's rewards into advantages: a reshaping one's ``base``, or the run's own."""
    name = str(algorithm.adv_estimator)
    return RESHAPED[name].from_algorithm(algorithm).base if name in RESHAPED else name
