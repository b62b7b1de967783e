"""The trainer of all ``mars_*`` modes: hands a batch to the run's method, and passes its metrics on."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import _compat
from verl_mars.methods.estimator import Handover, hand_over
from verl_mars.methods.table import method_of
from verl_mars.preflight.configuration import MANAGER_CLASS, raise_on_faults, refuse
from verl_mars.preflight.data import length_faults
from verl_mars.rollout.replay_buffer import (
    GroupFilter,
    OrderedReplayBuffer,
    OrderedReplayBufferAsync,
    set_poll_interval,
)
from verl_mars.store import Batch
from verl_mars.trainer.divergence_worker import WORKERS
from verl_mars.trainer.row_values import RowReader


class ViewTrainer(PPOTrainer):
    """Refuses what cannot work before any model loads; then asks the method, and gives its answers to verl.

    To be put before one of verl's v1 trainers, whose mode it takes over: ``base_mode``. With an estimator of verl's own
    the method asks for nothing, and the trainer does what verl's does.
    """

    base_mode: ClassVar[str]

    def __init__(self, config: DictConfig) -> None:
        raise_on_faults(config)
        self.method = method_of(config.algorithm)
        with open_dict(config):
            _compat.use_base_mode(config, self.base_mode)
            config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = MANAGER_CLASS
        super().__init__(config)

    def _init_dataloader(self) -> None:
        # The first moment at which the processor is there.
        refuse(length_faults(self.config, self.method, self.processor))
        super()._init_dataloader()
        with open_dict(self.config):
            # For schedules that end with the training; the rollout workers have the configuration only.
            self.config.trainer.total_training_steps = self.total_training_steps

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if self.method.exact:
            _compat.exchange_worker_classes(self.role_worker_mapping, WORKERS)

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        _compat.exchange_replay_buffer_class(buffer, OrderedReplayBuffer, OrderedReplayBufferAsync)
        set_poll_interval(buffer)
        if isinstance(buffer, GroupFilter):
            buffer.ask(self.method.group_filter)
        return buffer

    def _compute_advantage(self, batch: Batch, metrics: dict) -> Batch:
        start = time.monotonic()
        reader = RowReader(self.config, self.method, self.processor, self.actor_rollout_wg)
        values = reader.read(batch, self.global_steps)
        if self.method.rescores:
            metrics["timing_s/score_view"] = time.monotonic() - start
        with hand_over(self.method, values) as handover:
            batch = super()._compute_advantage(batch, metrics)
        if self.method.name:
            metrics.update(handover.metrics())
            self.on_advantages(batch, handover)
        return batch

    def on_advantages(self, batch: Batch, handover: Handover) -> None:
        """Called with each batch once its method has computed its advantages."""

    def _compute_metrics(
        self, batch: Batch, metrics: dict, timing_raw: Mapping[str, float], *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._compute_metrics(batch, metrics, timing_raw, *args, **kwargs)
        if "timing_s/score_view" in metrics and timing_raw.get("step"):
            metrics["perf/score_view_share"] = metrics["timing_s/score_view"] / timing_raw["step"]
        return result
