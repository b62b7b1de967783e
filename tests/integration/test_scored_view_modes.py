"""Methods that rescore, over MARS, in the asynchronous trainer modes."""

import pytest
from letters_reward import LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

MODES = {
    "mars_colocate_async": ["actor_rollout_ref.actor.ppo_mini_batch_size=8"],
    # two local updates of 4 prompts a step, then new weights for the rollout server
    "mars_separate_async": [
        "hardware=cpu_separate",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "trainer.total_epochs=9",
    ],
}
METRICS = {
    "vogue": ["vogue/noisy_share"],
    "pgpo": ["pgpo/dependency_mean", "pgpo/boosted_tokens"],
    "papo": ["papo/perception_kl", "papo/pull"],
    "vppo": ["vppo/dependency_mean", "vppo/scale_max"],
}
RECIPES = {"vppo": "toy_vppo_dapo"}
EXACT = (("vogue", "mars_separate_async"), ("pgpo", "mars_colocate_async"), ("vppo", "mars_colocate_async"))
"""Compared over the whole vocabulary: each worker class of ours runs, with a view's pixels and without."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", METRICS)
def test_views_are_scored(name, mode, small_run):
    settings = [
        f"algorithm.{name}.base=mars",
        *([f"algorithm.{name}.divergence=exact"] if (name, mode) in EXACT else []),
        f"trainer.v1.trainer_mode={mode}",
    ]
    run = small_run(RECIPES.get(name, f"toy_{name}_grpo"), *LETTERS, *settings, *MODES[mode])
    for step in (1, 2):
        assert {"mars/info_gain", "timing_s/score_view", *METRICS[name]} <= run.metrics[step].keys()
        assert run.metrics[step]["actor/grad_norm"] > 0
    if name == "vogue":
        assert 0 < run.metrics[1]["vogue/noisy_share"] < 1
        assert run.metrics[1]["vogue/uncertainty"] > 0
    elif name == "papo":
        assert run.metrics[1]["papo/perception_kl"] > 0
    else:
        assert run.metrics[1][f"{name}/dependency_mean"] > 0
