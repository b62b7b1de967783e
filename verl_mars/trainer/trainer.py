"""The trainer of all ``mars_*`` modes: reads what the method needs of a batch, hands it over, passes its metrics on.

:class:`RowReader` is the one place in which the trainer reads trajectories.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils

from verl_mars import _compat, store
from verl_mars.fields import FieldDict
from verl_mars.images.settings import ImagesOnce
from verl_mars.methods.base import Method, RowsToView, RowValues, ViewContext
from verl_mars.methods.estimator import Handover, hand_over
from verl_mars.methods.reshaping import blind_view
from verl_mars.methods.table import method_of
from verl_mars.preflight.configuration import MANAGER_CLASS, raise_on_faults, refuse
from verl_mars.preflight.data import length_faults, processor_faults
from verl_mars.rollout.replay_buffer import (
    GroupFilter,
    OrderedReplayBuffer,
    OrderedReplayBufferAsync,
    set_poll_interval,
)
from verl_mars.rows import ANCHOR_FIELDS, AnchorRows, as_list, as_rows, last_outputs, padded, real_rows
from verl_mars.store import Batch
from verl_mars.trainer.divergence_worker import WORKERS
from verl_mars.trainer.rescore import ViewLogProbs, compare_views, rescore
from verl_mars.trainer.reward_details import details_of
from verl_mars.views import RescoreView, Trajectory

if TYPE_CHECKING:
    from tensordict import TensorDict
    from transformers import ProcessorMixin
    from verl.single_controller.ray import RayWorkerGroup

VIEW_LOG_PROBS = "view_log_probs"
VIEW_DIVERGENCE = "view_divergence"
VIEW_REVERSE_DIVERGENCE = "view_reverse_divergence"
"""Fields that a rescored row gets: the log-probs of its response under the other view and, with ``divergence=exact``,
KL(own || other) and KL(other || own)."""

_VALUE_OF = {
    VIEW_LOG_PROBS: "view_log_probs",
    VIEW_DIVERGENCE: "divergence",
    VIEW_REVERSE_DIVERGENCE: "reverse_divergence",
}
"""Their names in :class:`RowValues`."""

_TRAJECTORY = ("prompts", "responses", "response_mask", "position_ids")


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
        refuse(processor_faults(self.config, self.method, self.processor))
        refuse(length_faults(self.config, self.method, self.processor))
        super()._init_dataloader()
        with open_dict(self.config):
            # For schedules that end with the training; the rollout workers have the configuration only.
            self.config.trainer.total_training_steps = self.total_training_steps

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        frozen = bool(self.config.actor_rollout_ref.actor.freeze_vision_tower)
        if frozen:
            from verl_mars.trainer.frozen_tower import workers  # loads verl's engine, which other runs do not need here

            _compat.exchange_worker_classes(self.role_worker_mapping, workers(self.method.exact))
        elif self.method.exact:
            _compat.exchange_worker_classes(self.role_worker_mapping, WORKERS)

    def _build_replay_buffer(self) -> ReplayBuffer:
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
        self, batch: Batch, metrics: dict, timing_raw: Mapping[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if "timing_s/score_view" in metrics and timing_raw.get("step"):
            metrics["perf/score_view_share"] = metrics["timing_s/score_view"] / timing_raw["step"]


@dataclass(frozen=True)
class RowReader:
    """Makes the :class:`RowValues` of a method from the rows of a batch."""

    config: DictConfig
    method: Method
    processor: "ProcessorMixin"
    workers: "RayWorkerGroup"
    """verl's actor workers."""

    def read(self, batch: Batch, step: int) -> RowValues:
        """Everything that the method asks for. Rescored rows keep their results as fields (``view_*``)."""
        values: FieldDict = {
            "real": real_rows(batch.tags),
            "last_output": last_outputs(batch.keys),
            "tags": batch.tags,
            "anchors": self._anchors(batch),
            "reward_details": self._reward_details(batch),
            "forward_type": forward_type(self.config.actor_rollout_ref.actor),
        }
        if self.method.fields:
            data = store.read(batch, self.method.fields)
            values["fields"] = {name: as_list(data[name]) for name in self.method.fields}
        if self.method.needs_entropy:
            values["entropy"] = padded(as_rows(store.read(batch, ["entropy"])["entropy"]))
        if self.method.rescores:
            values |= self._rescored(batch, step, values["real"])
        return RowValues(**values)

    def _anchors(self, batch: Batch) -> AnchorRows | None:
        anchoring = self.method.anchoring
        if anchoring is None:
            return None
        names = anchoring.anchor_values
        data = store.read(batch, [*ANCHOR_FIELDS, *(f"anchor_{name}" for name in names)])
        return AnchorRows.from_columns(data, names)

    def _reward_details(self, batch: Batch) -> dict[str, torch.Tensor]:
        names = self.method.reward_details
        details = details_of(batch) if names else []
        columns = {name: [detail.get(name) for detail in details] for name in names}
        return {
            name: torch.tensor([float("nan") if value is None else float(value) for value in column])
            for name, column in columns.items()
        }

    def _rescored(self, batch: Batch, step: int, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rescore the batch under the method's views, and store the results with its rows."""
        method = self.method
        data = store.read(batch, list(dict.fromkeys((*_TRAJECTORY, "old_log_probs", *method.view_fields))))
        rows = RowsToView(
            keys=batch.keys,
            real=real,
            trajectories=trajectories_of(data),
            fields={name: as_list(data[name]) for name in method.view_fields},
        )
        seed = self.config.actor_rollout_ref.rollout.get("seed", 0) or 0
        views = method.views(rows, ViewContext(self.config, self.processor, step, seed))
        old = as_rows(data["old_log_probs"])
        rescored = self._rescore(batch, rows.trajectories, views, old)

        results: dict[str, list[torch.Tensor]] = {VIEW_LOG_PROBS: rescored.log_probs}
        if rescored.divergence is not None and rescored.reverse_divergence is not None:
            results[VIEW_DIVERGENCE] = rescored.divergence
            results[VIEW_REVERSE_DIVERGENCE] = rescored.reverse_divergence
        values = {_VALUE_OF[name]: padded(column) for name, column in results.items()}
        columns: dict[str, Sequence[object]] = {**results}
        if method.view_pixels:
            columns[method.view_pixels] = [{} for _ in views]  # pixels that nobody needs any more
        store.write(batch, columns)
        return values | {"log_probs": padded(old)}

    def _rescore(
        self,
        batch: Batch,
        trajectories: Sequence[Trajectory],
        views: Sequence[RescoreView | None],
        old: list[torch.Tensor],
    ) -> ViewLogProbs:
        config = self.config.actor_rollout_ref
        multiple = rows_multiple(config, self.workers)
        images = ImagesOnce.of(self.config)
        limit = images.max_bytes if images.enable else 0
        common = (trajectories, views, old, self.workers, config.rollout.temperature, multiple, limit)
        if self.method.exact:
            return compare_views(batch, *common, self.method.view_pixels, blind_view(self.processor))
        return rescore(batch.keys, *common)


def rows_multiple(config: DictConfig, workers: "RayWorkerGroup") -> int:
    """verl's actor workers take a multiple of this many rows for log-probs.

    Args:
        config: the section ``actor_rollout_ref``.
        workers: verl's actor workers.
    """
    ranks = _compat.data_parallel_size(workers)
    return ranks if config.actor.use_dynamic_bsz else ranks * config.rollout.log_prob_micro_batch_size_per_gpu


def forward_type(actor: DictConfig) -> torch.dtype:
    """The type in which verl's actor computes log-probs: its engine's mixed precision, bfloat16 where that is unset."""
    from verl.utils.torch_dtypes import PrecisionType

    if actor.strategy in ("fsdp", "fsdp2"):
        precision = actor.fsdp_config.get("mixed_precision") or {}
        return PrecisionType.to_dtype(precision.get("param_dtype") or "bf16")
    return PrecisionType.to_dtype((actor.get(actor.strategy) or {}).get("dtype") or "bfloat16")


def trajectories_of(data: "TensorDict") -> list[Trajectory]:
    """The trajectories of rows read from the store, without their visual inputs."""
    tensordict_utils.maybe_fix_3d_position_ids(data)
    prompts, responses, masks, positions = (as_rows(data[name]) for name in _TRAJECTORY)
    return [Trajectory(*row, visual_inputs={}) for row in zip(prompts, responses, masks, positions, strict=True)]
