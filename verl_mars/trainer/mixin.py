"""What the ``mars_*`` trainer modes add to verl's: one mixin for all of them."""

from typing import Any, ClassVar

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta

from verl_mars import _compat
from verl_mars.rollout.anchors import ANCHOR_FIELDS
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync, set_poll_interval
from verl_mars.trainer.checks import MANAGER_CLASS, raise_on_faults
from verl_mars.trainer.estimators import anchor_scope
from verl_mars.trainer.keys import counted_rows
from verl_mars.trainer.metrics import mars_metrics


class AnchorsMixin:
    """Refuses what cannot work before any model is loaded; hands anchors to the estimator and its statistics on.

    To be put before one of verl's v1 trainers, whose mode it takes over: ``base_mode``.
    """

    base_mode: ClassVar[str]

    def __init__(self, config: DictConfig) -> None:
        raise_on_faults(config)
        with open_dict(config):
            _compat.use_base_mode(config, self.base_mode)
            config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = MANAGER_CLASS
        super().__init__(config)  # type: ignore[call-arg]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        _compat.exchange_replay_buffer_class(buffer, OrderedReplayBuffer, OrderedReplayBufferAsync)
        set_poll_interval(buffer)
        return buffer

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        if self.config.algorithm.adv_estimator != "mars":  # type: ignore[attr-defined]
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["uid", *ANCHOR_FIELDS])
        scores = data["anchor_scores"]
        if scores.is_nested:  # prompts with different numbers of sources
            scores = scores.to_padded_tensor(torch.nan)
        counted = counted_rows(batch.keys, batch.tags)
        with anchor_scope(scores, counted) as scope:
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        stats = scope.statistics
        if stats is None:
            raise RuntimeError("verl did not call the estimator `mars` in _compute_advantage")
        sources: dict[int, list[str]] = {}
        for n, names in zip(stats.group_of_row.tolist(), _compat.as_list(data["anchor_sources"]), strict=True):
            sources.setdefault(n, names)
        metrics.update(mars_metrics(stats, [sources[n] for n in range(len(sources))]))
        seconds = torch.tensor(_compat.as_list(data["anchor_seconds"]), dtype=torch.float64)
        metrics["timing_s/anchors"] = seconds[counted].max().item() if counted.any() else 0.0
        return batch
