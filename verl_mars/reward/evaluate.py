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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
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


def _ratios(task: str, results: Sequence[Result]) -> dict[str, tuple[Floats, Floats]]:
    """Metric -> per-row (numerator, denominator)."""
    ones = np.ones(len(results))

    def column(read: Callable[[Result], Any]) -> Floats:
        return np.array([read(result) for result in results], dtype=np.float64)

    def key(name: str) -> Floats:
        return column(lambda result: result[name] if result[name] is not None else 0.0)

    ratios = {"acc": (key("acc"), ones)}
    if task == "grounding" and results[0]["iou"] is not None:
        iou, predicted, true = key("iou"), key("boxes_predicted"), key("boxes_true")
        found = np.round(key("precision") * predicted)
        ratios |= {
            "accuracy@0.5": ((iou > 0.5).astype(np.float64), ones),
            "mIoU": (iou, ones),
            "precision": (found, predicted),
            "recall": (found, true),
            "F1": (2.0 * found, predicted + true),
        }
    if task == "count":
        named = column(lambda result: result["abs_error"] is not None)
        ratios["mean abs error"] = (key("abs_error"), named)
    return ratios | {name: (key(name), ones) for name in ("score", "format", "answered")}


def _intervals(
    ratios: dict[str, tuple[Floats, Floats]], rows: int, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
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
