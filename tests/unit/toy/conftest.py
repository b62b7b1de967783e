"""A small toy that needs no training: a few scenes as files, and a model whose random weights give varied answers."""

from pathlib import Path

import pytest
import torch

from verl_mars.toy import model as toy_model
from verl_mars.toy import world
from verl_mars.toy.rows import write_split


@pytest.fixture(scope="session")
def processor() -> toy_model.Qwen2_5_VLProcessor:
    return toy_model.build_processor()


@pytest.fixture(scope="session")
def lively_model() -> toy_model.Qwen2_5_VLForConditionalGeneration:
    """Larger weights than the initial ones, which repeat one token whatever they are asked."""
    model = toy_model.build_model(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
        model.lm_head.weight[toy_model.build_tokenizer().eos_token_id] *= 3
    return model


@pytest.fixture(scope="session")
def scenes() -> world.Scenes:
    return world.make_scenes(12, 5)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory, scenes: world.Scenes, lively_model: object) -> Path:
    """`heldout.parquet` with its pictures, and `model/`."""
    folder = tmp_path_factory.mktemp("toy")
    write_split(scenes, "heldout", folder)
    toy_model.save(lively_model, folder / "model")  # type: ignore[arg-type]
    return folder
