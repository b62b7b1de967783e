"""Every recipe for real models runs on the toy world: `hardware=cpu dataset=toy` and nothing else of it is changed."""

import pytest
import weight_transfer
from letters_reward import LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

TOY = ("hardware=cpu", "dataset=toy", *LETTERS)


@pytest.mark.parametrize("recipe", ["grpo", "dapo", "mars_grpo", "mars_dapo"])
def test_a_recipe_trains_the_toy(recipe, small_run):
    run = small_run(recipe, *TOY)
    assert sorted(run.metrics) == [1, 2]
    with_kl, with_anchors = recipe.endswith("grpo"), recipe.startswith("mars")
    for metrics in run.metrics.values():
        assert metrics["actor/grad_norm"] > 0
        assert metrics["critic/score/max"] > metrics["critic/score/min"]
        assert ("actor/kl_loss" in metrics) == with_kl
        assert ("mars/info_gain" in metrics) == with_anchors
        # answers of 12 tokens, the last 2 of which cost
        assert ("reward/overlong_reward/mean" in metrics) == (with_anchors and not with_kl)


@pytest.mark.parametrize(
    ("recipe", "settings"), [("mars_grpo", ()), ("pgpo_grpo", ("algorithm.pgpo.divergence=exact",))]
)
def test_an_adapter_is_trained_and_reaches_the_engine(recipe, settings, small_run):
    """The engine's probabilities are the actor's in the second step too; without the adapter they would not be."""
    run = small_run(recipe, *TOY, "adapter=lora", weight_transfer.LEARNING_RATE, *settings)
    assert sorted(run.metrics) == [1, 2]
    for metrics in run.metrics.values():
        assert metrics["actor/grad_norm"] > 0
        assert weight_transfer.differences(metrics) == []
    if settings:
        assert run.metrics[2]["pgpo/dependency_mean"] > 0
