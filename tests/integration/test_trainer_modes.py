"""The asynchronous trainer modes: anchors stay with their prompts while rollout and training overlap."""

import pytest
from anchor_world import PROMPTS, ROLLOUTS, assert_formula, assert_own_anchors, real_rows, rows_of, run_world

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

# Ray's CPUs: what verl's actors reserve (`reserved_cpus` of the doctor) and not one more.
MODES = {
    "mars_colocate_async": [
        "data.train_batch_size=3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=3",
        "ray_kwargs.ray_init.num_cpus=5",
    ],
    # two local updates of 3 prompts a step, then new weights for the rollout server
    "mars_separate_async": [
        "hardware=cpu_separate",
        "data.train_batch_size=6",
        "actor_rollout_ref.actor.ppo_mini_batch_size=3",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "trainer.total_epochs=9",
        "ray_kwargs.ray_init.num_cpus=7",
    ],
}


@pytest.fixture(scope="module", params=MODES)
def run(request, tmp_path_factory, run_verl, tiny_model):
    """Two steps of `mars`; a batch of prompts is on its way before the first."""
    result = run_world(
        tmp_path_factory.mktemp(request.param),
        run_verl,
        tiny_model,
        f"trainer.v1.trainer_mode={request.param}",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        *MODES[request.param],
    )
    result.updates = 2 if request.param == "mars_separate_async" else 1
    return result


def test_every_update_has_whole_groups(run):
    assert len(run.steps) == 2 * run.updates
    for step in run.steps:
        assert len(rows_of(step)) == 3 * ROLLOUTS and len({row["uid"] for row in rows_of(step)}) == 3


def test_each_trajectory_has_the_anchors_of_its_own_prompt(run):
    assert {row["index"] for row in real_rows(run)} <= set(range(PROMPTS))
    assert_own_anchors(run)


def test_advantages_are_those_of_the_formula(run):
    assert_formula(run)


def test_the_distance_of_weights_is_told(run):
    for step in (1, 2):
        assert 0 <= run.metrics[step]["mars/anchor_version_gap"] <= 1
        assert run.metrics[step]["training/off_policy/trajectory_staleness/mean"] >= 0


def test_counts_are_added_up_over_local_updates(run):
    """Prompt 0 has one source, prompt 4 has a session that fails."""
    missing = sum(row["index"] in (0, 4) for row in real_rows(run)) / ROLLOUTS
    assert sum(run.metrics[step]["mars/missing_anchors"] for step in (1, 2)) == missing
