"""The details of the rewards in verl's training metrics and dumps.

verl keeps what a reward manager returns beside the score (``acc``, ``format``, task keys) with each trajectory, reports
it for validation, and leaves it out of the metrics and dumps of training.
"""

from collections.abc import Iterable, Mapping

from verl_mars import store
from verl_mars.fields import FieldDict, Fields
from verl_mars.rows import as_list, real_rows
from verl_mars.store import Batch
from verl_mars.trainer.dump import DumpsColumns

FIELD = "extra_fields"
"""Field in which verl's agent loop stores ``reward_extra_info`` of a trajectory."""


def details_of(batch: Batch) -> list[Fields]:
    """The reward manager's values beside the score, for each row in the order of the batch's keys."""
    fields = [getattr(field, "data", field) for field in as_list(store.read(batch, [FIELD])[FIELD])]
    return [(field or {}).get("reward_extra_info") or {} for field in fields]


def reward_metrics(infos: Iterable[Fields]) -> dict[str, float]:
    """``reward/<key>/mean`` of each numeric key, over the trajectories that have a value for it.

    Texts (``error``, ``pred``) and lists have no mean; a key without any value is left out.
    """
    values: dict[str, list[float]] = {}
    for info in infos:
        for key, value in info.items():
            if value is not None and not isinstance(value, str | list):
                values.setdefault(key, []).append(float(value))
    return {f"reward/{key}/mean": sum(numbers) / len(numbers) for key, numbers in values.items()}


class RewardDetails(DumpsColumns):
    """Adds ``reward/*`` to a step's metrics, and every key of the reward manager to its dump."""

    def _compute_metrics(
        self, batch: Batch, metrics: dict, timing_raw: Mapping[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        real = real_rows(batch.tags).tolist()
        metrics.update(reward_metrics(info for info, counts in zip(details_of(batch), real, strict=True) if counts))

    def dump_lines(self, batch: Batch) -> list[FieldDict]:
        """The reward manager's keys, as in verl's validation dump."""
        return [{**line, **details} for line, details in zip(super().dump_lines(batch), details_of(batch), strict=True)]
