"""The callbacks of the recipes: what they fill in, and the one refusal of multiruns."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

import verl_mars.toy.prepare as module
from verl_mars.toy.prepare import ToyPaths


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def prepare(*given: Any) -> ToyPaths:
        calls.append(given)
        return ToyPaths.under(Path("/toy"))

    monkeypatch.setattr(module, "prepare", prepare)
    return calls


def _config(**given: Any) -> DictConfig:
    config = OmegaConf.create(
        {
            "data": {"train_files": None, "val_files": None},
            "actor_rollout_ref": {"model": {"path": None}, "again": "${actor_rollout_ref.model.path}"},
        }
    )
    for key, value in given.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    OmegaConf.set_struct(config, True)
    return config


def _callback() -> Any:
    return instantiate({"_target_": "verl_mars.hydra_callbacks.PrepareToy", "track": "interference", "seed": 3})


def test_nulls_are_filled_in(asked: list[tuple[Any, ...]]) -> None:
    config = _config()
    _callback().on_run_start(config, config_name="x")
    assert asked == [("interference", 3)]
    assert config.data.train_files == "/toy/train.parquet"
    assert config.data.val_files == "/toy/val.parquet"
    assert config.actor_rollout_ref.model.path == config.actor_rollout_ref.again == "/toy/model"
    assert OmegaConf.is_struct(config)


def test_what_the_user_gave_stays(asked: list[tuple[Any, ...]]) -> None:
    config = _config(data__train_files=["mine.parquet"], actor_rollout_ref__model__path="my/model")
    _callback().on_run_start(config)
    assert config.data.train_files == ["mine.parquet"]
    assert config.actor_rollout_ref.model.path == "my/model"
    assert config.data.val_files == "/toy/val.parquet"


def test_nothing_is_built_when_nothing_is_missing(asked: list[tuple[Any, ...]]) -> None:
    _callback().on_run_start(_config(data__train_files="a", data__val_files="b", actor_rollout_ref__model__path="c"))
    assert asked == []


def test_importing_the_callbacks_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'verl', 'numpy', 'matplotlib', 'pyarrow'}"
    code = f"import sys, verl_mars.hydra_callbacks, verl_mars.toy; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("error", [ValueError("unknown toy track"), OSError("disk full"), RuntimeError("too low")])
def test_a_toy_that_cannot_be_had_ends_the_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Through Hydra itself, which would make a warning of an ordinary exception."""
    from hydra._internal.callbacks import Callbacks

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "prepare", fail)
    config = _config()
    with open_dict(config):
        config.hydra = {"callbacks": {"toy": {"_target_": "verl_mars.hydra_callbacks.PrepareToy"}}}
    with pytest.raises(SystemExit, match=f"cannot be prepared: {error}"):
        Callbacks(config).on_run_start(config=config)


def test_a_multirun_says_what_to_do() -> None:
    with pytest.raises(SystemExit, match=r"multirun cannot fill in data.train_files, data.val_files, actor_.*=\.\.\."):
        _callback().on_multirun_start(_config())
    _callback().on_multirun_start(
        _config(data__train_files="a", data__val_files="b", actor_rollout_ref__model__path="c")
    )
