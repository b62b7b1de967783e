"""What the toy and its demo take for granted of verl. A failure names the file of ours to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verl_mars.toy import model as toy_model
from verl_mars.toy import world
from verl_mars.toy.demo import RECIPES, training_command
from verl_mars.toy.evaluate import read_heldout
from verl_mars.toy.prepare import ToyPaths
from verl_mars.toy.rows import write_split
from verl_mars.toy.runs import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_split(world.make_scenes(6, 0), "heldout", folder)
    toy_model.save(toy_model.build_model(0), folder / "model")
    return folder


@pytest.mark.parametrize("algorithm", sorted(RECIPES))
def test_the_demo_overrides_only_keys_that_the_recipe_has(algorithm: str, tmp_path: Path) -> None:
    """verl_mars/toy/demo.py, training_command: a key that is gone from verl's configuration must go there too."""
    from hydra import compose, initialize_config_module

    command = training_command(ToyPaths.under(tmp_path), tmp_path, 5, 1, algorithm)
    overrides = [part for part in command[4:] if not part.startswith("hydra.")]
    with initialize_config_module("verl_mars.recipes", version_base=None):
        config = compose(RECIPES[algorithm], overrides=["hydra.searchpath=[pkg://verl.trainer.config]", *overrides])
    assert config.trainer.total_training_steps == 5
    assert config.data.train_files == str(tmp_path / "train.parquet")
    assert "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents


def test_evaluation_shows_the_model_what_verl_shows_it(folder: Path) -> None:
    """verl_mars/toy/evaluate.py, _messages, and model.py, tokenize_prompt: same messages, tokens and pictures."""
    from omegaconf import OmegaConf
    from verl.utils import hf_processor
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    processor = hf_processor(str(folder / "model"))
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(folder / "cache")})
    rows = RLHFDataset([str(folder / "heldout.parquet")], processor.tokenizer, config, processor)
    heldout = read_heldout(folder / "heldout.parquet")
    builder: Any = create_continuous_token_builder(processor.tokenizer, hf_model_type="qwen2_5_vl", processor=processor)
    for row, messages in heldout.views["fused"]:
        theirs = rows[row]["raw_prompt"]
        assert theirs == messages
        images, _, _ = RLHFDataset._process_multi_modal_info(theirs, image_patch_size=14, config=config)
        assert [image.size for image in images] == [(56, 56)] * 2
        ids = builder.build_initial_tokens(theirs, images=images)
        assert list(ids) == toy_model.tokenize_prompt(processor.tokenizer, messages)


def test_the_file_logger_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """verl_mars/toy/report.py, read_metrics, and demo.py: the variable that names the file."""
    from verl.utils.tracking import FileLogger

    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    logger = FileLogger("project", "experiment")
    logger.log({"critic/score/mean": np.float64(0.5), "n": 3}, step=1)
    logger.log({"critic/score/mean": 0.75}, step=2)
    assert read_metrics(tmp_path / "metrics.jsonl", partial=True).steps[1] == {"critic/score/mean": 0.5, "n": 3.0}
    logger.finish()
    assert read_metrics(tmp_path / "metrics.jsonl").series("critic/score/mean") == ([1, 2], [0.5, 0.75])
