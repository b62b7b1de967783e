"""What a fault costs: the anchor of the session that failed, and nothing else.

Of 14 mono sessions one fails and one hangs, 14%; test_killed.py ends the processes that sessions run in.
"""

import pytest
from anchor_world import FAILS, PROMPTS, ROLLOUTS, assert_formula, assert_own_anchors, rows_of, run_world

pytestmark = [pytest.mark.integration, pytest.mark.regress]

HANGS = (5, "depth")


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_verl, tiny_model):
    """One step over all prompts: of 14 mono sessions one fails and one never comes to an end."""
    return run_world(
        tmp_path_factory.mktemp("faults"),
        run_verl,
        tiny_model,
        f"data.train_batch_size={PROMPTS}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        "algorithm.mars.anchor_timeout_seconds=30",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        hangs=HANGS,
    )


def test_every_fused_trajectory_is_trained_on(run):
    (step,) = run.steps
    assert len(rows_of(step)) == PROMPTS * ROLLOUTS


def test_only_the_anchors_of_the_two_sessions_are_missing(run):
    assert_own_anchors(run, missing=(FAILS, HANGS))
    assert_formula(run)
    assert run.metrics[1]["mars/missing_anchors"] == 3  # and that of the prompt with one source


def test_the_log_says_which_and_why(run):
    assert "the session of mono(ir) failed, its anchor is missing: " in run.log
    assert "the session of mono(depth) failed, its anchor is missing: TimeoutError" in run.log
