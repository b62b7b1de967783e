"""Rows, and stock verl to read them."""

import sys
from functools import partial
from pathlib import Path

import pytest

from verl_mars import _compat
from verl_mars.data.processor import standin_processor

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "data"))

import raw_sets  # noqa: E402  # the raw data sets beside the unit tests


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def both(request):
    return request.param, standin_processor(request.param)


@pytest.fixture(scope="module")
def processor():
    return standin_processor("qwen2_5_vl")


@pytest.fixture
def stock(processor, tmp_path, monkeypatch):
    """verl's own data set, as its trainer makes it; settings as keyword arguments."""
    _compat.define_missing_torchvision_ops()
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def load(*files, **config):
        own = config.pop("processor", processor)
        config = {"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "verl")} | config
        return RLHFDataset([str(file) for file in files], own.tokenizer, OmegaConf.create(config), own)

    return load


@pytest.fixture
def pictures(tmp_path):
    return [raw_sets.picture(tmp_path / f"p{k}.jpg", (96, 64), seed=k) for k in range(2)]


@pytest.fixture
def make_row(pictures):
    return partial(raw_sets.row, pictures, (96, 64))
