"""Puts the driver of a verl run on the CPU before verl's main function runs."""

import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_mars.cpu import PLATFORM, apply_fixes

MODULE = "verl_mars.cpu"
_MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"
_MODULES_KEY = f"ray_kwargs.ray_init.runtime_env.env_vars.{_MODULES_VARIABLE}"


class SelectCpu(Callback):
    """Hydra callback of the overlay ``hardware: cpu``.

    ``python -m verl.trainer.main_ppo`` imports verl, and thereby settles its platform, before any configuration is
    read, so the driver is moved to the platform ``cpu`` here. Ray's workers are told by the overlay's environment
    variables. Modules that the user has named in ``VERL_USE_EXTERNAL_MODULES`` are kept for the workers.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        os.environ["VERL_PLATFORM"] = PLATFORM
        apply_fixes()
        from verl.plugin.platform import get_platform, set_platform

        from verl_mars.cpu.platform import CpuPlatform

        if get_platform().device_name != PLATFORM:
            set_platform(CpuPlatform())
        modules = [name for name in os.environ.get(_MODULES_VARIABLE, "").split(",") if name]
        if OmegaConf.select(config, _MODULES_KEY) is not None and modules:
            with open_dict(config):
                OmegaConf.update(config, _MODULES_KEY, ",".join(dict.fromkeys([MODULE, *modules])))

    on_multirun_start = on_run_start
