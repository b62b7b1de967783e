"""Flash-attention where it is installed, torch's own attention where it is not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

_ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
_PACKING = "actor_rollout_ref.model.use_remove_padding"


class InstalledAttention(Callback):
    """Hydra callback of the recipes for real models, run on the driver before verl's main function.

    verl trains with ``flash_attention_2`` unless told otherwise and fails where the package ``flash-attn`` is missing.
    There the model is given ``sdpa``, and rows are no longer packed into one sequence: only flash-attention keeps the
    rows of a pack apart. A choice of the user's own is left as it is.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not _is_needed(config):
            return
        with open_dict(config):
            OmegaConf.update(config, _ATTENTION, "sdpa")
            OmegaConf.update(config, _PACKING, False)
        print(
            "verl-mars: the package flash-attn is not installed, so the actor trains with attn_implementation=sdpa and "
            "without packing rows (use_remove_padding=false): slower, and with more memory"
        )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Each job of a multirun composes its configuration anew: nothing can be filled in for it."""
        if _is_needed(config):
            raise SystemExit(
                f"the package flash-attn is not installed, and a Hydra multirun cannot be told otherwise from here: "
                f"install it, or give +{_ATTENTION}=sdpa {_PACKING}=false on the command line"
            )


def _is_needed(config: DictConfig) -> bool:
    return OmegaConf.select(config, _ATTENTION) is None and find_spec("flash_attn") is None
