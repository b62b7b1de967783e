"""Advantage estimators with verl's signature; the mathematics is in :mod:`verl_mars.algos`."""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from verl_mars.algos.mars import GroupStatistics, advantage_from_statistics, group_statistics


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
