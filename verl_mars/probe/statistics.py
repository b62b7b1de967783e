"""Paired statistics over N rows that may share a scene: intervals, tests, corrections and the rows that a gain needs.

Views are compared row by row, so whatever makes a row hard cancels out. Rows of one scene are not independent; scenes
(*clusters*) are therefore what is resampled and what changes sign. A row without a scene is a cluster by itself.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from verl_mars.fields import FieldDict

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4000
FLIPS = 20_000
_CHUNK = 4_000_000  # numbers held at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over rows with its interval.

    ``low`` and ``high`` are None where one cluster is all there is: nothing can be said of its spread. ``p`` is the
    two-sided p-value of a mean of 0, None where no test was made.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    clusters: int
    p: float | None = None

    def as_dict(self) -> FieldDict:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def shown(self) -> int:
        """1 or -1 where the interval lies on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def cluster_numbers(names: Sequence[str | None]) -> NDArray[np.int64]:
    """(N,) numbers 0..G-1 of the rows' clusters; a row without a name is a cluster by itself."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(i if name is None else name, len(numbers)) for i, name in enumerate(names)])


def means(
    columns: Mapping[str, Floats],
    clusters: NDArray[np.int64],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    proportions: Collection[str] = (),
) -> dict[str, Estimate]:
    """The mean of each column over its rows, with a bootstrap interval over clusters.

    A resample draws G of G clusters with replacement and takes sum over rows / number of rows, so that clusters of any
    size and columns with gaps are handled alike. The percentile interval is too short for few clusters; it is expanded
    as Hesterberg (2015, arXiv:1411.5279) does: quantiles at Phi(-+sqrt(G / (G - 1)) t(1 - alpha/2, G - 1)).

    Where all clusters have one mean, a resample cannot vary; the interval then holds what a cluster that was not drawn
    could change: the share of such clusters is below 1 - (alpha/2)^(1/G) with confidence 1 - alpha/2, and values are
    taken to lie in [-1, 1], those of ``proportions`` in [0, 1].

    Args:
        columns: name -> (N,) values, NaN where a row has none.
        clusters: (N,) numbers from 0.
        confidence: of the interval.
        resamples: shared by all columns, so that what is compared is drawn together.
        seed: of the resampling.
        proportions: columns of accuracies and shares; the others are differences.

    Returns:
        An estimate for each column that has a value in any row.
    """
    if not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)  # (N, M)
    there = ~np.isnan(values)
    groups = int(clusters.max()) + 1 if len(clusters) else 0
    sums, sizes = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(sums, clusters, np.where(there, values, 0.0))
    np.add.at(sizes, clusters, there.astype(float))
    drawn = _resampled(sums, sizes, resamples, seed)
    estimates = {}
    for column, name in enumerate(columns):
        count, used = int(sizes[:, column].sum()), sizes[:, column] > 0
        if count == 0:
            continue
        value = float(sums[:, column].sum() / count)
        each = sums[used, column] / sizes[used, column]
        least = 0.0 if name in proportions else -1.0
        low, high = _interval(value, each, drawn[:, column], confidence, least)
        estimates[name] = Estimate(value, low, high, count, int(used.sum()))
    return estimates


def _resampled(sums: Floats, sizes: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, M) means over resampled clusters; NaN where a resample has no row of a column."""
    groups = len(sums)
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, _CHUNK // max(1, groups))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        places = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * groups).reshape(count, groups).astype(float)
        with np.errstate(invalid="ignore"):
            drawn.append((times @ sums) / (times @ sizes))
    return np.concatenate(drawn)


