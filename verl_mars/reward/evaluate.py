"""Metrics over many scored predictions, each with a bootstrap interval of 95%.

Every metric is a ratio of two sums over rows, so that a resampled data set costs two products.

| metric | tasks | value |
|---|---|---|
| ``acc`` | all | mean of ``acc`` |
| ``score``, ``format``, ``answered`` | all | their means |
| ``pass@k`` | all | share of rows with a right answer among k |
| ``accuracy@0.5`` | grounding | share of rows whose ``iou`` is above 0.5: the authors' "accuracy", over all rows |
| ``mIoU`` | grounding | mean of ``iou`` |
| ``precision``, ``recall``, ``F1`` | grounding | over all boxes: found / predicted, found / true, 2 found / both |
| ``mean abs error`` | count | over the rows with a number |
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from verl_mars.fields import FieldDict, Fields
from verl_mars.tasks import task_named
from verl_mars.tasks.base import Floats, Ratio, column

Result = Fields
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

    def as_dict(self) -> FieldDict:
        """Plain values, for JSON."""
        return asdict(self)


def metrics_of(
    task: str,
    results: Sequence[Result],
    name: str = "all",
    resamples: int = 1000,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Table:
    """Metrics of rows of one task.

    Args:
        task: of all rows.
        results: what ``compute_score`` returned for each response, in any order.
        name: of the table.
        rows: number of the row that each response belongs to; None: one response a row. Responses of one row are
            resampled together, and rows of k responses get ``pass@k``: the share with a right one.
        resamples: of the rows with replacement, for the percentile interval; 0 turns it off.
        seed: of the resampling; the same seed and rows give the same interval.

    Raises:
        ValueError: no rows.
    """
    if not results:
        raise ValueError("no rows to take metrics of")
    ratios = _ratios(task, results)
    if rows is not None and len(set(rows)) < len(rows):
        ratios = _by_row(ratios, results, rows)
    totals = {key: (top.sum(), bottom.sum()) for key, (top, bottom) in ratios.items()}
    values = {key: top / bottom for key, (top, bottom) in totals.items() if bottom > 0}
    intervals = _intervals({key: ratios[key] for key in values}, len(next(iter(ratios.values()))[0]), resamples, seed)
    metrics = {key: Estimate(float(value), *intervals.get(key, (None, None))) for key, value in values.items()}
    return Table(name, len(next(iter(ratios.values()))[0]), metrics)


def grouped(
    task: str,
    results: Sequence[Result],
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> list[Table]:
    """:func:`metrics_of` each group of rows, groups in the order of their names."""
    numbers = range(len(results)) if rows is None else rows
    members: dict[str, list[tuple[Result, int]]] = {name: [] for name in sorted(set(groups))}
    for result, group, row in zip(results, groups, numbers, strict=True):
        members[group].append((result, row))
    return [
        metrics_of(task, [result for result, _ in pairs], name, resamples, seed, [row for _, row in pairs])
        for name, pairs in members.items()
    ]


def _ratios(task: str, results: Sequence[Result]) -> dict[str, Ratio]:
    ones = np.ones(len(results))
    ratios = {"acc": (column(results, "acc"), ones), **task_named(task).metrics(results)}
    return ratios | {name: (column(results, name), ones) for name in ("score", "format", "answered")}


def _by_row(ratios: dict[str, Ratio], results: Sequence[Result], rows: Sequence[int]) -> dict[str, Ratio]:
    """Sums over the responses of each row, and ``pass@k`` where every row has k responses."""
    _, places = np.unique(np.asarray(rows), return_inverse=True)
    counts = np.bincount(places)

    def summed(values: Floats) -> Floats:
        sums: Floats = np.bincount(places, weights=values, minlength=len(counts)).astype(np.float64)
        return sums

    merged = {key: (summed(top), summed(bottom)) for key, (top, bottom) in ratios.items()}
    if counts.min() == counts.max():
        right = summed((column(results, "acc") == 1.0).astype(np.float64))
        merged[f"pass@{counts[0]}"] = ((right > 0).astype(np.float64), np.ones(len(counts)))
    return merged


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
