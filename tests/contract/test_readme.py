"""The README's diff turns a run of verl into one of MARS, and into nothing else."""

import re
import shlex
from pathlib import Path

from omegaconf import OmegaConf

from verl_mars.preflight.doctor import compose_recipe, inspect_recipe

README = Path(__file__).parents[2] / "README.md"
(DIFF,) = re.findall(r"^```diff\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
MODULE = ["python", "-m", "verl.trainer.main_ppo"]


def side(marks):
    """The overrides of the command before (` -`) or after (` +`) the change."""
    lines = [line[1:] for line in DIFF.splitlines() if line[0] in marks]
    words = shlex.split("\n".join(lines).replace("\\\n", " "))
    assert words[:3] == MODULE and "\n" not in " ".join(words)
    return words[3:]


def leaves(overrides):
    config = OmegaConf.to_container(compose_recipe("ppo_trainer", overrides))
    config.pop("hydra", None)
    return dict(walk(config))


def walk(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_diff_is_short():
    assert len(DIFF.splitlines()) == 8


def test_both_sides_compose_and_are_fine():
    for marks in (" -", " +"):
        assert inspect_recipe("ppo_trainer", side(marks), data=False).faults == []


def test_a_run_of_verl_becomes_a_run_of_mars_and_nothing_else_changes():
    before, after = leaves(side(" -")), leaves(side(" +"))
    changed = {key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {"algorithm.adv_estimator": "mars", "trainer.v1.trainer_mode": "mars_sync"}
    assert before["algorithm.adv_estimator"] == "grpo" and before["trainer.v1.trainer_mode"] == "sync"


def test_half_of_the_diff_is_refused():
    half = [word for word in side(" +") if "trainer_mode" not in word]
    assert any("trainer_mode" in fault for fault in inspect_recipe("ppo_trainer", half, data=False).faults)
