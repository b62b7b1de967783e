"""Runs of real verl, and the models they train."""

import json
from pathlib import Path
from typing import Any

import pytest

from verl_mars.toy.runs import FinishedRun, run_main

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def run_verl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs a recipe and returns its :class:`FinishedRun`; one that fails shows its last lines."""

    def run(config_name: str, *overrides: str, fails: bool = False, **options: Any) -> FinishedRun:
        result = run_main(tmp_path_factory.mktemp("run"), config_name, overrides, path=HERE, **options)
        if fails != (result.returncode != 0):
            pytest.fail(f"verl ended with {result.returncode}:\n" + "\n".join(result.log.splitlines()[-60:]))
        return result

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model with random weights."""
    from verl_mars.toy import model

    folder = tmp_path_factory.mktemp("tiny_model")
    model.save(model.build_model(seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def any_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL of 0.2 M parameters whose tokenizer has a token for each byte."""
    from verl_mars.data.processor import standin_processor

    processor = standin_processor("qwen2_5_vl")  # first: it lets torchvision be imported beside a CPU torch
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    token = processor.tokenizer.convert_tokens_to_ids
    special = {"bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|im_end|>")}
    special["pad_token_id"] = token("<|endoftext|>")
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            **special,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
        **special,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.update(**special)
    folder = tmp_path_factory.mktemp("any_text_model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name 16 training and 8 validation scenes of the toy world."""
    from verl_mars.toy import world
    from verl_mars.toy.rows import write_split

    folder = tmp_path_factory.mktemp("toy")
    files = {
        split: write_split(world.make_scenes(count, [0, count]), split, folder)
        for split, count in (("train", 16), ("val", 8))
    }
    return [f"data.{split}_files={file}" for split, file in files.items()]


SMALL = ("data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4")
"""8 prompts x 4 rollouts a step."""


@pytest.fixture(scope="session")
def small_run(run_verl: Any, toy_data: list[str], tiny_model: Path) -> Any:
    """A function that trains a recipe for two small steps on toy scenes, from random weights."""

    def run(config_name: str, *overrides: str, **options: Any) -> FinishedRun:
        fixed = [*toy_data, f"actor_rollout_ref.model.path={tiny_model}", *SMALL, "trainer.total_training_steps=2"]
        fixed += ["trainer.test_freq=2", "trainer.val_before_train=false"]
        fixed += ["actor_rollout_ref.rollout.agent.num_workers=1"]  # a process less to start
        return run_verl(config_name, *fixed, *overrides, **options)

    return run


@pytest.fixture(scope="session")
def run_with_probe(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: two steps of a recipe, with what the probe and the dump wrote down."""

    from letters_reward import LETTERS

    def run(recipe: str, *overrides: str) -> Any:
        folder = tmp_path_factory.mktemp(recipe)
        dump = f"trainer.rollout_data_dir={folder / 'dump'}"
        options = {"modules": ["view_probe"], "env": {"VIEW_PROBE_DIR": str(folder)}}
        result = small_run(recipe, *LETTERS, dump, *overrides, **options)
        result.steps = {step: json.loads((folder / f"step{step}.json").read_text()) for step in (1, 2)}
        result.dump = [json.loads(line) for line in (folder / "dump" / "1.jsonl").read_text().splitlines()]
        return result

    return run


@pytest.fixture(scope="session")
def toy(tiny_model: Path) -> Any:
    """The untrained model's own opinion."""
    from toy_opinion import ToyOpinion

    return ToyOpinion(tiny_model)
