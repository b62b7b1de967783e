"""PGPO and VOGUE over MARS in the asynchronous trainer modes."""

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
ESTIMATORS = {
    "mars_colocate_async": ("toy_vogue_grpo", "vogue", ["vogue/noisy_share"]),
    "mars_separate_async": ("toy_pgpo_grpo", "pgpo", ["pgpo/dependency_mean", "pgpo/boosted_tokens"]),
}


@pytest.mark.parametrize("mode", MODES)
def test_views_are_scored(mode, small_run):
    recipe, name, metrics = ESTIMATORS[mode]
    base = f"algorithm.{name}.base=mars"
    run = small_run(recipe, *LETTERS, base, f"trainer.v1.trainer_mode={mode}", *MODES[mode])
    for step in (1, 2):
        assert {"mars/info_gain", "timing_s/score_view", *metrics} <= run.metrics[step].keys()
        assert run.metrics[step]["actor/grad_norm"] > 0
    if name == "vogue":
        assert 0 < run.metrics[1]["vogue/noisy_share"] < 1
    else:
        assert run.metrics[1]["pgpo/dependency_mean"] > 0
