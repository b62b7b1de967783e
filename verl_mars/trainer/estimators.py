"""Advantage estimators with verl's signature; the mathematics is in :mod:`verl_mars.algos`."""

import contextvars
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from verl_mars.algos.mars import GroupStatistics, advantage_from_statistics, group_statistics
from verl_mars.algos.pgpo import sampled_dependency, weigh_tokens
from verl_mars.algos.vogue import (
    Bonus,
    paper_advantages,
    released_advantages,
    sampled_divergence,
    sampled_entropy,
    symmetric_divergence,
)
from verl_mars.settings import PgpoSettings, VogueSettings


@dataclass
class AnchorScope:
    """What the trainer knows of the rows of one batch and verl does not pass to estimators. Rows as in the batch."""

    anchor_scores: torch.Tensor  # (B, K), NaN = no anchor
    counted: torch.Tensor  # (B,) bool: rows that enter the group statistics
    statistics: GroupStatistics | None = None  # left by the estimator, for the metrics


_scope: contextvars.ContextVar[AnchorScope | None] = contextvars.ContextVar("verl_mars_anchor_scope", default=None)


@contextmanager
def anchor_scope(anchor_scores: torch.Tensor, counted: torch.Tensor) -> Iterator[AnchorScope]:
    """Hand the anchors of a batch to :func:`mars` for the length of verl's advantage computation."""
    scope = AnchorScope(anchor_scores, counted)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


@dataclass
class ViewScope:
    """What scoring a view says of the rows of one batch. Rows as in the batch, T response tokens, 0 beyond a response.

    The estimator leaves what it found: ``metrics`` of the step and ``tokens``, values per token for the dump.
    """

    log_probs: torch.Tensor  # (B, T) under the view that the row belongs to
    view_log_probs: torch.Tensor  # (B, T) under the scored view; the same values where there is none
    divergence: torch.Tensor | None  # (B, T) KL(own view || scored view) over the vocabulary; None: at sampled tokens
    reverse_divergence: torch.Tensor | None  # (B, T) KL(scored view || own view)
    entropy: torch.Tensor | None  # (B, T) of the policy under the row's own view
    noisy: torch.Tensor  # (B,) bool: rows of noisy groups
    real: torch.Tensor  # (B,) bool: not padding
    last_output: torch.Tensor  # (B,) long: the row of each row's session that its reward stands for
    metrics: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)


_views: contextvars.ContextVar[ViewScope | None] = contextvars.ContextVar("verl_mars_view_scope", default=None)


@contextmanager
def view_scope(scope: ViewScope) -> Iterator[ViewScope]:
    """Hand scored views to :func:`pgpo` or :func:`vogue` for the length of verl's advantage computation."""
    token = _views.set(scope)
    try:
        yield scope
    finally:
        _views.reset(token)


def mars(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Any = None,
    config: Any = None,
    anchor_scores: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """MARS advantages (arXiv 2605.25437) in verl's estimator signature.

    Args:
        token_level_rewards: (B, T); a row's reward is the sum over its tokens.
        response_mask: (B, T).
        index: (B,) prompt uids; rows in any order.
        config: verl's ``algorithm`` section; ``norm_adv_by_std_in_grpo=False`` drops the division by the std.
        anchor_scores: (B, K), NaN = no anchor. Left out inside the ``mars_*`` trainer modes, which hand them over.

    Returns:
        Advantages and returns, both (B, T): the row's advantage on its response tokens, 0 elsewhere.

    Raises:
        ValueError: called without anchors, i.e. by a trainer mode that rolls out no mono sessions; without uids; or as
            :func:`verl_mars.algos.mars.mono_anchored_advantage` says.
    """
    scope = _scope.get()
    if anchor_scores is None and scope is None:
        raise ValueError(
            "algorithm.adv_estimator=mars got no anchors: the trainer mode rolls out no mono sessions. "
            "Set trainer.v1.trainer_mode=mars_sync (and leave trainer.use_v1=true)"
        )
    if index is None:
        raise ValueError("algorithm.adv_estimator=mars needs the prompt uid of each row (`index`)")
    counted = None if scope is None else scope.counted
    anchors = scope.anchor_scores if anchor_scores is None and scope is not None else anchor_scores
    scores = token_level_rewards.sum(-1)
    statistics = group_statistics(scores, index, anchors, counted)  # type: ignore[arg-type]
    if scope is not None:
        scope.statistics = statistics
    normalize = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))
    advantages = advantage_from_statistics(scores, statistics, normalize)[:, None] * response_mask
    return advantages, advantages


