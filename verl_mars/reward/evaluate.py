"""Metrics over many scored predictions, each with a bootstrap interval of 95%.

Every metric is a ratio of two sums over rows, so that a resampled data set costs two products.

| metric | tasks | value |
|---|---|---|
| ``acc`` | all | mean of ``acc`` |
| ``score``, ``format``, ``answered`` | all | their means |
| ``accuracy@0.5`` | grounding | share of rows whose ``iou`` is above 0.5: the authors' "accuracy", over all rows |
| ``mIoU`` | grounding | mean of ``iou`` |
| ``precision``, ``recall``, ``F1`` | grounding | over all boxes: found / predicted, found / true, 2 found / both |
| ``mean abs error`` | count | over the rows with a number |
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from verl_mars.tasks import task_named
from verl_mars.tasks.base import Floats, Ratio, column

Result = Mapping[str, Any]
CONFIDENCE = 0.95
_CHUNK = 4_000_000  # resampled weights held at a time


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its interval; the interval is None where resampling was turned off."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Metrics of one group of rows."""

    name: str
    rows: int
    metrics: dict[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def metrics_of(task: str, results: Sequence[Result], name: str = "all", resamples: int = 1000, seed: int = 0) -> Table:
    """Metrics of rows of one task.

    Args:
        results: what ``compute_score`` returned for each row, in any order.
        resamples: of the rows with replacement, for the percentile interval; 0 turns it off.
        seed: of the resampling; the same seed and rows give the same interval.

    Raises:
        ValueError: no rows.
    """
    if not results:
        raise ValueError("no rows to take metrics of")
    ratios = _ratios(task, results)
    totals = {key: (top.sum(), bottom.sum()) for key, (top, bottom) in ratios.items()}
    values = {key: top / bottom for key, (top, bottom) in totals.items() if bottom > 0}
    intervals = _intervals({key: ratios[key] for key in values}, len(results), resamples, seed)
    metrics = {key: Estimate(float(value), *intervals.get(key, (None, None))) for key, value in values.items()}
    return Table(name, len(results), metrics)


def grouped(
    task: str,
    results: Sequence[Result],
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> list[Table]:
    """:func:`metrics_of` each group of rows, groups in the order of their names."""
    names = sorted(set(groups))
    members: dict[str, list[Result]] = {name: [] for name in names}
    for result, group in zip(results, groups, strict=True):
        members[group].append(result)
    return [metrics_of(task, members[name], name, resamples, seed) for name in names]


def _ratios(task: str, results: Sequence[Result]) -> dict[str, Ratio]:
    ones = np.ones(len(results))
    ratios = {"acc": (column(results, "acc"), ones), **task_named(task).metrics(results)}
    return ratios | {name: (column(results, name), ones) for name in ("score", "format", "answered")}


def _intervals(ratios: dict[str, Ratio], rows: int, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Percentile intervals; a resample in which a metric has no denominator is left out for it."""
    if resamples <= 0 or not ratios:
        return {}
    rng = np.random.default_rng(seed)
    columns = np.stack([side for pair in ratios.values() for side in pair], axis=1)
    sums: list[Floats] = []
    done = 0
    while done < resamples:
        size = min(resamples - done, max(1, _CHUNK // rows))
        weights = rng.multinomial(rows, np.full(rows, 1.0 / rows), size=size)
        sums.append(weights @ columns)
        done += size
    drawn = np.concatenate(sums)
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    intervals = {}
    for index, name in enumerate(ratios):
        top, bottom = drawn[:, 2 * index], drawn[:, 2 * index + 1]
        values = top[bottom > 0] / bottom[bottom > 0]
        if values.size:
            low, high = np.percentile(values, [tail, 100.0 - tail])
            intervals[name] = (float(low), float(high))
    return intervals
