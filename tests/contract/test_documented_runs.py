"""Every run that the documentation shows composes, and every block of settings is accepted."""

import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

pytestmark = pytest.mark.recipes

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from repository_files import code_blocks, commands_in  # noqa: E402

from verl_mars.preflight.doctor import compose_recipe  # noqa: E402
from verl_mars.reward.settings import RewardSettings  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def runs_on(page):
    """Recipe and overrides of each run or `doctor` of a page; `...` stands for overrides that the reader chooses."""
    for words in commands_in(page):
        if "verl.trainer.main_ppo" in words:
            words = words[words.index("verl.trainer.main_ppo") + 1 :]
        elif words[:2] != ["verl-mars", "doctor"]:
            continue
        text = " ".join(words).replace("--config-name ", "--config-name=")
        names = [word.removeprefix("--config-name=") for word in text.split() if word.startswith("--config-name=")]
        overrides = [word for word in text.split() if "=" in word and not word.startswith("-") and "..." not in word]
        for name in names:
            if not name.isupper() and name != "..." and "$" not in name:
                yield name, tuple(overrides)


RUNS = sorted({(page.name, run) for page in PAGES for run in runs_on(page)})
YAML = [(page.name, line, text) for page in PAGES for language, text, line in code_blocks(page) if language == "yaml"]


def test_runs_and_settings_are_found():
    assert len(RUNS) > 15 and len(YAML) >= 3
    assert ("get-started.md", ("mars_grpo", ("dataset=llvip",))) in RUNS


@pytest.mark.parametrize(("page", "run"), RUNS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_documented_runs_compose(page, run):
    compose_recipe(*run)


@pytest.mark.parametrize(("page", "line", "text"), YAML, ids=lambda value: str(value)[:12])
def test_documented_settings_of_the_reward_are_accepted(page, line, text):
    block = yaml.safe_load(text)
    kwargs = block.get("reward", block)["reward_kwargs"]
    config = compose_recipe("mars_grpo")
    OmegaConf.set_struct(config, False)
    merged = OmegaConf.merge(config, {"reward": {"reward_kwargs": kwargs}})
    RewardSettings.read(OmegaConf.to_container(merged.reward.reward_kwargs, resolve=True))
