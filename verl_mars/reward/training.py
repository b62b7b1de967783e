"""The rewards' details in verl's training metrics and dumps.

verl keeps what a reward manager says beside the score (``acc``, ``format``, task keys) with each trajectory, shows it
for validation, and leaves it out of the metrics and dumps of training. A trainer mode gets it there with
:class:`RewardDetailsMixin`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from verl_mars import _compat

FIELD = "extra_fields"
"""Where verl's agent loop stores ``reward_extra_info`` of a trajectory in TransferQueue."""


def reward_metrics(infos: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """``reward/<key>/mean`` of each numeric key, over the trajectories that have a value for it.

    Texts (``error``, ``pred``) have no mean; a key without any value is left out.
    """
    values: dict[str, list[float]] = {}
    for info in infos:
        for key, value in info.items():
            if value is not None and not isinstance(value, str):
                values.setdefault(key, []).append(float(value))
    return {f"reward/{key}/mean": sum(numbers) / len(numbers) for key, numbers in values.items()}


def columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list a key, None where a trajectory has no value."""
    keys = dict.fromkeys(key for info in infos for key in info)
    return {key: [info.get(key) for info in infos] for key in keys}


class RewardDetailsMixin:
    """To be put before one of verl's v1 trainers: adds ``reward/*`` to a step's metrics and the keys to its dump."""

    _dumped: Mapping[str, Mapping[str, Any]] | None = None

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = super()._compute_metrics(batch, metrics, *args, **kwargs)  # type: ignore[misc]
        real = [not tag.get("is_padding", False) for tag in batch.tags]  # padding rows copy a real row's fields
        metrics.update(reward_metrics(info for info, counts in zip(_infos(batch), real, strict=True) if counts))
        return result

    def _log_rollout_data(self, batch: Any, *args: Any, **kwargs: Any) -> None:
        self._dumped = dict(zip(batch.keys, _infos(batch), strict=True))
        try:
            super()._log_rollout_data(batch, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._dumped = None

    def _dump_generations(
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: Any, dump_path: Any
    ) -> None:
        """A line of a training dump gets what a line of verl's validation dump has: ``reward`` (the score that was
        trained on, penalties included) and every key of the reward manager."""
        extra = reward_extra_infos_dict
        if self._dumped is not None:
            details = columns([self._dumped[key] for key in extra["uid"]])
            extra = {"reward": list(scores), **details, **extra}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)  # type: ignore[misc]


def _infos(batch: Any) -> list[Mapping[str, Any]]:
    """What the reward manager said of each row, in the order of the batch's keys."""
    import transfer_queue as tq

    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[FIELD])
    fields = [getattr(field, "data", field) for field in _compat.as_list(data[FIELD])]
    return [(field or {}).get("reward_extra_info") or {} for field in fields]
