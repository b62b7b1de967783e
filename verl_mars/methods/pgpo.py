"""PGPO (arXiv 2604.01840) as a method: the base's advantages, spread over the tokens by their visual dependency.

The mathematics is in :mod:`verl_mars.algos.pgpo`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.pgpo import SMALLEST_SPANS, TokenWeights, effective_tokens, weigh_tokens
from verl_mars.methods.base import Inputs, Result, RowsToView, TokenValues, ViewContext, mean_over
from verl_mars.methods.reshaping import Reshaping, ReshapingSettings, blind_view
from verl_mars.views import RescoreView


class PgpoSettings(ReshapingSettings):
    """Settings under ``algorithm.pgpo``. Defaults are the paper's."""

    tau: float = Field(default=0.4, ge=0, le=1)
    """Where suppression ends and boosting begins. 1: suppress only; 0: boost only."""

    beta: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """The most that boosting adds to a token's weight before a response's weights are scaled to its length."""

    gate: Literal["absolute", "quantile"] = "absolute"
    """``absolute``: ``tau`` is a normalised dependency. ``quantile``: it is the share of a response's tokens."""

    min_span: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """A response whose dependencies span no more than this, in log(1 + nats), has weights of 1. None: by the type of
    the forward pass, so that the noise between two passes is not stretched to whole weights."""

    max_weight: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Largest weight; what is cut off is spread evenly over the response's other tokens. None: none, the paper."""

    max_dependency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """A larger dependency counts as this much. None: none. 10: the clamp of EasyR1, which the paper trains with."""


class Pgpo(Reshaping):
    """Token weights from the divergence between the fused and the blind view."""

    name = "pgpo"
    Settings = PgpoSettings

    def views(self, rows: RowsToView, context: ViewContext) -> Sequence[RescoreView | None]:
        """Every response without the images of its prompt."""
        blind = blind_view(context.processor)
        return [blind if real else None for real in rows.real]

    def reshape(self, advantages: torch.Tensor, inputs: Inputs) -> Result:
        settings = self.settings
        dependency = inputs.divergence
        if dependency is None:
            dependency = sampled_dependency(*self.log_probs_of_both(inputs))
        min_span = SMALLEST_SPANS[inputs.forward_type] if settings.min_span is None else settings.min_span
        weighed = weigh_tokens(
            dependency,
            inputs.response_mask,
            settings.tau,
            settings.beta,
            settings.gate,
            min_span,
            settings.max_weight,
            settings.max_dependency,
        )
        tokens = {
            "dependency": TokenValues(dependency, "divergence of the policy without images, nats"),
            "weight": TokenValues(weighed.weights, "weight of the token's advantage"),
        }
        return Result(advantages * weighed.weights.to(advantages), tokens, (dependency, weighed))

    def own_metrics(self, inputs: Inputs, details: tuple[torch.Tensor, TokenWeights]) -> dict[str, float]:
        """``pgpo/dependency_mean``, ``pgpo/boosted_tokens`` and ``pgpo/weight_max`` over the response tokens of the
        batch, and ``pgpo/effective_tokens``, a mean over its responses."""
        dependency, weighed = details
        metrics = mean_over("pgpo/dependency_mean", dependency, inputs.inside)
        metrics |= mean_over("pgpo/boosted_tokens", weighed.boosted, inputs.inside)
        if inputs.inside.any():
            metrics["pgpo/weight_max"] = weighed.weights[inputs.inside].max().item()
        share = effective_tokens(weighed.weights, inputs.response_mask)
        return metrics | mean_over("pgpo/effective_tokens", share, inputs.inside.any(1))
