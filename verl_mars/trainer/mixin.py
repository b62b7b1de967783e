"""What the ``mars_*`` trainer modes add to verl's: one mixin for all of them."""

import gc
from pathlib import Path
from typing import Any, ClassVar

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_mars import _compat
from verl_mars.rollout.anchors import KNOWN_FIELD
from verl_mars.rollout.group_filter import filter_on_union
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync, set_poll_interval
from verl_mars.settings import MarsSettings
from verl_mars.trainer.anchor_memory import AnchorMemory, prompt_identity
from verl_mars.trainer.anchor_rows import AnchorRows, session_metrics
from verl_mars.trainer.checkpoints import Recipe, how_to_go_on
from verl_mars.trainer.checks import MANAGER_CLASS, raise_on_faults, refuse, uses_anchors
from verl_mars.trainer.data_checks import length_faults
from verl_mars.trainer.estimators import anchor_scope
from verl_mars.trainer.keys import counted_rows
from verl_mars.trainer.metrics import COUNTS, MISSING_ROLLOUTS, mars_metrics
from verl_mars.trainer.watch import Watch, crews

_IDENTITY = ("data_source", "index", "extra_info")


class AnchorsMixin:
    """Refuses what cannot work before any model is loaded; hands anchors to the estimator and its statistics on.

    To be put before one of verl's v1 trainers, whose mode it takes over: ``base_mode``.
    """

    base_mode: ClassVar[str]

    def __init__(self, config: DictConfig) -> None:
        raise_on_faults(config)
        self.with_anchors = uses_anchors(config)
        self.mars = MarsSettings.from_algorithm(config.algorithm) if self.with_anchors else MarsSettings()
        self.anchor_memory = AnchorMemory(self.mars.anchor_every) if self.mars.anchor_every > 1 else None
        self._counts: dict[str, float] = {}
        with open_dict(config):
            _compat.use_base_mode(config, self.base_mode)
            config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = MANAGER_CLASS
        super().__init__(config)  # type: ignore[call-arg]

    def _init_dataloader(self) -> None:
        if self.with_anchors:  # the first moment at which the processor is there
            refuse(length_faults(self.config, self.processor))  # type: ignore[attr-defined]
        super()._init_dataloader()  # type: ignore[misc]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        _compat.exchange_replay_buffer_class(buffer, OrderedReplayBuffer, OrderedReplayBufferAsync)
        set_poll_interval(buffer)
        if self.with_anchors and self.mars.filter_on == "union":
            filter_on_union(buffer)
        return buffer

    def fit(self, agent_loop_manager: Any) -> None:
        """verl's; where a process died that it needs, it ends with a sentence instead of waiting for ever."""
        managers = [self.llm_server_manager, getattr(self, "standalone_server_manager", None)]  # type: ignore[attr-defined]
        reward_workers = self.get_reward_handles() or []  # type: ignore[attr-defined]
        watch = Watch(crews(agent_loop_manager, [manager for manager in managers if manager], reward_workers))
        self.replay_buffer.check_processes = watch.check  # type: ignore[attr-defined]
        with watch.explaining(lambda: how_to_go_on(self.config)):  # type: ignore[attr-defined]
            super().fit(agent_loop_manager)  # type: ignore[misc]

    def on_train_begin(self) -> None:
        super().on_train_begin()  # type: ignore[misc]
        gc.freeze()  # modules, configuration, data set: no full garbage collection walks over them between two steps

    def step(self, metrics: dict, timing_raw: dict) -> KVBatchMeta:
        """verl's; counts of its local updates are added up, where verl would take their mean."""
        self._counts = {}
        batch = super().step(metrics, timing_raw)  # type: ignore[misc]
        metrics.update(self._counts)
        return batch

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int) -> KVBatchMeta:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)  # type: ignore[misc]
        wanted = sample_batch_size * self.config.actor_rollout_ref.rollout.n  # type: ignore[attr-defined]
        metrics[MISSING_ROLLOUTS] = float(max(0, wanted - int(counted_rows(batch.keys, batch.tags).sum())))
        for name in COUNTS & metrics.keys():
            self._counts[name] = self._counts.get(name, 0.0) + metrics[name]
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        if not self.with_anchors:
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        rows = AnchorRows.of_batch(batch)
        with anchor_scope(rows.scores, rows.counted) as scope:
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        stats = scope.statistics
        if stats is None:
            raise RuntimeError("verl did not call the estimator `mars` in _compute_advantage")
        metrics.update(mars_metrics(stats, rows.sources_of_groups(stats)))
        metrics.update(session_metrics(rows, stats, batch.tags))
        self._remember(batch, rows)
        return batch

    # ------------------------------------------------------------ anchors of earlier epochs

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        if self.anchor_memory is not None:
            columns = [_compat.as_list(batch[name]) for name in _IDENTITY]
            known = [self.anchor_memory.recall(prompt_identity(*row)) for row in zip(*columns, strict=True)]
            _compat.add_text_column(batch, KNOWN_FIELD, known)
        return super()._submit_batch_to_rollout(batch)  # type: ignore[misc]

    def _remember(self, batch: KVBatchMeta, rows: AnchorRows) -> None:
        if self.anchor_memory is None:
            return
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(_IDENTITY))
        columns = [_compat.as_list(data[name]) for name in _IDENTITY]
        for row, identity in enumerate(zip(*columns, strict=True)):
            if rows.counted[row]:
                scores, versions = rows.scores[row].tolist(), rows.versions[row].tolist()
                self.anchor_memory.remember(prompt_identity(*identity), rows.sources[row], scores, versions)

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"  # type: ignore[attr-defined]
        Recipe.of(self.config).save(folder)  # type: ignore[attr-defined]
        if self.anchor_memory is not None:
            self.anchor_memory.save(folder)
        super()._save_checkpoint()  # type: ignore[misc]

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()  # type: ignore[misc]
        if self.anchor_memory is not None and self.global_steps > 0:  # type: ignore[attr-defined]
            trainer = self.config.trainer  # type: ignore[attr-defined]
            folder = trainer.resume_from_path if trainer.resume_mode == "resume_path" else trainer.default_local_dir
            name = f"global_step_{self.global_steps}"  # type: ignore[attr-defined]
            self.anchor_memory.load(Path(folder) if Path(folder).name == name else Path(folder) / name)
