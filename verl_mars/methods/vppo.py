"""VPPO (arXiv 2510.09285) as a method: gradient for the tokens, and weight for the responses, that need the images.

The mathematics is in :mod:`verl_mars.algos.vppo`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.vppo import pivotal_tokens, response_scale
from verl_mars.methods.base import Inputs, Result, RowsToView, TokenValues, ViewContext, mean_over
from verl_mars.methods.reshaping import MASKED_FIELDS, Reshaping, ReshapingSettings, masked_views
from verl_mars.views import RescoreView

if TYPE_CHECKING:
    from omegaconf import DictConfig


class VppoSettings(ReshapingSettings):
    """Settings under ``algorithm.vppo``. Defaults are the paper's, but for ``eta``."""

    mask_ratio: float = Field(default=0.5, ge=0, le=1)
    """Probability that a 14-pixel patch of an image is black in the masked view."""

    token_share: float = Field(default=0.4, gt=0, le=1)
    """Share of a response's tokens that keep their gradient."""

    scale_min: float = Field(default=0.9, ge=0, allow_inf_nan=False)
    scale_max: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Factors of a response's advantage, from the least to the most dependent of the batch. ``scale_max`` None: such
    that the mean factor is 1. 1 and 1 leave advantages as they are."""

    eta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the entropy term, on every response token. The paper has 0.06, in both of its arms."""

    max_dependency: float = Field(default=10.0, gt=0)
    """A larger dependency counts as this much: the clamp of the released code."""


class Vppo(Reshaping):
    """The base's advantages on pivotal tokens alone, scaled by a response's mean dependency."""

    name = "vppo"
    Settings = VppoSettings
    view_fields = MASKED_FIELDS

    def faults(self, config: "DictConfig") -> Iterator[str]:
        yield from super().faults(config)
        low, high = self.settings.scale_min, self.settings.scale_max
        if low > (1.0 if high is None else high):
            yield (
                f"algorithm.vppo.scale_min = {low}, scale_max = {high}: scale_min must be at most scale_max, and at "
                "most 1 where that is null"
            )

    def views(self, rows: RowsToView, context: ViewContext) -> Sequence[RescoreView | None]:
        """Every response with patches of its images black."""
        return masked_views(rows, context, self.settings.mask_ratio)

    def reshape(self, advantages: torch.Tensor, inputs: Inputs) -> Result:
        settings = self.settings
        dependency = inputs.divergence
        if dependency is None:
            dependency = sampled_dependency(*self.log_probs_of_both(inputs))
        dependency = dependency.clamp(max=settings.max_dependency)
        pivotal = pivotal_tokens(dependency, inputs.response_mask, settings.token_share)
        scale = response_scale(
            dependency, inputs.response_mask, inputs.real, settings.scale_min, settings.scale_max
        )  # (B,)
        shaped = advantages * (scale[:, None] * pivotal).to(advantages) + (settings.eta * inputs.inside).to(advantages)
        tokens = {
            "dependency": TokenValues(dependency, "divergence of the policy with masked images, nats"),
            "pivotal": TokenValues(pivotal, "whether the token keeps its gradient"),
        }
        return Result(shaped, tokens, (dependency, pivotal, scale))

    def own_metrics(self, inputs: Inputs, details: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """``vppo/dependency_mean`` over the response tokens, ``vppo/pivotal_dependency`` over those that keep their
        gradient, and ``vppo/scale_max``, the largest factor of a response."""
        dependency, pivotal, scale = details
        metrics = mean_over("vppo/dependency_mean", dependency, inputs.inside)
        metrics |= mean_over("vppo/pivotal_dependency", dependency, inputs.inside & pivotal)
        if inputs.real.any():
            metrics["vppo/scale_max"] = scale[inputs.real].max().item()
        return metrics
