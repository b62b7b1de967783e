"""Which step of a run of ``step_time.py`` or ``gpu_steps.py`` belongs to which arm."""

import itertools
import os
from collections.abc import Mapping
from functools import cache

ARMS = tuple(os.environ.get("STEP_TIME_ARMS", "grpo,mars,two_phase").split(","))
"""From the environment, because every process of a run asks."""
WITH_ANCHORS = ("mars", "two_phase")


@cache
def orders(arms: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The orders that blocks take in turn: of three arms all; of more, as many as bring each arm to each place."""
    if len(arms) <= 3:
        return tuple(itertools.permutations(arms))
    starts = (2 * block % len(arms) for block in range(len(arms)))
    return tuple(arms[start:] + arms[:start] for start in starts)


def arm_of(step: int, arms: tuple[str, ...] = ARMS) -> str:
    """The arm of a step, from 1 on. A block of steps has all arms once; the next block has another order."""
    block, place = divmod(step - 1, len(arms))
    found = orders(arms)
    return found[block % len(found)][place]


def refuse_other_arm(step: int, arm: str, metrics: Mapping[str, float]) -> None:
    """End the benchmark if a step did not do what its arm does.

    Raises:
        SystemExit: an arm with anchors rolled out none, or one without did.
    """
    tokens = metrics.get("mars/anchor_tokens", 0.0)
    if (tokens > 0) != (arm in WITH_ANCHORS):
        raise SystemExit(f"step {step} is not of arm {arm}: it has {tokens:g} tokens of anchors")
