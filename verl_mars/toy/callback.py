"""Prepares the toy before a verl run that asks for it in its recipe."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict


class PrepareToy(Callback):
    """Hydra callback: builds or finds the toy before verl's main runs, and fills in what the recipe left null.

    `data.train_files`, `data.val_files` and `actor_rollout_ref.model.path` are set only where they are null, so that
    each can still be given on the command line.
    """

    def __init__(self, track: str = "default", seed: int = 0) -> None:
        self.track = track
        self.seed = seed

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        from verl_mars.toy.prepare import prepare

        keys = ("data.train_files", "data.val_files", "actor_rollout_ref.model.path")
        empty = [key for key in keys if OmegaConf.select(config, key) is None]
        if not empty:
            return
        paths = prepare(self.track, self.seed)
        found = dict(zip(keys, (paths.train_file, paths.val_file, paths.model), strict=True))
        with open_dict(config):
            for key in empty:
                OmegaConf.update(config, key, str(found[key]))

    on_multirun_start = on_run_start
