"""What the ``mars_*`` trainer modes add for estimators that compare the responses under two views."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import open_dict
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from verl_mars import _compat
from verl_mars.rollout.fields import NOISY, OTHER_VISUAL_INPUTS
from verl_mars.settings import RESHAPED
from verl_mars.trainer.divergence_worker import WORKERS
from verl_mars.trainer.estimators import ViewScope, view_scope
from verl_mars.trainer.keys import last_outputs, real_rows
from verl_mars.trainer.scoring import FIELDS, ViewScores, compare_views, read_trajectories, rows_of, score_views
from verl_mars.trainer.token_dump import TokenDump
from verl_mars.views import Blind, OtherPixels, ScoredView, Trajectory

VIEW_LOG_PROBS = "view_log_probs"
VIEW_DIVERGENCE = "view_divergence"
VIEW_REVERSE_DIVERGENCE = "view_reverse_divergence"
"""Fields of a training row: the log-probs of its response under the scored view and, with ``divergence=exact``, how far
the policy is from its own view there, KL(own || other) and KL(other || own)."""


def blind_view(processor: Any) -> Blind:
    """The view without the visual tokens of a processor."""
    from verl.utils.tokenizer import get_processor_token_id

    found = (get_processor_token_id(processor, kind) for kind in ("image", "video"))
    tokens = frozenset(token for token in found if token is not None)
    if not tokens:
        raise ValueError(
            "the processor of actor_rollout_ref.model.path names no image token, so that there is no blind view; "
            "algorithm.adv_estimator=pgpo needs a vision-language model, and so does divergence=exact"
        )
    return Blind(tokens)


def blind_views(data: Any, real: torch.Tensor, processor: Any) -> list[ScoredView | None]:
    """PGPO: every response without the images of its prompt."""
    view = blind_view(processor)
    return [view if counts else None for counts in real]


def other_pixels(data: Any, real: torch.Tensor, processor: Any) -> list[ScoredView | None]:
    """VOGUE: responses of noisy groups with the images that they were not rolled out on, as far as these were read."""
    noisy = _compat.as_list(data[NOISY])
    pixels = _compat.as_list(data[OTHER_VISUAL_INPUTS]) if OTHER_VISUAL_INPUTS in data.keys() else [{}] * len(noisy)
    rows = zip(noisy, pixels, real, strict=True)
    return [OtherPixels(inputs) if is_noisy and counts else None for is_noisy, inputs, counts in rows]


@dataclass(frozen=True)
class Scored:
    """What an estimator has scored."""

    views: Callable[[Any, torch.Tensor, Any], list[ScoredView | None]]
    """From the batch's rows, which of them are real, and the processor: the view to score each under, if any."""
    fields: tuple[str, ...] = ()
    """Fields of the training rows that ``views`` or the estimator read besides :data:`FIELDS`."""
    pixels: str = ""
    """The field that holds the visual inputs of the views; empty: they have none."""


SCORED: Mapping[str, Scored] = {
    "pgpo": Scored(blind_views),
    "vogue": Scored(other_pixels, fields=("entropy", NOISY), pixels=OTHER_VISUAL_INPUTS),
}
"""By estimator. A further paper of this family brings a line here, a view, its mathematics and a recipe."""


