"""The probe's intervals cover, its tests keep their level, its power figure is right: on data whose gain is known."""

import numpy as np
import pytest
from scipy import stats

from verl_mars.probe.statistics import (
    Estimate,
    cluster_numbers,
    design_effect,
    holm,
    means,
    rows_needed,
    sign_flip_p,
    smallest,
)


def paired(rng, rows, gain, disagree):
    """Differences of two right-or-wrong views: they disagree on this share of rows, the first is ahead by ``gain``."""
    draw = rng.random(rows)
    return np.where(draw < (disagree + gain) / 2, 1.0, np.where(draw < disagree, -1.0, 0.0))


def clustered(rng, sizes, gain, spread):
    """Differences whose chance of +1 varies from scene to scene around a mean gain."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    ahead = np.clip(0.3 + gain / 2 + spread * rng.choice([-1.0, 1.0], len(sizes)), 0, 1)[clusters]
    draw = rng.random(len(clusters))
    return np.where(draw < ahead, 1.0, np.where(draw < ahead + 0.3 - gain / 2, -1.0, 0.0)), clusters


def covered(draw, gain, count=200):
    inside = 0
    for number in range(count):
        values, clusters = draw(np.random.default_rng([7, number]))
        estimate = means({"gain": values}, clusters, resamples=1000, seed=number)["gain"]
        inside += estimate.low <= gain <= estimate.high
    return inside / count


@pytest.mark.slow
@pytest.mark.parametrize("rows", [40, 300])
def test_intervals_of_independent_rows_cover(rows):
    assert covered(lambda rng: (paired(rng, rows, 0.1, 0.4), np.arange(rows)), 0.1) == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("scenes", [15, 60])
def test_intervals_of_scenes_cover(scenes):
    def draw(rng):
        return clustered(rng, rng.integers(2, 12, scenes), 0.1, 0.25)

    assert covered(draw, 0.1) == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
def test_ignoring_scenes_would_not_cover():
    """The check above can fail: the same data with each row as its own cluster is far too sure."""

    def draw(rng):
        values, _ = clustered(rng, rng.integers(2, 12, 60), 0.1, 0.25)
        return values, np.arange(len(values))

    assert covered(draw, 0.1) < 0.9


def test_a_gap_leaves_out_its_row():
    values = np.array([1.0, np.nan, 0.0, 1.0])
    estimate = means({"a": values, "b": np.full(4, np.nan)}, np.arange(4))
    assert estimate["a"].value == pytest.approx(2 / 3) and estimate["a"].rows == 3
    assert "b" not in estimate


def test_equal_rows_do_not_make_a_certain_figure():
    estimate = means({"a": np.zeros(30)}, np.arange(30))["a"]
    assert estimate.value == 0 and estimate.low == pytest.approx(-estimate.high)
    assert estimate.high == pytest.approx(1 - 0.025 ** (1 / 30))
    share = means({"a": np.zeros(3), "b": np.ones(3)}, np.arange(3), proportions=["a", "b"])
    assert share["a"].low == 0 and share["b"].high == 1 and share["b"].low == pytest.approx(0.025 ** (1 / 3))
    alone = means({"a": np.zeros(30)}, np.zeros(30, int))["a"]
    assert alone.low is None and alone.shown == 0


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    first, again = (means({"a": values}, np.arange(50), seed=3)["a"] for _ in range(2))
    assert first == again != means({"a": values}, np.arange(50), seed=4)["a"]


def test_sign_flips_are_mcnemars_exact_test():
    differences = np.array([1.0] * 14 + [-1.0] * 4 + [0.0] * 40)
    assert sign_flip_p(differences, np.arange(58)) == pytest.approx(stats.binomtest(4, 18).pvalue)
    assert sign_flip_p(np.zeros(5), np.arange(5)) == 1.0


def test_flipped_scenes_keep_the_level():
    below = 0
    for number in range(200):
        rng = np.random.default_rng([3, number])
        values, clusters = clustered(rng, rng.integers(2, 12, 30), 0.0, 0.25)
        values *= rng.choice([-1.0, 1.0], 30)[clusters]  # exchangeable: no gain in any scene
        below += sign_flip_p(values, clusters, flips=500, seed=number) < 0.05
    assert below / 200 == pytest.approx(0.05, abs=0.03)


def test_flipped_scenes_against_all_flips():
    sums = np.array([3.0, -1.0, 2.0, 2.0, 5.0, -2.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = (np.abs(signs @ np.abs(sums)) >= abs(sums.sum())).mean()
    assert sign_flip_p(sums, np.arange(6), flips=50_000) == pytest.approx(exact, abs=0.01)


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_the_smallest_gain_is_that_over_the_best_source():
    first, second = Estimate(0.2, 0.1, 0.3, 50, 50, 0.001), Estimate(0.05, -0.02, 0.4, 50, 50, 0.2)
    assert smallest([first, second]) == Estimate(0.05, -0.02, 0.3, 50, 50, 0.2)


def found(rows, gain, disagree, trials=1500):
    """Share of data sets of this size in which the gain is found at 5%."""
    hits = 0
    for number in range(trials):
        values = paired(np.random.default_rng([11, number]), rows, gain, disagree)
        deviation = values.std() / np.sqrt(rows)
        hits += abs(values.mean()) / deviation > stats.norm.ppf(0.975) if deviation else 0
    return hits / trials


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "disagree"), [(0.05, 0.2), (0.1, 0.5)])
def test_power_figure(gain, disagree):
    """10% fewer rows miss 80%, 10% more exceed it: the figure is within 10% of the right one."""
    pilot = paired(np.random.default_rng(0), 20_000, 0.0, disagree)  # the pilot's own gain does not matter
    rows = rows_needed(gain, pilot, np.arange(len(pilot)))
    assert found(round(0.9 * rows), gain, disagree) < 0.8 < found(round(1.1 * rows), gain, disagree)


def test_power_counts_scenes():
    rng = np.random.default_rng(1)
    values, clusters = clustered(rng, [10] * 400, 0.0, 0.3)
    alone = rows_needed(0.05, values, np.arange(len(values)))
    together = rows_needed(0.05, values, clusters)
    assert together / alone == pytest.approx(design_effect(values, clusters), rel=0.02) and together > 2 * alone
    # (10 rows of a scene: the variance of a scene's mean over a tenth of that of a row)
    by_scene = values.reshape(400, 10).mean(axis=1)
    assert design_effect(values, clusters) == pytest.approx(by_scene.var(ddof=1) * 10 / values.var(ddof=1), rel=0.01)


def test_power_refuses_the_impossible():
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        rows_needed(0.0, np.zeros(5), np.arange(5))
    with pytest.raises(ValueError, match="at least two"):
        rows_needed(0.1, np.array([1.0, np.nan]), np.arange(2))


def test_rows_without_a_scene_stand_alone():
    assert cluster_numbers(["a", None, "a", None, "b"]).tolist() == [0, 1, 0, 2, 3]
