"""What is lost where a process of a run is killed (SIGKILL, as the kernel does it when memory runs out).

Without verl_mars/trainer/watch.py and rollout/reward_workers.py, verl 0.9.1 waits for ever for a killed
agent-loop worker, names a setting that does not help after a killed rollout server, and goes on for good without half
of all rollouts after one of two reward workers was killed.
"""

import time

import pytest
from anchor_world import FAILS, ROLLOUTS, assert_formula, assert_own_anchors, rows_of, run_world
from drift import assert_same

pytestmark = [pytest.mark.integration, pytest.mark.regress]

FOUR_STEPS = ("trainer.total_training_steps=4", "trainer.total_epochs=2", "trainer.test_freq=-1")
KILLS = (1, "ir")
SOON = 90
"""Seconds from a death to the end of all processes; 10 where nothing else runs."""


@pytest.fixture(scope="module")
def killed(small_run, tmp_path_factory):
    """A function: a run that saves every second step and in whose third step a process is killed."""

    def run(what, *overrides):
        folder = tmp_path_factory.mktemp(what)
        result = small_run(
            "toy_mars_grpo",
            *(*FOUR_STEPS, "trainer.save_freq=2", f"trainer.default_local_dir={folder}", *overrides),
            modules=["kill_probe"],
            env={"KILL": f"{what}:3", "KILLED_FILE": str(folder / "killed")},
            fails=True,
        )
        result.folder, result.seconds = folder, time.time() - (folder / "killed").stat().st_mtime
        print(f"{what} killed; ended after {result.seconds:.1f} s")
        return result

    return run


def assert_it_ended_with(run, sentence):
    """By itself and at once, with a sentence that says what died and how to go on."""
    assert run.returncode == 1, "it was ended because it did not end"
    assert run.seconds < SOON
    assert sorted(run.metrics) == [1, 2]
    assert sentence in run.log
    assert f"it goes on from {run.folder}/global_step_2, and nothing before it is lost." in run.log


@pytest.fixture(scope="module")
def server_killed(killed):
    return killed("rollout_server")


@pytest.fixture(scope="module")
def whole(small_run):
    """The same run, unharmed."""
    return small_run("toy_mars_grpo", *FOUR_STEPS)


def test_a_killed_rollout_server_ends_the_run(server_killed):
    assert_it_ended_with(server_killed, "rollout server 0 of 1 died, and with it all that it was sampling.")


def test_the_steps_before_are_those_of_a_run_unharmed(server_killed, whole):
    assert_same({step: whole.metrics[step] for step in (1, 2)}, server_killed.metrics)


def test_resuming_loses_nothing(server_killed, whole, small_run):
    resumed = small_run(
        "toy_mars_grpo", *FOUR_STEPS, "trainer.resume_mode=auto", f"trainer.default_local_dir={server_killed.folder}"
    )
    assert sorted(resumed.metrics) == [3, 4]
    assert_same({step: whole.metrics[step] for step in (3, 4)}, resumed.metrics)


def test_a_killed_agent_loop_worker_ends_the_run(killed):
    run = killed("agent_loop_worker", "actor_rollout_ref.rollout.agent.num_workers=2")
    assert_it_ended_with(run, "agent-loop worker 0 of 2 died, and with it the prompts that it was rolling out.")


def test_the_only_reward_worker_killed_ends_the_run(killed):
    """In an asynchronous mode, where verl would replace the failed groups for ever."""
    run = killed("reward_worker", "trainer.v1.trainer_mode=mars_colocate_async")
    assert_it_ended_with(run, "reward worker 0 of 1 died, and with it all scoring.")


def test_a_mono_session_that_kills_one_of_two_reward_workers_costs_its_anchor(tmp_path, run_verl, tiny_model):
    """In the first of two steps; in both no fused rollout is lost."""
    run = run_world(
        tmp_path,
        run_verl,
        tiny_model,
        *("data.train_batch_size=3", "actor_rollout_ref.actor.ppo_mini_batch_size=3", "data.shuffle=false"),
        *("reward.num_workers=2", "trainer.total_training_steps=2", "trainer.val_before_train=false"),
        kills=KILLS,
    )
    assert [{row["index"] for row in rows_of(step)} for step in run.steps] == [{0, 1, 2}, {3, 4, 5}]
    assert_own_anchors(run, missing=(FAILS, KILLS))
    assert_formula(run)
    for step in (1, 2):
        assert len(rows_of(run.steps[step - 1])) == 3 * ROLLOUTS
        assert run.metrics[step]["mars/missing_rollouts"] == 0
    assert "a reward worker died, 1 are left to score with" in run.log
    assert "the session of mono(ir) failed, its anchor is missing: ActorDiedError" in run.log
