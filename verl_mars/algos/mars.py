"""MARS (arXiv 2605.25437): mono-source rewards as anchors of the group statistics.

Every source of a prompt, shown alone, gives a reward: its *anchor*. The anchors join the fused rewards r_1..r_G of the
prompt in the statistics that normalise the advantage,

    U   = {r_1, ..., r_G} + {finite anchors m_1, ..., m_K}
    A_i = (r_i - mean U) / (std U + 1e-6)          std with N-1

so that a group whose fused view gains over its sources (mean r > mean m) is pushed up as a whole and one whose sources
interfere is pushed down. Anchors have no advantage of their own: they are never trained on.

Shapes: B rows (trajectories), N groups (prompts), G fused rollouts of a group, K anchors of a prompt.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

EPSILON = 1e-6
"""Added to the standard deviation; the value of verl's ``grpo`` and of the authors' code."""

Groups: TypeAlias = torch.Tensor | Sequence[Hashable]
"""The group (prompt uid) of each row, in any order."""


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of the N groups of a batch, in float64, in the order in which the groups first appear.

    A group without a counted row (padding) has ``num_fused`` 0 and NaN means. ``anchor_mean`` and
    ``information_gain`` are NaN for a group without a finite anchor.
    """

    group_of_row: torch.Tensor  # (B,) long
    num_fused: torch.Tensor  # (N,) counted rows
    num_anchors: torch.Tensor  # (N,) finite anchors
    fused_mean: torch.Tensor  # (N,)
    anchor_mean: torch.Tensor  # (N,)
    union_mean: torch.Tensor  # (N,) mean of U
    union_std: torch.Tensor  # (N,) std of U, N-1; NaN where U has fewer than two members
    fused_is_constant: torch.Tensor  # (N,) bool: no signal under GRPO
    union_is_constant: torch.Tensor  # (N,) bool: no signal under MARS
    anchors: torch.Tensor  # (N, K), NaN = no anchor

    @property
    def information_gain(self) -> torch.Tensor:
        """(N,) mean fused reward minus mean anchor."""
        return self.fused_mean - self.anchor_mean


