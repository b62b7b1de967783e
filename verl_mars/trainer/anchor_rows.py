"""What the rows of a batch carry of their prompts' mono sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_mars import _compat
from verl_mars.algos.mars import GroupStatistics
from verl_mars.rollout.anchors import ANCHOR_FIELDS, anchor_matrix
from verl_mars.trainer.keys import counted_rows


@dataclass(frozen=True)
class AnchorRows:
    """Fields of B rows; K anchors each, NaN where a row has fewer."""

    scores: torch.Tensor  # (B, K)
    versions: torch.Tensor  # (B, K) weights version of each anchor; NaN = not known
    sources: list[list[str]]  # (B) the source of each anchor
    tokens: torch.Tensor  # (B,) tokens that the mono sessions of the row's prompt sampled, all together
    seconds: torch.Tensor  # (B,) how long they took, side by side
    counted: torch.Tensor  # (B,) bool: rows that enter the group statistics

    @classmethod
    def of_batch(cls, batch: KVBatchMeta) -> "AnchorRows":
        """Read them from TransferQueue."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(ANCHOR_FIELDS))
        return cls(
            anchor_matrix(data["anchor_scores"]),
            anchor_matrix(data["anchor_versions"]),
            [list(names) for names in _compat.as_list(data["anchor_sources"])],
            torch.tensor(_compat.as_list(data["anchor_tokens"]), dtype=torch.float64),
            torch.tensor(_compat.as_list(data["anchor_seconds"]), dtype=torch.float64),
            counted_rows(batch.keys, batch.tags),
        )

    def sources_of_groups(self, stats: GroupStatistics) -> list[list[str]]:
        """(N) the sources of each group's anchors, in the order of ``stats``."""
        of_group = dict(zip(stats.group_of_row.tolist(), self.sources, strict=True))
        return [of_group[n] for n in range(len(of_group))]


def session_metrics(rows: AnchorRows, stats: GroupStatistics, tags: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the mono sessions of a batch cost, and how near their weights were to those of the fused ones.

    Args:
        rows: of the batch.
        stats: of its groups.
        tags: verl's, of each row: ``response_len``, ``max_global_steps``, ``is_padding``.

    Returns:
        ``timing_s/anchors`` the longest time from the start of a prompt's first mono session to the score of its last;
        ``mars/anchor_tokens`` tokens that mono sessions sampled; ``mars/anchor_token_share`` their share of all sampled
        tokens; ``mars/anchor_version_gap`` mean distance between the weights versions with which an anchor and a fused
        trajectory of its prompt ended, in updates: 0 in the synchronous mode. Left out where versions are not known.
    """
    counted = rows.counted
    if not counted.any():
        return {"timing_s/anchors": 0.0, "mars/anchor_tokens": 0.0}
    group = stats.group_of_row[counted]
    of_group = torch.zeros(len(stats.num_fused), dtype=torch.float64)
    of_group[group] = rows.tokens[counted].double()
    tokens = of_group.sum().item()
    fused = sum(float(tag["response_len"]) for tag in tags if not tag.get("is_padding", False))
    metrics = {
        "timing_s/anchors": rows.seconds[counted].max().item(),
        "mars/anchor_tokens": tokens,
        "mars/anchor_token_share": tokens / (tokens + fused) if tokens + fused else 0.0,
    }
    ended = [tag.get("max_global_steps") for tag in tags]
    own = torch.tensor([float("nan") if version is None else float(version) for version in ended])
    gaps = (rows.versions - own[:, None]).abs()[counted]
    gaps = gaps[gaps.isfinite()]
    if gaps.numel():
        metrics["mars/anchor_version_gap"] = gaps.mean().item()
    return metrics
