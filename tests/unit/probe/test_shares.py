"""Classes of rows and contributions of sources, by hand."""

import numpy as np
import pytest

from verl_mars.probe.shares import mean_of_sources, row_class, shapley, subsets


@pytest.mark.parametrize(
    ("fused", "rgb", "depth", "expected"),
    [
        (True, False, False, "complementary"),
        (True, True, True, "redundant"),
        (True, True, False, "dominant:rgb"),
        (True, False, True, "dominant:depth"),
        (False, True, False, "interference"),
        (False, True, True, "interference"),
        (False, False, False, "unsolved"),
        (None, True, True, None),
        (True, None, True, None),
    ],
)
def test_class_of_two_sources(fused, rgb, depth, expected):
    assert row_class(fused, {"rgb": rgb, "depth": depth}) == expected


def test_class_of_other_numbers_of_sources():
    assert row_class(True, {"a": True}) is None
    assert row_class(True, {"a": True, "b": False, "c": True}) == "redundant"
    assert row_class(True, {"a": False, "b": False, "c": True}) == "dominant:c"


def test_shapley_by_hand():
    values = {frozenset(): 0.2, frozenset("a"): 0.5, frozenset("b"): 0.3, frozenset("ab"): 0.9}
    assert shapley("ab", values) == pytest.approx({"a": (0.3 + 0.6) / 2, "b": (0.1 + 0.4) / 2})


def test_shapley_sums_to_the_whole_gain():
    rng = np.random.default_rng(0)
    values = {subset: rng.random() for subset in subsets("abcd")}
    assert sum(shapley("abcd", values).values()) == pytest.approx(values[frozenset("abcd")] - values[frozenset()])


def test_shapley_of_a_missing_answer_is_unknown():
    values = {frozenset(): 0.0, frozenset("a"): np.nan, frozenset("b"): 0.0, frozenset("ab"): 1.0}
    assert np.isnan(shapley("ab", values)["a"])
    with pytest.raises(ValueError, match="at most 6"):
        shapley("abcdefg", {})


def test_mean_of_a_rows_own_sources():
    accuracies = np.array([[1.0, 0.0, np.inf], [1.0, np.nan, 0.0], [np.inf, np.inf, np.inf]])
    np.testing.assert_allclose(mean_of_sources(accuracies), [0.5, np.nan, np.nan])