def mono_anchored_advantage(
    scores: torch.Tensor,
    groups: Groups,
    anchors: torch.Tensor,
    normalize: bool = True,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Advantage of each row against the fused rewards and the anchors of its own group.

    Args:
        scores: (B,) fused rewards.
        groups: (B,) group of each row; rows in any order.
        anchors: (B, K) anchors of each row's group, the same in all its rows; NaN or infinite = no anchor. K may be 0.
        normalize: divide by std U + 1e-6. Without it (Dr.GRPO) the advantage is r_i - mean U.
        counted: (B,) bool, the rows that enter the statistics (default: all). A session with several outputs counts
            once; padding counts never. A row that is not counted still gets its advantage, 0 if its score is not
            finite.

    Returns:
        (B,) advantages in float32 (float64 for float64 scores). Statistics are computed in float64.

    Degenerate groups: without anchors this is GRPO for that group, and a single rollout without anchors gets its bare
    reward over (1 + 1e-6), as in verl. A single rollout *with* anchors is compared with them (the authors' code ignores
    the anchors there). If all members of U are equal, the advantage is 0. A group without a counted row gets 0.

    Raises:
        ValueError: shapes do not fit, a fused score is not finite (named by its group), or two rows of one group
            disagree about the group's anchors.

    Source: arXiv 2605.25437; the formula is the one of the authors' code, with each prompt's own anchors (that code
    matches anchors to prompts by their order after the batch was reordered).
    """
    return advantage_from_statistics(scores, group_statistics(scores, groups, anchors, counted), normalize)


def advantage_from_statistics(scores: torch.Tensor, stats: GroupStatistics, normalize: bool = True) -> torch.Tensor:
    """The advantage of :func:`mono_anchored_advantage` where the statistics are already known: (B,)."""
    size = stats.num_fused + stats.num_anchors
    center = torch.where(size > 1, stats.union_mean, 0.0)
    scale = torch.where(size > 1, stats.union_std, 1.0)
    row = stats.group_of_row
    advantage = scores.detach().double() - center[row]
    if normalize:
        advantage = advantage / (scale[row] + EPSILON)
    # A score that is not finite is of a row that does not count: others are refused with the statistics.
    advantage = torch.where((stats.num_fused > 0)[row] & scores.isfinite(), advantage, 0.0)
    return advantage.to(torch.promote_types(scores.dtype, torch.float32))


def group_statistics(
    scores: torch.Tensor, groups: Groups, anchors: torch.Tensor, counted: torch.Tensor | None = None
) -> GroupStatistics:
    """Statistics of every group of a batch; arguments and errors as in :func:`mono_anchored_advantage`."""
    names, row = dense_groups(groups, scores.device)
    if counted is None:
        counted = torch.ones_like(row, dtype=torch.bool)
    _check_shapes(scores, row, anchors, counted)
    values = scores.detach().double()
    _refuse_non_finite_scores(values, names, row, counted)
    values = torch.where(counted, values, 0.0)  # a NaN times a weight of 0 would still be a NaN
    members = _anchors_of_groups(anchors.detach().double(), names, row)  # (N, K)

    zeros = torch.zeros(len(names), dtype=torch.float64, device=scores.device)
    finite = members.isfinite()
    num_fused = zeros.index_add(0, row, counted.double())
    num_anchors = finite.sum(1).double()
    known = torch.where(finite, members, 0.0)

    fused_sum = zeros.index_add(0, row, values)
    size = num_fused + num_anchors
    union_mean = (fused_sum + known.sum(1)) / size
    # Two passes: the sum of squares about the mean does not lose the small variance of large rewards.
    squares = zeros.index_add(0, row, torch.where(counted, (values - union_mean[row]) ** 2, 0.0))
    squares = squares + torch.where(finite, (members - union_mean[:, None]) ** 2, 0.0).sum(1)

    fused_low, fused_high = extremes(torch.where(counted, values, torch.nan), row, zeros)
    union_low = torch.fmin(fused_low, torch.where(finite, members, torch.inf).amin(1))
    union_high = torch.fmax(fused_high, torch.where(finite, members, -torch.inf).amax(1))
    return GroupStatistics(
        group_of_row=row,
        num_fused=num_fused,
        num_anchors=num_anchors,
        fused_mean=fused_sum / num_fused,
        anchor_mean=known.sum(1) / num_anchors,
        union_mean=union_mean,
        union_std=(squares / (size - 1)).sqrt(),
        fused_is_constant=fused_low == fused_high,
        union_is_constant=union_low == union_high,
        anchors=members,
    )


def dense_groups(groups: Groups, device: torch.device) -> tuple[list[Hashable], torch.Tensor]:
    """Names of the groups in order of first appearance, and the group number of each row: (B,) long."""
    labels = groups.tolist() if isinstance(groups, torch.Tensor) else list(groups)
    numbers: dict[Hashable, int] = {}
    row = [numbers.setdefault(label, len(numbers)) for label in labels]
    return list(numbers), torch.tensor(row, dtype=torch.long, device=device)


def _check_shapes(scores: torch.Tensor, row: torch.Tensor, anchors: torch.Tensor, counted: torch.Tensor) -> None:
    size = row.shape[0]
    if scores.shape != (size,) or anchors.dim() != 2 or anchors.shape[0] != size or counted.shape != (size,):
        raise ValueError(
            "scores, groups and counted must be (B,) and anchors (B, K); got scores "
            f"{tuple(scores.shape)}, groups ({size},), anchors {tuple(anchors.shape)}, counted {tuple(counted.shape)}"
        )


def _refuse_non_finite_scores(
    values: torch.Tensor, names: list[Hashable], row: torch.Tensor, counted: torch.Tensor
) -> None:
    bad = counted & ~values.isfinite()
    if bad.any():
        faults = sorted({f"{names[int(row[i])]} (reward {values[i].item()})" for i in bad.nonzero()[:, 0]})
        raise ValueError(
            f"fused rewards must be finite, but prompt uid {', '.join(faults)} is not; "
            "the reward function returned NaN or infinity for a response of that prompt"
        )


def _anchors_of_groups(anchors: torch.Tensor, names: list[Hashable], row: torch.Tensor) -> torch.Tensor:
    """(N, K): the anchors of each group, taken from its first row and checked against all others."""
    count, width = len(names), anchors.shape[1]
    if width == 0:
        return anchors.new_full((count, 1), torch.nan)
    first = row.new_full((count,), row.shape[0])
    first = first.scatter_reduce(0, row, torch.arange(row.shape[0], device=row.device), reduce="amin")
    members = torch.where(anchors.isfinite(), anchors, torch.nan)
    mine, groups_own = members, members[first][row]
    differs = ~((mine == groups_own) | (mine.isnan() & groups_own.isnan())).all(1)
    if differs.any():
        i = int(differs.nonzero()[0, 0])
        raise ValueError(
            f"rows of prompt uid {names[int(row[i])]} disagree about the anchors of their prompt: "
            f"{mine[i].tolist()} against {groups_own[i].tolist()}; anchors must be keyed by uid, never by position"
        )
    return members[first]


def extremes(values: torch.Tensor, row: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest value of each group, NaN values left out: (N,), (N,)."""
    low = (zeros + torch.inf).scatter_reduce(0, row, values.nan_to_num(nan=torch.inf), reduce="amin")
    high = (zeros - torch.inf).scatter_reduce(0, row, values.nan_to_num(nan=-torch.inf), reduce="amax")
    return low, high