def pgpo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Any = None,
    config: Any = None,
    dependency: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PGPO advantages (arXiv 2604.01840) in verl's estimator signature: the base's, spread over the tokens.

    Args:
        token_level_rewards, response_mask, index: (B, T), (B, T), (B,) as for the base estimator.
        config: verl's ``algorithm`` section with :class:`~verl_mars.settings.PgpoSettings` under ``pgpo``.
        dependency: (B, T) how much each token depends on the images. Left out inside the ``mars_*`` trainer modes,
            which score the blind view.

    Returns:
        Advantages and returns, both (B, T).

    Raises:
        ValueError: called without dependencies, i.e. by a trainer mode that scores no view; or as the base and
            :func:`verl_mars.algos.pgpo.token_weights` say.
    """
    settings, scope = PgpoSettings.from_algorithm(config), _views.get()
    if dependency is None:
        scored = _scored("pgpo", scope)
        dependency = scored.divergence
        if dependency is None:
            dependency = sampled_dependency(scored.log_probs, scored.view_log_probs)
    weighed = weigh_tokens(dependency, response_mask, settings.tau, settings.beta, settings.gate)
    advantages = _base_advantages(settings.base, token_level_rewards, response_mask, index, config, scope)
    advantages = advantages * weighed.weights.to(advantages)
    if scope is not None:
        inside = response_mask.bool() & scope.real[:, None]
        scope.metrics |= _mean("pgpo/dependency_mean", dependency, inside)
        scope.metrics |= _mean("pgpo/boosted_tokens", weighed.boosted, inside)
        scope.tokens |= {"dependency": dependency, "weight": weighed.weights}
    return advantages, advantages


def vogue(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Any = None,
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """VOGUE advantages (arXiv 2510.01444) in verl's estimator signature: the base's with bonuses for uncertainty.

    Arguments as of :func:`pgpo`, with :class:`~verl_mars.settings.VogueSettings` under ``vogue``; the scored views come
    from the ``mars_*`` trainer modes.

    Raises:
        ValueError: called by a trainer mode that scores no view, or as the base says.
    """
    settings, scope = VogueSettings.from_algorithm(config), _scored("vogue", _views.get())
    advantages = _base_advantages(settings.base, token_level_rewards, response_mask, index, config, scope)
    if scope.divergence is not None and scope.reverse_divergence is not None:
        divergence = symmetric_divergence(scope.divergence, scope.reverse_divergence)
    else:
        divergence = sampled_divergence(scope.log_probs, scope.view_log_probs)
    if settings.variant == "paper":
        if scope.entropy is None:
            raise ValueError("algorithm.vogue.variant=paper needs the entropy that verl's old-log-prob pass computes")
        shape, entropy = paper_advantages, scope.entropy.double().clamp(min=0)
    else:
        shape, entropy = released_advantages, sampled_entropy(scope.log_probs)
    perception = Bonus(settings.perception_alpha, settings.perception_beta)
    output = Bonus(settings.output_alpha, settings.output_beta)
    shaped = shape(advantages.double(), entropy, divergence, scope.noisy, perception, output)
    shaped = (shaped * response_mask).to(advantages)

    inside = response_mask.bool() & scope.real[:, None]
    scope.metrics |= _mean("vogue/uncertainty", divergence, inside & scope.noisy[:, None])
    groups = {uid: bool(noisy) for uid, noisy, real in zip(index, scope.noisy, scope.real, strict=True) if real}
    if groups:
        scope.metrics["vogue/noisy_share"] = sum(groups.values()) / len(groups)
    scope.tokens["uncertainty"] = divergence
    return shaped, shaped


def _scored(name: str, scope: ViewScope | None) -> ViewScope:
    if scope is None:
        raise ValueError(
            f"algorithm.adv_estimator={name} got no scored view: the trainer mode scores none. "
            "Set trainer.v1.trainer_mode=mars_sync (and leave trainer.use_v1=true)"
        )
    return scope


def _base_advantages(
    name: str,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Any,
    config: Any,
    scope: ViewScope | None,
) -> torch.Tensor:
    """(B, T) advantages of another estimator of verl's registry; one value to a response.

    As verl does for its own ``grpo``, a session with several outputs enters its group once, by its last output, and all
    its outputs get that advantage. Padding gets none.
    """
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    estimator = get_adv_estimator_fn(name)
    options: dict[str, Any] = {"config": config}
    if config is not None and "norm_adv_by_std_in_grpo" in inspect.signature(estimator).parameters:
        options["norm_adv_by_std_in_grpo"] = config.get("norm_adv_by_std_in_grpo", True)
    if scope is None or name == "mars":  # which counts sessions itself
        arguments = {"token_level_rewards": token_level_rewards, "response_mask": response_mask, "index": index}
        return estimator(**arguments, **options)[0]
    rows = (scope.real & (scope.last_output == torch.arange(len(scope.real)))).nonzero()[:, 0]
    mask = response_mask[rows]
    advantages, _ = estimator(
        token_level_rewards=token_level_rewards[rows],
        response_mask=mask,
        index=np.asarray(index, dtype=object)[rows.numpy()],
        **options,
    )
    first = mask.argmax(1, keepdim=True)
    values = advantages.new_zeros(len(scope.real), 1)
    values[rows] = advantages.gather(1, first)
    return values[scope.last_output] * response_mask


def _mean(name: str, values: torch.Tensor, where: torch.Tensor) -> dict[str, float]:
    """The mean over the chosen tokens as a metric; none where there is none."""
    return {name: values[where].double().mean().item()} if where.any() else {}
