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
METRICS = {"vogue": ["vogue/noisy_share"], "pgpo": ["pgpo/dependency_mean", "pgpo/boosted_tokens"]}
DIVERGENCES = {("vogue", "mars_colocate_async"): "sampled", ("pgpo", "mars_separate_async"): "sampled"}
"""The other two are compared over the whole vocabulary: each worker class of ours runs once."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", METRICS)
def test_views_are_scored(name, mode, small_run):
    settings = [
        f"algorithm.{name}.base=mars",
        f"algorithm.{name}.divergence={DIVERGENCES.get((name, mode), 'exact')}",
        f"trainer.v1.trainer_mode={mode}",
    ]
    run = small_run(f"toy_{name}_grpo", *LETTERS, *settings, *MODES[mode])
    for step in (1, 2):
        assert {"mars/info_gain", "timing_s/score_view", *METRICS[name]} <= run.metrics[step].keys()
        assert run.metrics[step]["actor/grad_norm"] > 0
    if name == "vogue":
        assert 0 < run.metrics[1]["vogue/noisy_share"] < 1
        assert run.metrics[1]["vogue/uncertainty"] > 0
    else:
        assert run.metrics[1]["pgpo/dependency_mean"] > 0
