"""Same seed, same numbers: fused and mono sessions sampled in one request, whatever the order of their arrival."""

import pytest
from drift import assert_same

pytestmark = pytest.mark.integration

SAMPLED = (
    "algorithm.mars.anchors_per_source=2",
    "algorithm.mars.mono_prompt=drop",
    "actor_rollout_ref.rollout.agent.num_workers=2",
)
"""Harder than the defaults: greedy anchors need no random number, and repeated pictures keep prompts alike. Two workers
share the prompts, so that requests arrive in any order."""


@pytest.fixture(scope="module")
def run(small_run):
    return small_run("toy_mars_grpo", *SAMPLED)


def test_a_second_run_gives_the_same_numbers(run, small_run):
    assert_same(run.metrics, small_run("toy_mars_grpo", *SAMPLED).metrics)
    assert len(run.metrics[2]) > 50  # the second step was trained on what the first one made


def test_rewards_and_anchors_arrive_in_the_metrics(run):
    for step in (1, 2):
        assert run.metrics[step]["mars/missing_anchors"] == 0
        assert run.metrics[step]["rollout_corr/log_ppl_abs_diff"] < 1e-3
        assert "mars/info_gain/rgb" in run.metrics[step]
    assert any(name.startswith("val-core/") for name in run.metrics[2])
