"""The details of the rewards in verl's training metrics and dumps.

verl keeps what a reward manager returns beside the score (``acc``, ``format``, task keys) with each trajectory, reports
it for validation, and leaves it out of the metrics and dumps of training.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import store
from verl_mars.rows import as_list, real_rows
from verl_mars.store import Batch

FIELD = "extra_fields"
"""Field in which verl's agent loop stores ``reward_extra_info`` of a trajectory."""


def details_of(batch: Batch) -> list[Mapping[str, Any]]:
    """The reward manager's values beside the score, for each row in the order of the batch's keys."""
    fields = [getattr(field, "data", field) for field in as_list(store.read(batch, [FIELD])[FIELD])]
    return [(field or {}).get("reward_extra_info") or {} for field in fields]


def reward_metrics(infos: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """``reward/<key>/mean`` of each numeric key, over the trajectories that have a value for it.

    Texts (``error``, ``pred``) and lists have no mean; a key without any value is left out.
    """
    values: dict[str, list[float]] = {}
    for info in infos:
        for key, value in info.items():
            if value is not None and not isinstance(value, str | list):
                values.setdefault(key, []).append(float(value))
    return {f"reward/{key}/mean": sum(numbers) / len(numbers) for key, numbers in values.items()}


def columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list a key, None where a trajectory has no value."""
    keys = dict.fromkeys(key for info in infos for key in info)
    return {key: [info.get(key) for info in infos] for key in keys}


class RewardDetails(PPOTrainer):
    """Adds ``reward/*`` to a step's metrics, and the reward manager's keys to its dump."""

    _dumped: Mapping[str, Mapping[str, Any]] | None = None

    def _compute_metrics(
        self, batch: Batch, metrics: dict, timing_raw: Mapping[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        real = real_rows(batch.tags).tolist()
        metrics.update(reward_metrics(info for info, counts in zip(details_of(batch), real, strict=True) if counts))

    def _log_rollout_data(self, batch: Batch, timing_raw: Mapping[str, float], rollout_data_dir: str) -> None:
        self._dumped = dict(zip(batch.keys, details_of(batch), strict=True))
        try:
            super()._log_rollout_data(batch, timing_raw, rollout_data_dir)
        finally:
            self._dumped = None

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list[Any]],
        dump_path: str,
    ) -> None:
        """Give a line of a training dump what a line of verl's validation dump has: ``reward`` (the score that was
        trained on, penalties included) and every key of the reward manager."""
        extra = reward_extra_infos_dict
        if self._dumped is not None:
            details = columns([self._dumped[key] for key in extra["uid"]])
            extra = {"reward": list(scores), **details, **extra}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)