class ScoredViewsMixin:
    """Scores the view that the run's estimator compares with, hands it over and passes its metrics on.

    To be put before :class:`~verl_mars.trainer.mixin.AnchorsMixin`. Does nothing for other estimators.
    """

    _tokens: TokenDump | None = None

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()  # type: ignore[misc]
        if self._exact:
            _compat.exchange_worker_classes(self.role_worker_mapping, WORKERS)  # type: ignore[attr-defined]

    @property
    def _exact(self) -> bool:
        """Whether views are compared over the whole vocabulary."""
        algorithm = self.config.algorithm  # type: ignore[attr-defined]
        settings = RESHAPED.get(algorithm.adv_estimator)
        return settings is not None and settings.from_algorithm(algorithm).divergence == "exact"

    def _init_dataloader(self) -> None:
        super()._init_dataloader()  # type: ignore[misc]
        config = self.config  # type: ignore[attr-defined]
        if config.algorithm.adv_estimator in SCORED:
            with open_dict(config):
                # VOGUE's annealing ends with the training; the rollout workers have the configuration only.
                config.trainer.total_training_steps = self.total_training_steps  # type: ignore[attr-defined]

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        scored = SCORED.get(self.config.algorithm.adv_estimator)  # type: ignore[attr-defined]
        if scored is None:
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        start = time.monotonic()
        scope = self._score_views(scored, batch)
        metrics["timing_s/score_view"] = time.monotonic() - start
        with view_scope(scope):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        metrics.update(scope.metrics)
        if self.config.trainer.get("rollout_data_dir"):  # type: ignore[attr-defined]
            self._tokens = self._tokens or TokenDump(self.tokenizer)  # type: ignore[attr-defined]
            self._tokens.add(batch, scope.tokens)
        return batch

    def _score_views(self, scored: Scored, batch: KVBatchMeta) -> ViewScope:
        """Score the batch's responses and store the result with the training rows."""
        where = {"keys": batch.keys, "partition_id": batch.partition_id}
        # With `exact` the pixels of the views stay where they are; the workers read them there.
        pixels = [scored.pixels] if scored.pixels and not self._exact else []
        data = tq.kv_batch_get(**where, select_fields=[*FIELDS, *scored.fields, *pixels])
        real, old = real_rows(batch.tags), rows_of(data["old_log_probs"])
        views = scored.views(data, real, self.processor)  # type: ignore[attr-defined]
        scores = self._scores(scored, batch, read_trajectories(data), views, old)

        columns = {VIEW_LOG_PROBS: scores.log_probs}
        if scores.divergence is not None and scores.reverse_divergence is not None:
            columns |= {VIEW_DIVERGENCE: scores.divergence, VIEW_REVERSE_DIVERGENCE: scores.reverse_divergence}
        results: dict[str, Any] = {
            name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in columns.items()
        }
        if scored.pixels:
            results[scored.pixels] = NonTensorStack(*({} for _ in views))  # pixels that nobody needs any more
        tq.kv_batch_put(**where, fields=TensorDict(results, len(batch)))
        noisy = torch.tensor(_compat.as_list(data[NOISY])) if NOISY in scored.fields else torch.zeros_like(real)
        return ViewScope(
            log_probs=_padded(old),
            view_log_probs=_padded(scores.log_probs),
            divergence=None if scores.divergence is None else _padded(scores.divergence),
            reverse_divergence=None if scores.reverse_divergence is None else _padded(scores.reverse_divergence),
            entropy=_padded(rows_of(data["entropy"])) if "entropy" in scored.fields else None,
            noisy=noisy & real,
            real=real,
            last_output=last_outputs(batch.keys),
        )

    def _scores(
        self,
        scored: Scored,
        batch: KVBatchMeta,
        trajectories: list[Trajectory],
        views: list[ScoredView | None],
        old: list[torch.Tensor],
    ) -> ViewScores:
        config, workers = self.config.actor_rollout_ref, self.actor_rollout_wg  # type: ignore[attr-defined]
        multiple = _compat.data_parallel_size(workers)
        if not config.actor.use_dynamic_bsz:
            multiple *= config.rollout.log_prob_micro_batch_size_per_gpu
        common = (trajectories, views, old, workers, config.rollout.temperature, multiple)
        if self._exact:
            return compare_views(batch, *common, scored.pixels, blind_view(self.processor))  # type: ignore[attr-defined]
        return score_views(batch.keys, *common)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: Mapping[str, float], *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._compute_metrics(batch, metrics, timing_raw, *args, **kwargs)  # type: ignore[misc]
        if "timing_s/score_view" in metrics and timing_raw.get("step"):
            metrics["perf/score_view_share"] = metrics["timing_s/score_view"] / timing_raw["step"]
        return result

    def _dump_generations(
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: Any, dump_path: Any
    ) -> None:
        extra = reward_extra_infos_dict
        if self._tokens is not None and self._tokens.has(extra.get("uid", [])):
            extra = {**extra, **self._tokens.take(extra["uid"])}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)  # type: ignore[misc]


def _padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """(B, T) in float64, 0 beyond a row's end."""
    return torch.nn.utils.rnn.pad_sequence([row.double() for row in rows], batch_first=True)
