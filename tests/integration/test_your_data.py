"""docs/your-data.md on real verl: three commands lead from another format to a trained step."""

import math
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))

from test_data_your_data import SECTIONS, make_files  # noqa: E402  # the page, read beside the unit tests

from verl_mars.cli import app  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


def test_three_commands_train_a_step(tmp_path, monkeypatch, run_verl, any_text_model):
    """With the toy recipe and a model of 0.2 M parameters in place of the page's: that one needs a GPU."""
    monkeypatch.chdir(tmp_path)
    body = SECTIONS["EasyR1, R1-V"]
    make_files(body)
    commands = re.findall(r"```bash\n(.*?)```", body, re.S)[0].strip().splitlines()
    convert, validate, train = map(shlex.split, commands)
    for command in (convert, validate):
        result = CliRunner().invoke(app, command[1:])
        assert result.exit_code == 0, result.output
    (recipe,) = (word.split("=")[1] for word in train if word.startswith("--config-name="))
    (files,) = (word for word in train if word.startswith("data.train_files="))
    files = files.replace("[", f"[{tmp_path}/")
    result = run_verl(
        f"toy_{recipe}",
        files,
        files.replace("train_files", "val_files"),
        f"actor_rollout_ref.model.path={any_text_model}",
        "data.train_batch_size=2",
        "data.max_prompt_length=640",
        "data.max_response_length=8",
        "actor_rollout_ref.rollout.max_model_len=648",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    step = result.metrics[1]
    assert math.isfinite(step["actor/pg_loss"]) and "mars/missing_anchors" in step
    assert "is missing: " not in result.log, "the session of a source failed"
    assert "Error in _run_prompt" not in result.log
