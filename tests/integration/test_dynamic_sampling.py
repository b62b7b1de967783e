"""DAPO's dynamic sampling under MARS: equal fused rewards are no reason to drop a group whose anchors differ."""

import pytest
from anchor_world import ROLLOUTS, assert_own_anchors, real_rows, rows_of, run_world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_verl, tiny_model):
    """Two steps in which every fused reward is 0.5. Prompt 0 has one source, so no anchor: only it teaches nothing."""
    return run_world(
        tmp_path_factory.mktemp("filter"),
        run_verl,
        tiny_model,
        "data.train_batch_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "reward.reward_kwargs={}",
        "trainer.total_epochs=9",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        config_name="toy_mars_dapo",
        env={"ANCHOR_SAME_REWARD": "1"},
    )


def test_whole_groups_are_trained_on_and_all_of_them_teach(run):
    for step in run.steps:
        assert len(rows_of(step)) == 4 * ROLLOUTS
        assert 0 not in {row["index"] for row in rows_of(step)}
        assert all(row["advantages"][0] != 0 for row in rows_of(step))
    assert_own_anchors(run)


def test_groups_kept_through_their_anchors_are_counted(run):
    for step in (1, 2):
        assert run.metrics[step]["mars/kept_groups"] == 4
        assert run.metrics[step]["mars/rescued_groups"] == 1
    assert run.metrics[1]["critic/score/max"] == run.metrics[1]["critic/score/min"] == 0.5
    # six prompts an epoch: two batches of four cannot do without the one that is dropped
    assert sum(run.metrics[step].get("training/filter_groups/evicted_samples", 0) for step in (1, 2)) >= 1
    assert len(real_rows(run)) == 8 * ROLLOUTS
