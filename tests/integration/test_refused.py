"""A trainer mode refuses what only the model's processor can tell, and still before any model is loaded."""

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.regress]


def test_long_prompts(small_run):
    run = small_run("toy_mars_grpo", "data.max_prompt_length=20", fails=True)
    assert run.returncode == 1 and run.metrics == {}
    assert "verl-mars refuses this run before any model is loaded" in run.log
    assert "train.parquet, row 0, prompt: " in run.log and "data.max_prompt_length allows 20" in run.log
    assert "model engine initialized" not in run.log and "WorkerDict" not in run.log
