"""DAPO's dynamic sampling on the union of fused rewards and anchors."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_mars.algos.mars import group_statistics
from verl_mars.rollout.anchors import KEPT_METRIC, anchor_matrix


@dataclass
class UnionVerdicts:
    """Finished groups of equal fused rewards, by uid: what their anchors say."""

    constant: dict[str, float] = field(default_factory=dict)
    """The anchors are all equal to the fused rewards, whose value this is: nothing to learn."""
    kept: set[str] = field(default_factory=set)
    """An anchor differs: every advantage has the same sign, and the group is trained on."""


class UnionFilter:
    """Keeps a group of equal fused rewards if one of its anchors differs: under MARS it still teaches.

    verl's filter (``algorithm.filter_groups``) drops a group whose fused rewards are all equal. Under MARS its
    advantages are 0 only if U, its fused rewards and its finite anchors, is constant (arXiv 2605.25437), so only then
    it is dropped here. Eviction, refill and their metrics stay verl's; ``mars/kept_groups`` counts the groups of a
    sampled batch that verl's filter would have dropped. Mixed into verl's replay buffers.
    """

    union: UnionVerdicts | None = None
    """None: verl's own filter, on the fused rewards (``algorithm.mars.filter_on=fused``)."""

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter]:
        equal, counts = super()._dapo_filtered_keys(partition_id)  # type: ignore[misc]
        if self.union is None or partition_id == "val":
            return equal, counts
        verdicts = self.union
        for gone in verdicts.constant.keys() - equal:
            del verdicts.constant[gone]
        verdicts.kept &= equal
        new = equal - verdicts.constant.keys() - verdicts.kept
        if new:
            self._judge(partition_id, new, verdicts)
        return set(verdicts.constant), Counter(verdicts.constant.values())

    def _judge(self, partition_id: str, uids: set[str], verdicts: UnionVerdicts) -> None:
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]  # type: ignore[attr-defined]
        groups = [key.split("_")[0] for key in keys]
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["rm_scores", "anchor_scores"])
        # verl has found the rewards of a group to be equal: any of its outputs stands for all
        scores = data["rm_scores"].to_padded_tensor(0.0) if data["rm_scores"].is_nested else data["rm_scores"]
        stats = group_statistics(scores.sum(-1), groups, anchor_matrix(data["anchor_scores"]))
        for uid, group in dict(zip(groups, stats.group_of_row.tolist(), strict=True)).items():
            if stats.union_is_constant[group]:
                verdicts.constant[uid] = stats.fused_mean[group].item()
            else:
                verdicts.kept.add(uid)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """verl's, with the number of groups kept through their anchors in its metrics."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        if self.union is not None and partition_id != "val":
            metrics[KEPT_METRIC] = len({key.split("_")[0] for key in batch.keys} & self.union.kept)
        return batch, metrics


def filter_on_union(buffer: Any) -> None:
    """Make a buffer of this kind look at the anchors from now on."""
    if isinstance(buffer, UnionFilter) and buffer.filter_groups_metric is not None:  # type: ignore[attr-defined]
        buffer.union = UnionVerdicts()
