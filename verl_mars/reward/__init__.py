"""Rewards for answers to multi-source prompts: one scorer per task, and the reward manager ``mars`` for verl.

``compute_score`` is the whole of it; it can also be given to any of verl's managers as a
``reward.custom_reward_function`` (this file's path, name ``compute_score``). The manager, ``verl_mars.reward.manager``,
adds what only it can know: the model's coordinate frame, whether the response was cut off, DAPO's overlong penalty.
Nothing here imports verl or torch.
"""

from typing import Any

from verl_mars.fields import FieldDict, Fields


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Fields | None = None,
    **settings: Any,
) -> FieldDict:
    """Score one response. See :func:`verl_mars.reward.score.compute_score`, which this calls."""
    from verl_mars.reward.score import compute_score as score

    return score(data_source, solution_str, ground_truth, extra_info, **settings)


__all__ = ["compute_score"]
