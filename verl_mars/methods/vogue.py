"""VOGUE (arXiv 2510.01444) as a method: noisy groups, and bonuses for uncertain perception and uncertain output.

The mathematics is in :mod:`verl_mars.algos.vogue`.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from verl_mars.algos.vogue import (
    Bonus,
    noisy_probability,
    paper_advantages,
    paper_share,
    released_advantages,
    released_entropy,
    released_share,
    sampled_divergence,
    symmetric_divergence,
)
from verl_mars.methods.base import (
    Inputs,
    Presentation,
    PromptContext,
    Result,
    RowsToView,
    TokenValues,
    ViewContext,
    mean_over,
)
from verl_mars.methods.reshaping import Reshaping, ReshapingSettings
from verl_mars.rows import NOISY, OTHER_VISUAL_INPUTS
from verl_mars.views import Noise, Noisy, OtherPixels, RescoreView, Row, with_images

if TYPE_CHECKING:
    from omegaconf import DictConfig


class VogueSettings(ReshapingSettings):
    """Settings under ``algorithm.vogue``. Defaults are the paper's."""

    variant: Literal["paper", "released"] = "paper"
    """``paper``: noisy groups are rolled out and trained on noisy images. ``released``: the authors' code; every group
    is rolled out and trained on raw images, and noisy groups are only rescored under their noisy view."""

    perception_alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    perception_beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """The bonus for perception is min(|A| / beta, alpha * divergence), in noisy groups."""

    output_alpha: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    output_beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """The bonus for output is min(|A| / beta, alpha * entropy), in all groups."""

    noisy_start: float = Field(default=1.0, ge=0, le=1)
    noisy_end: float = Field(default=0.0, ge=0, le=1)
    """Share of noisy groups at step 0 and at the last step, linear in between. 0.5 and 0.5: the paper's ablation."""

    noise: Noise = Noise()
    """How images are perturbed."""


class Vogue(Reshaping):
    """Exploration bonuses from the divergence between the raw and the noisy view and from the entropy.

    Each training prompt's group is noisy with a probability that falls over the training. In the variant ``paper``
    every session of a noisy group, mono sessions included, is rolled out on the noisy images, and its rows carry the
    raw ones to be rescored under; in ``released`` it is the other way round. Images are perturbed at the size at which
    the model sees them, by draws that depend on the run's seed, the prompt and the step alone.
    """

    name = "vogue"
    Settings = VogueSettings
    fields = (NOISY,)
    needs_entropy = True
    view_pixels = OTHER_VISUAL_INPUTS

    def __init__(self, algorithm: "DictConfig | None" = None) -> None:
        super().__init__(algorithm)
        # With `exact` the pixels stay in the store; the workers read them there.
        self.view_fields = (NOISY,) if self.exact else (NOISY, OTHER_VISUAL_INPUTS)

    def faults(self, config: "DictConfig") -> Iterator[str]:
        yield from super().faults(config)
        paper = self.settings.variant == "paper"
        share = (paper_share if paper else released_share)(*self._bonuses)
        if share > 1 + 1e-9:
            yield (
                f"algorithm.vogue.perception_beta = {self.settings.perception_beta} and output_beta = "
                f"{self.settings.output_beta}: the bonuses may come to {share:.3g} |A| and turn the negative advantage "
                "of a wrong answer into a positive one; "
                f"{'1/perception_beta + 1/output_beta' if paper else '1/beta of each'} must be at most 1 "
                "(2 and 2 are the paper's)"
            )
        if self.settings.variant == "paper" and self.anchor_epochs > 1:
            yield (
                f"algorithm.{self.base_name}.anchor_every = {self.anchor_epochs} with adv_estimator=vogue, "
                f"variant=paper and base={self.base_name}: an anchor of a noisy group would be used again for a raw "
                "one; set anchor_every to 1, or variant to released"
            )

    async def present(self, prompt: Row, context: PromptContext) -> Presentation:
        """Draw the prompt's branch, and perturb its images in a noisy one.

        Raises:
            ValueError: the prompt has videos or audio.
        """
        settings = self.settings
        share = noisy_probability(context.step, context.total_steps, settings.noisy_start, settings.noisy_end)
        noisy = context.seed("branch") / 2**31 < share
        images = await context.load_images(prompt["raw_prompt"]) if noisy else []
        prompt = {**prompt, NOISY: bool(images)}
        if not images:
            return Presentation(prompt, other_images=[])
        task = (prompt.get("extra_info") or {}).get("task")
        perturbed = await asyncio.to_thread(Noisy(settings.noise, context.seed("noise")).perturb, images, task)
        if settings.variant == "released":
            return Presentation(prompt, prompt["raw_prompt"], other_images=perturbed)
        # The stored messages name the images; the perturbed ones are not worth keeping.
        return Presentation(with_images(prompt, perturbed), prompt["raw_prompt"], other_images=images)

    def views(self, rows: RowsToView, context: ViewContext) -> Sequence[RescoreView | None]:
        """Responses of noisy groups with the images they were not rolled out on, if those were fetched."""
        noisy = rows.fields[NOISY]
        pixels = rows.fields.get(OTHER_VISUAL_INPUTS) or [{}] * len(noisy)
        triples = zip(noisy, pixels, rows.real, strict=True)
        return [OtherPixels(inputs) if is_noisy and real else None for is_noisy, inputs, real in triples]

    def reshape(self, advantages: torch.Tensor, inputs: Inputs) -> Result:
        settings = self.settings
        log_probs, view_log_probs = self.log_probs_of_both(inputs)
        noisy = self._noisy(inputs)
        if inputs.divergence is not None and inputs.reverse_divergence is not None:
            divergence = symmetric_divergence(inputs.divergence, inputs.reverse_divergence)
        else:
            divergence = sampled_divergence(log_probs, view_log_probs)
        if settings.variant == "paper":
            if inputs.entropy is None:
                raise ValueError(
                    "algorithm.vogue.variant=paper needs the entropy that verl's old-log-prob pass computes"
                )
            shape, entropy = paper_advantages, inputs.entropy.double().clamp(min=0)
        else:
            shape, entropy = released_advantages, released_entropy(log_probs, view_log_probs, noisy)
        shaped = shape(advantages.double(), entropy, divergence, noisy, *self._bonuses)
        tokens = {"uncertainty": TokenValues(divergence, "divergence between the raw and the noisy view, nats")}
        return Result((shaped * inputs.response_mask).to(advantages), tokens, divergence)

    def own_metrics(self, inputs: Inputs, details: torch.Tensor) -> dict[str, float]:
        """``vogue/uncertainty``, mean divergence in noisy groups, and ``vogue/noisy_share`` of the groups."""
        noisy = self._noisy(inputs)
        metrics = mean_over("vogue/uncertainty", details, inputs.inside & noisy[:, None])
        groups = {uid: bool(flag) for uid, flag, real in zip(inputs.index, noisy, inputs.real, strict=True) if real}
        if groups:
            metrics["vogue/noisy_share"] = sum(groups.values()) / len(groups)
        return metrics

    @property
    def _bonuses(self) -> tuple[Bonus, Bonus]:
        """For perception and for output."""
        settings = self.settings
        perception = Bonus(settings.perception_alpha, settings.perception_beta)
        return perception, Bonus(settings.output_alpha, settings.output_beta)

    def _noisy(self, inputs: Inputs) -> torch.Tensor:
        """(B,) bool: real rows of noisy groups."""
        if NOISY not in inputs.fields:
            raise self.missing("noisy groups")
        return torch.tensor(inputs.fields[NOISY], dtype=torch.bool) & inputs.real
