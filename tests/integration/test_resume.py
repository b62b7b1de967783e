"""A run that was stopped and resumed from its checkpoint goes on with the numbers of one that was not."""

import pytest
from drift import assert_same

pytestmark = [pytest.mark.integration, pytest.mark.regress]

# Two epochs of two steps: the second one uses the anchors of the first, which the checkpoint must hold.
ALL_THE_SAME = ("algorithm.mars.anchor_every=2", "trainer.total_training_steps=4", "trainer.total_epochs=2")


def test_the_steps_after_a_checkpoint_are_the_same(small_run, tmp_path):
    whole = small_run("toy_mars_grpo", *ALL_THE_SAME, f"trainer.default_local_dir={tmp_path}", "trainer.save_freq=2")
    resumed = small_run(
        "toy_mars_grpo",
        *ALL_THE_SAME,
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={tmp_path}/global_step_2",
    )
    assert sorted(resumed.metrics) == [3, 4]
    assert_same({step: whole.metrics[step] for step in (3, 4)}, resumed.metrics)
    assert whole.metrics[3]["mars/anchor_tokens"] == 0 and whole.metrics[1]["mars/anchor_tokens"] > 0
