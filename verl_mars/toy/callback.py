"""Prepares the toy before a verl run that asks for it in its recipe."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict


class PrepareToy(Callback):
    """Hydra callback: builds or finds the toy before verl's main runs, and fills in what the recipe left null.

    `data.train_files`, `data.val_files` and `actor_rollout_ref.model.path` are set only where they are null, so that
    each can still be given on the command line. Where the toy cannot be had, the run ends here with the reason: Hydra
    turns the exceptions of callbacks into warnings, and verl would go on to fail at the nulls.
    """

    def __init__(self, track: str = "default", seed: int = 0) -> None:
        self.track = track
        self.seed = seed

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        empty = _empty_keys(config)
        if not empty:
            return
        from verl_mars.toy.prepare import prepare

        try:
            paths = prepare(self.track, self.seed)
        except (OSError, RuntimeError, ValueError) as error:
            raise SystemExit(f"the toy world cannot be prepared: {error}") from error
        found = dict(zip(_KEYS, (paths.train_file, paths.val_file, paths.model), strict=True))
        with open_dict(config):
            for key in empty:
                OmegaConf.update(config, key, str(found[key]))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Each job of a multirun composes its configuration anew: nothing can be filled in for it."""
        empty = _empty_keys(config)
        if empty:
            raise SystemExit(
                f"a Hydra multirun cannot fill in {', '.join(empty)}: give them on the command line; "
                "`python -c 'from verl_mars.toy import prepare; print(prepare())'` builds the toy and says where it is"
            )


_KEYS = ("data.train_files", "data.val_files", "actor_rollout_ref.model.path")


def _empty_keys(config: DictConfig) -> list[str]:
    return [key for key in _KEYS if OmegaConf.select(config, key) is None]
