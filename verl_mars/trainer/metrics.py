"""The ``mars/*`` metrics of a step."""

from collections.abc import Sequence

import torch

from verl_mars.algos.mars import GroupStatistics
from verl_mars.rollout.anchors import KEPT_METRIC

MISSING_ROLLOUTS = "mars/missing_rollouts"
"""Fused rollouts of a batch whose sessions failed. verl trains on the rest of their groups and counts nothing."""

COUNTS = frozenset({"mars/missing_anchors", "mars/anchor_tokens", KEPT_METRIC, MISSING_ROLLOUTS})
"""Metrics that are added up over the local updates of a step; all others are means."""


def mars_metrics(stats: GroupStatistics, sources_of_group: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over the groups (prompts) of a batch; padding groups are left out.

    Args:
        stats: statistics of the N groups, K anchors each.
        sources_of_group: the source of each anchor of each group, in the order of ``stats.anchors``; may be shorter
            than K, never longer.

    Returns:
        ``mars/fused_score`` mean fused reward; ``mars/info_gain`` mean information gain of the groups with an anchor,
        ``mars/info_gain/<source>`` against that source's anchors alone; ``mars/anchor_score/<source>``;
        ``mars/interference_groups`` share of groups with negative gain among those with an anchor;
        ``mars/rescued_groups`` share of groups with no signal under GRPO and some under MARS;
        ``mars/missing_anchors`` number of anchors that are not there. A mean over nothing is left out.
    """
    real = stats.num_fused > 0
    metrics = {"mars/fused_score": stats.fused_mean[real].mean().item()} if real.any() else {}
    gain = stats.information_gain
    known = real & gain.isfinite()
    if known.any():
        metrics["mars/info_gain"] = gain[known].mean().item()
        metrics["mars/interference_groups"] = (gain[known] < 0).double().mean().item()
    if real.any():
        rescued = real & stats.fused_is_constant & ~stats.union_is_constant
        metrics["mars/rescued_groups"] = (rescued.double().sum() / real.double().sum()).item()

    missing = 0
    scores: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for n in real.nonzero()[:, 0].tolist():
        of_source: dict[str, list[float]] = {}
        for name, score in zip(sources_of_group[n], stats.anchors[n].tolist(), strict=False):
            if score == score:
                of_source.setdefault(name, []).append(score)
            else:
                missing += 1
        for name, values in of_source.items():
            mean = sum(values) / len(values)
            scores.setdefault(name, []).append(mean)
            gains.setdefault(name, []).append(stats.fused_mean[n].item() - mean)
    for name in sorted(scores):
        metrics[f"mars/anchor_score/{name}"] = float(torch.tensor(scores[name], dtype=torch.float64).mean())
        metrics[f"mars/info_gain/{name}"] = float(torch.tensor(gains[name], dtype=torch.float64).mean())
    metrics["mars/missing_anchors"] = float(missing)
    return metrics
