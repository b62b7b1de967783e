"""docs/your-data.md: the training command of every section composes and names the files that its conversion wrote."""

import re
import shlex
from pathlib import Path

import pytest

from verl_mars.preflight.doctor import compose_recipe

PAGE = (Path(__file__).parents[3] / "docs" / "your-data.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^python -m verl\.trainer\.main_ppo .*$", PAGE, re.M)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.search(r"data/(\w+)/", " ".join(command))[1])
def test_the_training_command_composes(command):
    name, *overrides = command[3:]
    recipe = name.removeprefix("--config-name=")
    config = compose_recipe(recipe, overrides)
    named = dict(word.split("=", 1) for word in overrides)
    for key in ("train_files", "val_files"):
        if f"data.{key}" in named:
            assert list(config.data[key]) == named[f"data.{key}"].strip("[]").split(",")
    assert config.algorithm.adv_estimator == "mars" and config.trainer.v1.trainer_mode.startswith("mars_")


def test_every_section_has_one():
    assert len(COMMANDS) == len(re.findall("^verl-mars data convert ", PAGE, re.M)) == 7