def _interval(
    value: float, each: Floats, drawn: Floats, confidence: float, least: float
) -> tuple[float | None, float | None]:
    """Ends of the interval; ``least``: below which no value lies, and none above 1."""
    groups, alpha = len(each), 1 - confidence
    if groups < 2:
        return None, None
    if np.allclose(each, each[0]):
        unseen = 1 - (alpha / 2) ** (1 / groups)
        return value - unseen * (value - least), value + unseen * (1 - value)
    tail = stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * stats.t.ppf(1 - alpha / 2, groups - 1))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def smallest(estimates: Sequence[Estimate]) -> Estimate:
    """The smallest of several gains: fused over the best source is the smallest of its gains over each.

    Fused beats the best source only if it beats every source, so the p-value is the largest (an intersection-union
    test, which needs no correction), and the interval runs from the smallest low end to the smallest high end.

    Raises:
        ValueError: no estimates.
    """
    if not estimates:
        raise ValueError("the smallest of no estimates was asked for")
    least = min(estimates, key=lambda estimate: estimate.value)
    lows = [estimate.low for estimate in estimates if estimate.low is not None]
    highs = [estimate.high for estimate in estimates if estimate.high is not None]
    known = len(lows) == len(highs) == len(estimates)
    tests = [estimate.p for estimate in estimates if estimate.p is not None]
    return Estimate(
        least.value,
        min(lows) if known else None,
        min(highs) if known else None,
        least.rows,
        least.clusters,
        max(tests) if tests else None,
    )


def sign_flip_p(differences: Floats, clusters: NDArray[np.int64], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p-value of "the two views are exchangeable": the sign of each cluster's sum of differences is a coin.

    For right or wrong answers and clusters of one row this is McNemar's exact test, and computed as such. Else the sums
    are flipped at random ``flips`` times and the share of sums at least as far from 0 is returned, itself counted in.

    Args:
        differences: (N,) first view minus second, NaN where a row lacks either.
        clusters: (N,) numbers from 0.
    """
    there = ~np.isnan(differences)
    sums = np.bincount(clusters[there], weights=differences[there])
    sums = sums[np.abs(sums) > 1e-12]
    if not len(sums):
        return 1.0
    sizes = np.abs(sums)
    if np.allclose(sizes, sizes[0]):
        return float(stats.binomtest(int((sums > 0).sum()), len(sums)).pvalue)
    rng = np.random.default_rng(seed)
    observed, beyond = abs(sums.sum()) - 1e-9, 0
    step = max(1, _CHUNK // len(sums))
    for first in range(0, flips, step):
        signs = rng.integers(0, 2, (min(step, flips - first), len(sums))) * 2 - 1
        beyond += int((np.abs(signs @ sizes) >= observed).sum())
    return (beyond + 1) / (flips + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: p-values that may be compared to alpha whatever their number."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def rows_needed(
    gain: float, differences: Floats, clusters: NDArray[np.int64], *, power: float = 0.8, confidence: float = CONFIDENCE
) -> int:
    """Rows for which a gain of this size is found with probability ``power``, judged by how the views differ here.

    Connor (1987) for paired shares: n = (z_a sqrt(s) + z_b sqrt(s - gain^2))^2 / gain^2, where s is the mean squared
    difference (the share of rows on which the views disagree, for right or wrong answers). Rows that share scenes count
    less: s is multiplied by the design effect, the variance of the mean with clusters over that without.

    Args:
        gain: above 0 and at most 1.
        differences: (N,) first view minus second, NaN where a row lacks either.
        clusters: (N,) numbers from 0.

    Raises:
        ValueError: a gain outside (0, 1], or fewer than two rows to judge by.
    """
    if not 0 < gain <= 1:
        raise ValueError(f"--power {gain}: the gain must be above 0 and at most 1, such as 0.03")
    there = ~np.isnan(differences)
    found, groups = differences[there], clusters[there]
    if len(found) < 2:
        raise ValueError(f"{len(found)} rows have both views; at least two are needed to judge how they differ")
    effect = design_effect(found, groups)
    # A gain takes at least that share of rows on which the views differ
    square = max(float(np.mean(found**2)), gain) * effect
    ends = stats.norm.ppf(1 - (1 - confidence) / 2), stats.norm.ppf(power)
    root = ends[0] * np.sqrt(square) + ends[1] * np.sqrt(max(square - gain**2, 0.0))
    return int(np.ceil(root**2 / gain**2))


def design_effect(values: Floats, clusters: NDArray[np.int64]) -> float:
    """Variance of the mean with clusters over its variance with independent rows; at least 1."""
    centred = values - values.mean()
    independent = float((centred**2).sum())
    if independent == 0.0:
        return 1.0
    numbers = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(numbers, weights=centred)
    groups, rows = len(sums), len(values)
    if groups in (1, rows):
        return 1.0
    return max(1.0, float((sums**2).sum()) / independent * (groups / (groups - 1)) / (rows / (rows - 1)))
