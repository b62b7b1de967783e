"""PAPO (arXiv 2507.06448) as a method: a push away from what the policy says with parts of the images hidden.

The mathematics is in :mod:`verl_mars.algos.papo`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.papo import perception_advantage
from verl_mars.methods.base import Inputs, Result, RowsToView, TokenValues, ViewContext, mean_over
from verl_mars.methods.reshaping import MASKED_FIELDS, Reshaping, ReshapingSettings, masked_views
from verl_mars.views import RescoreView

if TYPE_CHECKING:
    from omegaconf import DictConfig


class PapoSettings(ReshapingSettings):
    """Settings under ``algorithm.papo``. Defaults are the paper's for GRPO on a 3B model."""

    mask_ratio: float = Field(default=0.6, ge=0, le=1)
    """Probability that a 14-pixel patch of an image is black in the masked view."""

    gamma: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    """Weight of the perception term. The paper has 0.01 where no KL term holds the policy to its reference."""

    eta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the entropy term. The paper has 0.05 for GRPO on 7B and 0.03 for DAPO."""

    max_divergence: float = Field(default=10.0, ge=0)
    """A token whose KL3 is above it is not pulled. 10: the clamp of the released code's framework; 0.2: its
    ``kl_prcp_clipping``, which its scripts leave off."""


class Papo(Reshaping):
    """The base's advantages plus a pull away from the masked view."""

    name = "papo"
    Settings = PapoSettings
    view_fields = MASKED_FIELDS

    def faults(self, config: "DictConfig") -> Iterator[str]:
        yield from super().faults(config)
        if self.exact:
            yield (
                "algorithm.papo.divergence = 'exact': the perception term is one of the sampled token, and a "
                "divergence over the vocabulary has no place in it; leave it at sampled"
            )

    def views(self, rows: RowsToView, context: ViewContext) -> Sequence[RescoreView | None]:
        """Every response with patches of its images black."""
        return masked_views(rows, context, self.settings.mask_ratio)

    def reshape(self, advantages: torch.Tensor, inputs: Inputs) -> Result:
        settings = self.settings
        both = self.log_probs_of_both(inputs)
        dependency = sampled_dependency(*both)
        added = perception_advantage(*both, settings.gamma, settings.eta, settings.max_divergence)
        shaped = advantages + (added * inputs.inside).to(advantages)
        tokens = {
            "dependency": TokenValues(dependency, "divergence of the policy with masked images, nats"),
            "pull": TokenValues(added - settings.eta, "advantage by perception"),
        }
        return Result(shaped, tokens, (dependency, added - settings.eta))

    def own_metrics(self, inputs: Inputs, details: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """``papo/perception_kl`` and ``papo/pull``, means over the response tokens, and ``papo/clipped_tokens``, the
        share whose divergence is above the clip."""
        dependency, pull = details
        metrics = mean_over("papo/perception_kl", dependency, inputs.inside)
        metrics |= mean_over("papo/pull", pull, inputs.inside)
        clipped = dependency > self.settings.max_divergence
        return metrics | mean_over("papo/clipped_tokens", clipped, inputs.inside)
