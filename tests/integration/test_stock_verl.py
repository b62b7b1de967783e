"""The plugin changes nothing of a run that does not ask for it."""

import pytest
from drift import assert_same

pytestmark = pytest.mark.integration

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
    assert_same(with_plugin.metrics, without.metrics)
    assert len(with_plugin.metrics[2]) > 50  # the second step was trained on what the first one made
