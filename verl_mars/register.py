"""verl's entry point (group ``verl.plugins``, name ``mars``): the only import side effect of verl-mars.

``import verl`` imports this module in every process: the driver, the task runner and every Ray worker. It must cost
them next to nothing, so nothing of verl is imported here: each part is registered when the module of verl that it
belongs to is imported by somebody else. Importing this module twice changes nothing.

verl swallows an exception of a plugin and continues without it; a user would see "Unknown advantage estimator" much
later. So exceptions are kept in :data:`FAILURES`, and a stand-in replaces each part that could not be loaded: it raises
:class:`PluginError` with the reason as soon as it is used. The trainer mode is used before any model is loaded.
"""

import importlib
import os
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import NoReturn

import wrapt

from verl_mars import _compat

SUPPORTED_VERL = ">=0.9.1,<0.10"
REWARD_MANAGERS = {"mars": "verl_mars.reward.manager:MarsRewardManager"}
TRAINER_MODES = {
    "mars_sync": "verl_mars.trainer.modes:MarsTrainerSync",
    "mars_colocate_async": "verl_mars.trainer.modes:MarsTrainerColocateAsync",
    "mars_separate_async": "verl_mars.trainer.modes:MarsTrainerSeparateAsync",
}

FAILURES: list[str] = []
"""Why parts of the plugin could not be loaded in this process. Empty: no failure so far."""

ESTIMATORS: list[str] = []
"""Methods registered with verl in this process."""


class PluginError(RuntimeError):
    """verl-mars is installed but could not be loaded; the message says why."""


ANY_VERL = "VERL_MARS_ANY_VERL"
"""Environment variable; 1: warn where the version of verl is not supported, instead of refusing it."""


def check_verl_version() -> None:
    """Refuse a verl that this version of verl-mars was not made for, unless :data:`ANY_VERL` is 1.

    Raises:
        PluginError: naming the version found and the versions supported.
    """
    import verl
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(SUPPORTED_VERL).contains(verl.__version__, prereleases=True):
        return
    found = f"verl {verl.__version__} is installed, but this verl-mars needs verl{SUPPORTED_VERL}"
    if os.environ.get(ANY_VERL) != "1":
        raise PluginError(f'{found}; pip install "verl{SUPPORTED_VERL}", or try it untested with {ANY_VERL}=1')
    warnings.warn(f"{found}; continuing untested, since {ANY_VERL}=1", stacklevel=2)


def _load(path: str, *arguments: str) -> object:
    """The object at ``module:name``, called with the arguments if there are any.

    If it cannot be loaded, a stand-in that raises the reason when it is called.
    """
    module, _, name = path.partition(":")
    try:
        check_verl_version()
        part = getattr(importlib.import_module(module), name)
        return part(*arguments) if arguments else part
    except Exception as error:  # verl would swallow it here, whatever it is: it is raised when the part is used
        what = f"{path} for {', '.join(arguments)}" if arguments else path
        reason = f"verl-mars could not load {what}: {type(error).__name__}: {error}"
        if reason not in FAILURES:
            FAILURES.append(reason)

        def refuse(*args: object, **kwargs: object) -> NoReturn:
            raise PluginError(reason)

        return refuse


def _register_estimators(core_algos: ModuleType) -> None:
    methods = _load("verl_mars.methods.table:METHODS")
    for name in methods if isinstance(methods, Mapping) else ():
        try:
            core_algos.register_adv_est(name)(_load("verl_mars.methods.estimator:estimator", name))
        except ValueError as error:  # verl has an estimator of this name
            FAILURES.append(f"verl-mars could not register the method {name!r}: {error}")
        else:
            ESTIMATORS.append(name)


def _register_reward_managers(reward_manager: ModuleType) -> None:
    for name, path in REWARD_MANAGERS.items():
        reward_manager.register(name)(_load(path))


def _register_trainer_modes(v1: ModuleType) -> None:
    for name, path in TRAINER_MODES.items():
        part = _load(path)
        if not isinstance(part, type):  # verl accepts trainer classes only
            methods = dict.fromkeys([*v1.PPOTrainer.__abstractmethods__, "__init__"], part)
            part = type("UnloadedTrainer", (v1.PPOTrainer,), methods)
        v1.register_trainer(name)(part)


_compat.define_missing_torchvision_ops()
wrapt.register_post_import_hook(_register_estimators, "verl.trainer.ppo.core_algos")
wrapt.register_post_import_hook(_register_reward_managers, "verl.experimental.reward_loop.reward_manager")
wrapt.register_post_import_hook(_register_trainer_modes, "verl.trainer.ppo.v1")
wrapt.register_post_import_hook(_compat.keep_equal_mrope_rows, "verl.utils.tensordict_utils")
wrapt.register_post_import_hook(_compat.average_vision_output, "transformers.modeling_outputs")
