"""Where the information gain of MARS acts and how strongly: options beyond the authors' formula.

    A_i = (r_i - mean r + g lambda D) / max(std U + 1e-6, floor)          D = mean r - mean m

g is 0 for a group whose *gate* is closed, else 1. A closed group loses its anchors altogether: U is then its fused
rewards, and its advantages are GRPO's. The authors' formula (arXiv 2605.25437) has every gate open, no floor and
lambda = K / (G + K); :func:`anchored_advantage` is then bit-identical to
:func:`verl_mars.algos.mars.mono_anchored_advantage`.

Why options: an anchor that breaks the required form scores 0 although its source says nothing about the answer. Where
every fused answer is wrong but in form, D > 0 then pushes all of them up: A = +0.37 for 14 answers of score 1/3 and two
anchors of 0, and as much if the anchors were only 1e-4 lower, since std U shrinks with D.

Shapes: B rows (trajectories), N groups (prompts), G fused rollouts of a group, K anchors of a prompt.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from verl_mars.algos.mars import EPSILON, Groups, GroupStatistics, dense_groups, extremes

Gate = Literal["none", "solved", "unsolved_or_mixed"]

NEGLIGIBLE = 1e-9
"""A shift below this share of the largest reward is rounding of the means, not a signal."""


@dataclass(frozen=True)
class GroupAccuracy:
    """The accuracy of the fused rollouts of N groups, NaN for a group without a counted row."""

    lowest: torch.Tensor  # (N,)
    highest: torch.Tensor  # (N,)

    @property
    def unsolved(self) -> torch.Tensor:
        """(N,) bool: no fused rollout is right."""
        return self.highest <= 0

    @property
    def solved(self) -> torch.Tensor:
        """(N,) bool: every fused rollout is right."""
        return self.lowest >= 1


def group_accuracy(accuracy: torch.Tensor, stats: GroupStatistics, counted: torch.Tensor) -> GroupAccuracy:
    """Lowest and highest accuracy among the counted rows of each group.

    Args:
        accuracy: (B,) from 0 (wrong) to 1 (right).
        stats: statistics of the same rows.
        counted: (B,) bool, the rows that enter the statistics.

    Raises:
        ValueError: shapes do not fit, or the accuracy of a counted row is not a number.
    """
    if accuracy.shape != stats.group_of_row.shape or counted.shape != accuracy.shape:
        raise ValueError(
            f"accuracy and counted must be (B,) = {tuple(stats.group_of_row.shape)}; "
            f"got {tuple(accuracy.shape)} and {tuple(counted.shape)}"
        )
    if not bool(accuracy[counted].isfinite().all()):
        raise ValueError(f"{int((counted & ~accuracy.isfinite()).sum())} fused rollouts have no finite accuracy")
    values = torch.where(counted, accuracy.detach().double(), torch.nan)
    low, high = extremes(values, stats.group_of_row, torch.zeros_like(stats.num_fused))
    present = stats.num_fused > 0
    return GroupAccuracy(torch.where(present, low, torch.nan), torch.where(present, high, torch.nan))


def open_gates(stats: GroupStatistics, accuracy: GroupAccuracy | None, gate: Gate) -> torch.Tensor:
    """(N,) bool: the groups whose anchors may act.

    - ``none``: all of them, the authors' formula.
    - ``solved``: not where the gain is positive and no fused rollout is right. A wrong answer is never pushed up.
    - ``unsolved_or_mixed``: not where every fused rollout is right. An ablation: on such a group the shift is the only
      signal.

    Raises:
        ValueError: an unknown gate, or one that needs the accuracy of the fused rollouts without it.
    """
    if gate not in get_args(Gate):
        raise ValueError(f"gate = {gate!r}: allowed are {', '.join(get_args(Gate))}")
    if gate == "none":
        return torch.ones_like(stats.num_fused, dtype=torch.bool)
    if accuracy is None:
        raise ValueError(f"gate = {gate!r} needs the accuracy of the fused rollouts")
    if gate == "solved":
        return ~((stats.information_gain > 0) & accuracy.unsolved)
    return ~accuracy.solved


def accuracy_anchors(
    scores: torch.Tensor,
    accuracy: torch.Tensor,
    groups: Groups,
    anchor_accuracy: torch.Tensor,
    weight: torch.Tensor,
    counted: torch.Tensor,
) -> torch.Tensor:
    """Anchors that differ from their group by accuracy alone: m'_k = mean r + w (acc(m_k) - mean acc(r)).

    The anchor's form and length penalty are taken to be the group's. The gain is then w (mean acc(r) - mean acc(m)).
    Where the score is w times the accuracy, and for a group in perfect form with anchors in perfect form, this is m_k.

    Args:
        scores, accuracy: (B,) fused rewards and their accuracy.
        groups: (B,) group of each row.
        anchor_accuracy: (B, K), the same in all rows of a group; NaN = no anchor.
        weight: (B,) w, what an accuracy of 1 adds to the score of the row's task.
        counted: (B,) bool, the rows that enter the means.

    Returns:
        (B, K) in float64.

    Raises:
        ValueError: shapes do not fit.
    """
    shape = scores.shape
    if accuracy.shape != shape or weight.shape != shape or counted.shape != shape or anchor_accuracy.dim() != 2:
        raise ValueError(
            "scores, accuracy, weight and counted must be (B,) and anchor_accuracy (B, K); got scores "
            f"{tuple(shape)}, accuracy {tuple(accuracy.shape)}, weight {tuple(weight.shape)}, counted "
            f"{tuple(counted.shape)} and anchor_accuracy {tuple(anchor_accuracy.shape)}"
        )
    names, row = dense_groups(groups, scores.device)
    zeros = torch.zeros(len(names), dtype=torch.float64, device=scores.device)
    size = zeros.index_add(0, row, counted.double())

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (zeros.index_add(0, row, torch.where(counted, values.detach().double(), 0.0)) / size)[row][:, None]

    return mean(scores) + weight.double()[:, None] * (anchor_accuracy.detach().double() - mean(accuracy))


def closed_out(anchors: torch.Tensor, stats: GroupStatistics, gates: torch.Tensor) -> torch.Tensor:
    """(B, K) anchors with NaN, no anchor, in the rows of groups whose gate is closed."""
    return torch.where(gates[stats.group_of_row][:, None], anchors, torch.nan)


def anchored_advantage(
    scores: torch.Tensor, stats: GroupStatistics, normalize: bool, gain_weight: float | None, std_floor: float
) -> torch.Tensor:
    """The advantage of each row, (B,) in float32 (float64 for float64 scores).

    Args:
        scores: (B,) fused rewards.
        stats: statistics with the anchors that act; see :func:`closed_out`.
        normalize: divide by the scale; without it the advantage is the numerator (Dr.GRPO).
        gain_weight: lambda. None: K / (G + K), the weight that the anchors have as members of U.
        std_floor: smallest scale. 0: none.
    """
    shift = group_shift(stats, gain_weight)
    size = stats.num_fused + stats.num_anchors
    plain = torch.where(size > 1, stats.union_mean, 0.0)
    center = plain if gain_weight is None else torch.where(stats.num_anchors > 0, stats.fused_mean - shift, plain)
    row = stats.group_of_row
    advantage = scores.detach().double() - center[row]
    if normalize:
        advantage = advantage / group_scale(stats, std_floor)[row]
    # A score that is not finite is of a row that does not count: others are refused with the statistics.
    advantage = torch.where((stats.num_fused > 0)[row] & scores.isfinite(), advantage, 0.0)
    return advantage.to(torch.promote_types(scores.dtype, torch.float32))


def group_shift(stats: GroupStatistics, gain_weight: float | None) -> torch.Tensor:
    """(N,) lambda D, what the anchors add to every numerator of a group; 0 for a group without an anchor."""
    weight = stats.num_anchors / (stats.num_fused + stats.num_anchors) if gain_weight is None else gain_weight
    return torch.where((stats.num_anchors > 0) & (stats.num_fused > 0), weight * stats.information_gain, 0.0)


def group_scale(stats: GroupStatistics, std_floor: float) -> torch.Tensor:
    """(N,) max(std U + 1e-6, floor); std U is 1 where U has one member, as in verl."""
    std = torch.where(stats.num_fused + stats.num_anchors > 1, stats.union_std, 1.0)
    return (std + EPSILON).clamp(min=std_floor)


def teaches(stats: GroupStatistics, gain_weight: float | None) -> torch.Tensor:
    """(N,) bool: an advantage of the group differs from 0, beyond rounding. Dynamic sampling keeps these groups."""
    largest = stats.union_mean.abs() + stats.union_std.nan_to_num()
    moved = group_shift(stats, gain_weight).abs() > NEGLIGIBLE * largest
    return (stats.num_fused > 0) & (~stats.fused_is_constant | (moved & ~stats.union_is_constant))


@dataclass(frozen=True)
class GainEffect:
    """What the shift did to a batch; shares are 0 where there is nothing to share."""

    rescued_up: float
    """Share of the groups whose fused rewards are equal and whose rollouts are all pushed up."""
    rescued_down: float
    """The same, pushed down."""
    shift_share: float
    """Sum over groups of |G lambda D / scale| over the sum over rows of |A|."""
    pushed_up_unsolved: float | None
    """Share of the groups without a right rollout whose mean advantage is positive; None: accuracy is not known."""
    shift_share_solved: float | None
    """The part of ``shift_share`` that falls on groups whose rollouts are all right."""


def gain_effect(
    advantages: torch.Tensor,
    stats: GroupStatistics,
    counted: torch.Tensor,
    accuracy: GroupAccuracy | None,
    gain_weight: float | None,
    std_floor: float,
    normalize: bool,
) -> GainEffect:
    """Measure the shift in a batch.

    Args:
        advantages: (B,) of :func:`anchored_advantage`, of the same ``stats``, ``gain_weight``, ``std_floor`` and
            ``normalize``.
        counted: (B,) bool, the rows that enter the statistics.
        accuracy: of the groups, where the reward function says it.
    """
    real = stats.num_fused > 0
    shift = group_shift(stats, gain_weight)
    moves = teaches(stats, gain_weight) & (shift.abs() > 0)
    up, down = real & moves & (shift > 0), real & moves & (shift < 0)
    scale = group_scale(stats, std_floor) if normalize else torch.ones_like(shift)
    mass = torch.where(real & moves, stats.num_fused * (shift / scale).abs(), 0.0)
    whole = float(torch.where(counted, advantages.double().abs(), 0.0).sum())

    def share(chosen: torch.Tensor) -> float:
        return float(chosen.double().sum() / real.double().sum()) if bool(real.any()) else 0.0

    def of_whole(part: torch.Tensor) -> float:
        return float(part.sum()) / whole if whole > 0 else 0.0

    return GainEffect(
        rescued_up=share(up & stats.fused_is_constant),
        rescued_down=share(down & stats.fused_is_constant),
        shift_share=of_whole(mass),
        pushed_up_unsolved=None if accuracy is None else share(up & accuracy.unsolved),
        shift_share_solved=None if accuracy is None else of_whole(mass[accuracy.solved]),
    )
