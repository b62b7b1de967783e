"""A run that was stopped and resumed from its checkpoint goes on with the numbers of one that was not."""

import json

import pytest
from drift import assert_same

from verl_mars.preflight.checkpoints import checkpoint_faults, last_checkpoint
from verl_mars.preflight.doctor import compose_recipe

pytestmark = [pytest.mark.integration, pytest.mark.regress]

# Two epochs of two steps: the second one uses the anchors of the first, which the checkpoint must hold.
ALL_THE_SAME = ("algorithm.mars.anchor_every=2", "trainer.total_training_steps=4", "trainer.total_epochs=2")


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory):
    """A run of four steps that saves every second one in ``folder``."""
    folder = tmp_path_factory.mktemp("checkpoints")
    run = small_run("toy_mars_grpo", *ALL_THE_SAME, f"trainer.default_local_dir={folder}", "trainer.save_freq=2")
    run.folder = folder
    return run


def test_the_steps_after_a_checkpoint_are_the_same(whole, small_run):
    resumed = small_run(
        "toy_mars_grpo",
        *ALL_THE_SAME,
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={whole.folder}/global_step_2",
    )
    assert sorted(resumed.metrics) == [3, 4]
    assert_same({step: whole.metrics[step] for step in (3, 4)}, resumed.metrics)
    assert whole.metrics[3]["mars/anchor_tokens"] == 0 and whole.metrics[1]["mars/anchor_tokens"] > 0


def test_what_verl_saved_says_what_it_fits(whole, toy_data, tiny_model, tmp_path):
    def faults(*overrides):
        fixed = [*toy_data, f"actor_rollout_ref.model.path={tiny_model}", "trainer.resume_mode=auto"]
        fixed.append(f"trainer.default_local_dir={whole.folder}")
        config = compose_recipe("toy_mars_grpo", [*fixed, *overrides])
        assert last_checkpoint(config) == whole.folder / "global_step_4"
        return list(checkpoint_faults(config))

    config = json.loads((tiny_model / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert faults() == []
    assert "saved by 1 ranks" in faults("trainer.n_gpus_per_node=2")[0]
    assert "has text_config.intermediate_size" in faults(f"actor_rollout_ref.model.path={tmp_path}")[0]
    assert "was trained with 'mars'" in faults("algorithm.adv_estimator=grpo")[0]
