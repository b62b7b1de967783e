"""Hydra callbacks of the recipes: each adapts a run to its machine on the driver, before verl's main function.

A callback fills in keys of the run's configuration. Hydra composes the configuration of each job of a multirun after
its callbacks have run, so nothing can be filled in there: a multirun that needs it is refused in one place.
"""

import os
from importlib.util import find_spec

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict


class FillIn(Callback):
    """Fills in keys of a configuration; base of the callbacks below."""

    reason = ""
    """Why keys are filled in; part of the refusal of a multirun."""

    def prepare_process(self) -> None:
        """Prepare the driver, whatever the configuration says."""

    def missing(self, config: DictConfig) -> dict[str, str]:
        """Keys to fill in -> how the user gives them on the command line."""
        raise NotImplementedError

    def values(self, config: DictConfig) -> dict[str, object]:
        """The value of each missing key."""
        raise NotImplementedError

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Fill in what is missing."""
        self.prepare_process()
        if not self.missing(config):
            return
        with open_dict(config):
            for key, value in self.values(config).items():
                OmegaConf.update(config, key, value)

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Refuse a multirun in which something is missing.

        Raises:
            SystemExit: naming the keys. Hydra turns every other exception of a callback into a warning.
        """
        self.prepare_process()
        if missing := self.missing(config):
            raise SystemExit(
                f"{self.reason}, and a Hydra multirun cannot fill in {', '.join(missing)}; give on the command line: "
                + " ".join(missing.values())
            )


class InstalledAttention(FillIn):
    """torch's own attention where flash-attention is not installed.

    verl trains with ``flash_attention_2`` by default and fails without the package ``flash-attn``. The model then gets
    ``sdpa``, and rows are no longer packed into one sequence: only flash-attention keeps the rows of a pack apart. A
    value that the user gave stays.
    """

    reason = "the package flash-attn is not installed"
    attention = "actor_rollout_ref.model.override_config.attn_implementation"
    packing = "actor_rollout_ref.model.use_remove_padding"

    def missing(self, config: DictConfig) -> dict[str, str]:
        if OmegaConf.select(config, self.attention) is not None or find_spec("flash_attn") is not None:
            return {}
        return {self.attention: f"+{self.attention}=sdpa", self.packing: f"{self.packing}=false"}

    def values(self, config: DictConfig) -> dict[str, object]:
        print(
            f"verl-mars: {self.reason}, so the actor trains with attn_implementation=sdpa and "
            "without packing rows (use_remove_padding=false): slower, and with more memory"
        )
        return {self.attention: "sdpa", self.packing: False}


class SelectCpu(FillIn):
    """The platform ``cpu`` on the driver; part of the overlay ``hardware: cpu``.

    ``python -m verl.trainer.main_ppo`` imports verl, which settles its platform, before it reads any configuration.
    Ray's workers get the platform from the overlay's environment variables. If the user has named modules in
    ``VERL_USE_EXTERNAL_MODULES``, the workers load them too.
    """

    reason = "VERL_USE_EXTERNAL_MODULES names modules for Ray's workers"
    variable = "VERL_USE_EXTERNAL_MODULES"
    key = f"ray_kwargs.ray_init.runtime_env.env_vars.{variable}"

    def prepare_process(self) -> None:
        from verl_mars import cpu

        os.environ["VERL_PLATFORM"] = cpu.PLATFORM
        cpu.apply_fixes()
        from verl.plugin.platform import get_platform, set_platform

        from verl_mars.cpu.platform import CpuPlatform

        if get_platform().device_name != cpu.PLATFORM:
            set_platform(CpuPlatform())

    def missing(self, config: DictConfig) -> dict[str, str]:
        known = OmegaConf.select(config, self.key)
        modules = self._modules()
        return {self.key: f"'{self.key}=\"{modules}\"'"} if known is not None and known != modules else {}

    def values(self, config: DictConfig) -> dict[str, object]:
        return {self.key: self._modules()}

    def _modules(self) -> str:
        named = [name for name in os.environ.get(self.variable, "").split(",") if name]
        return ",".join(dict.fromkeys(["verl_mars.cpu", *named]))


class PrepareToy(FillIn):
    """The toy world and its model, built on first use; part of the overlay ``dataset: toy``.

    Fills in ``data.train_files``, ``data.val_files`` and ``actor_rollout_ref.model.path`` where they are null. If the
    toy cannot be built, the run ends here with the reason: verl would fail at the nulls.

    Args:
        track: a track of :data:`verl_mars.toy.warmstart.TRACKS`.
        seed: seed of the world and the model.
    """

    reason = "the toy is built when a run starts"
    files = {"data.train_files": "train_file", "data.val_files": "val_file", "actor_rollout_ref.model.path": "model"}

    def __init__(self, track: str = "default", seed: int = 0) -> None:
        self.track = track
        self.seed = seed

    def missing(self, config: DictConfig) -> dict[str, str]:
        return {key: f"{key}=..." for key in self.files if OmegaConf.select(config, key) is None}

    def values(self, config: DictConfig) -> dict[str, object]:
        from verl_mars.toy.prepare import prepare

        try:
            paths = prepare(self.track, self.seed)
        except (OSError, RuntimeError, ValueError) as error:
            raise SystemExit(f"the toy world cannot be prepared: {error}") from error
        return {key: str(getattr(paths, self.files[key])) for key in self.missing(config)}
