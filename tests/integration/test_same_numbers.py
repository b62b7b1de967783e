"""What must not change a number: the plugin beside stock verl, and a second run with the same seed."""

import math

import pytest

pytestmark = pytest.mark.integration

CLOCK = ("timing_s/", "timing_per_token_ms/", "perf/", "actor/perf/")
"""Metrics of time and memory."""


def numbers(run):
    """Every metric of every step but those of the clock; NaN made equal to itself."""
    return {
        (step, name): "nan" if isinstance(value, float) and math.isnan(value) else value
        for step, metrics in run.metrics.items()
        for name, value in metrics.items()
        if not name.startswith(CLOCK)
    }


def assert_same(one, other):
    one, other = numbers(one), numbers(other)
    assert one.keys() == other.keys()
    assert {key: (one[key], other[key]) for key in one if one[key] != other[key]} == {}
    assert len([key for key in one if key[0] == 2]) > 50  # the second step was trained on what the first one made


STOCK = (
    "reward.reward_manager.name=naive",
    "reward.custom_reward_function.path=pkg://verl_mars.reward",
    "reward.custom_reward_function.name=compute_score",
)


def test_stock_grpo_is_the_same_with_and_without_the_plugin(small_run):
    """Bit for bit. The second arm loads the CPU platform alone; verl does not look at entry points there."""
    with_plugin = small_run("toy_grpo", *STOCK)
    without = small_run(
        "toy_grpo", *STOCK, modules=["verl_mars.cpu"], env={"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_PLATFORM": "cpu"}
    )
    assert_same(with_plugin, without)


def test_same_seed_same_numbers(mars_run, train_mars):
    assert_same(mars_run, train_mars())


def test_rewards_and_anchors_arrive_in_the_metrics(mars_run):
    for step in (1, 2):
        assert mars_run.metrics[step]["mars/missing_anchors"] == 0
        assert mars_run.metrics[step]["rollout_corr/log_ppl_abs_diff"] < 1e-3
        assert "mars/info_gain/rgb" in mars_run.metrics[step]
    assert any(name.startswith("val-core/") for name in mars_run.metrics[2])
