"""The ``mars/*`` metrics of a batch that are read off its groups and sessions."""

import math
from collections.abc import Mapping, Sequence

import torch

from verl_mars.algos.mars import GroupStatistics
from verl_mars.rows import AnchorRows, Tags


def group_metrics(
    stats: GroupStatistics,
    sources_of_group: Sequence[Sequence[str]],
    values: Mapping[str, torch.Tensor],
    cuts: bool,
) -> dict[str, float]:
    """Means over the groups (prompts) of a batch; padding groups are left out.

    Args:
        stats: statistics of the N groups, K anchors each, as they were scored.
        sources_of_group: the source of each anchor of each group, in the order of ``stats.anchors``; may be shorter
            than K, never longer.
        values: (N, K) of the anchors by name, where known: ``acc``, ``format``, ``truncated``.
        cuts: whether a truncated anchor counts as none.

    Returns:
        ``mars/fused_score`` mean fused reward; ``mars/info_gain`` mean information gain of the groups with an anchor,
        ``mars/info_gain/<source>`` against that source's anchors alone; ``mars/anchor_score/<source>``,
        ``mars/anchor_acc/<source>``, ``mars/anchor_format/<source>``; ``mars/interference_groups`` share of groups with
        negative gain among those with an anchor; ``mars/missing_anchors`` number of missing anchors, and beside them
        ``mars/truncated_anchors``, those that were cut by ``anchor_max_tokens``. A mean over nothing is left out.
    """
    real = stats.num_fused > 0
    metrics = {"mars/fused_score": stats.fused_mean[real].mean().item()} if real.any() else {}
    gain = stats.information_gain
    known = real & gain.isfinite()
    if known.any():
        metrics["mars/info_gain"] = gain[known].mean().item()
        metrics["mars/interference_groups"] = (gain[known] < 0).double().mean().item()

    missing = truncated = 0
    columns = {"score": stats.anchors, **{name: values[name] for name in ("acc", "format") if name in values}}
    means: dict[tuple[str, str], list[float]] = {}
    for n in real.nonzero()[:, 0].tolist():
        names = sources_of_group[n]
        there = stats.anchors[n, : len(names)].isfinite().tolist()
        cut = (
            (values["truncated"][n, : len(names)] > 0).tolist()
            if cuts and "truncated" in values
            else [False] * len(names)
        )
        truncated += sum(cut)
        missing += there.count(False) - sum(cut)
        for name in dict.fromkeys(names):
            own = [k for k, other in enumerate(names) if other == name and there[k]]
            for column, of_group in columns.items():
                numbers = [x for x in of_group[n, own].tolist() if math.isfinite(x)]
                if numbers:
                    means.setdefault((f"anchor_{column}", name), []).append(sum(numbers) / len(numbers))
            if own:
                mean = sum(stats.anchors[n, own].tolist()) / len(own)
                means.setdefault(("info_gain", name), []).append(stats.fused_mean[n].item() - mean)
    for (what, name), numbers in sorted(means.items()):
        metrics[f"mars/{what}/{name}"] = float(torch.tensor(numbers, dtype=torch.float64).mean())
    metrics["mars/missing_anchors"] = float(missing)
    if cuts:
        metrics["mars/truncated_anchors"] = float(truncated)
    return metrics


def session_metrics(anchors: AnchorRows, stats: GroupStatistics, counted: torch.Tensor, tags: Tags) -> dict[str, float]:
    """The cost of a batch's mono sessions, and how far their weights were from those of the fused ones.

    Args:
        anchors: of the B rows.
        stats: of their groups.
        counted: (B,) bool, rows that enter group statistics.
        tags: verl's, of each row: ``response_len``, ``max_global_steps``, ``is_padding``.

    Returns:
        ``timing_s/anchors`` the longest time from the start of a prompt's first mono session to the score of its last;
        ``mars/anchor_tokens`` tokens that mono sessions sampled; ``mars/anchor_token_share`` their share of all sampled
        tokens; ``mars/anchor_version_gap`` mean distance in updates between the weights with which an anchor and a
        fused trajectory of its prompt ended: 0 in the synchronous mode. Left out if versions are unknown.
    """
    if not counted.any():
        return {"timing_s/anchors": 0.0, "mars/anchor_tokens": 0.0}
    group = stats.group_of_row[counted]
    of_group = torch.zeros(len(stats.num_fused), dtype=torch.float64)
    of_group[group] = anchors.tokens[counted].double()
    tokens = of_group.sum().item()
    fused = sum(float(tag["response_len"]) for tag in tags if not tag.get("is_padding", False))
    metrics = {
        "timing_s/anchors": anchors.seconds[counted].max().item(),
        "mars/anchor_tokens": tokens,
        "mars/anchor_token_share": tokens / (tokens + fused) if tokens + fused else 0.0,
    }
    ended = [tag.get("max_global_steps") for tag in tags]
    own = torch.tensor([float("nan") if version is None else float(version) for version in ended])
    gaps = (anchors.versions - own[:, None]).abs()[counted]
    gaps = gaps[gaps.isfinite()]
    if gaps.numel():
        metrics["mars/anchor_version_gap"] = gaps.mean().item()
    return metrics
