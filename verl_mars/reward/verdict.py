"""What a task's scorer says about one answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_mars.reward.settings import RewardSettings
from verl_mars.reward.truth import Row


@dataclass(frozen=True, slots=True)
class Verdict:
    """``acc`` in [0, 1]; the rest describes the answer."""

    acc: float = 0.0
    pred: str | None = None
    """The answer as it was understood, for verl's majority vote; None for a task that has no such thing."""

    error: str = ""
    """Why there was nothing to score; "" where there was."""

    form: tuple[bool, ...] = ()
    """Parts of the answer's form that only the task can judge."""

    extra: Mapping[str, float | None] = field(default_factory=dict)
    """Keys of the task."""


Scorer = Callable[[str | None, Any, Row, RewardSettings], Verdict]
"""``score(answer, ground_truth, row, settings)``; ``answer`` is None where the response has none. The ground truth is
checked all the same, so that a bad row shows at once and not when a model first answers it."""
