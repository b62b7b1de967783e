"""Is the plugin there, in this process and inside Ray, and can a recipe run? ``verl-mars doctor`` asks."""

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PACKAGES = (
    *("verl", "verl-mars", "torch", "transformers", "ray", "TransferQueue", "tensordict"),
    *("torchvision", "vllm", "flash-attn", "hydra-core"),
)
ENTRY_POINT_GROUP = "verl.plugins"


@dataclass
class PluginState:
    """What one process knows of verl and of this plugin."""

    versions: dict[str, str] = field(default_factory=dict)
    policy: str = "auto"
    entry_points: list[str] = field(default_factory=list)
    loaded: bool = False
    faults: list[str] = field(default_factory=list)
    registered: dict[str, list[str]] = field(default_factory=dict)


def inspect_plugin() -> PluginState:
    """Import verl the way a training process does, and look. Runs here and inside a Ray worker."""
    state = PluginState(versions=_versions(), policy=os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto"))
    found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    state.entry_points = [f"{point.name} = {point.value}" for point in found]
    if not any(point.name == "mars" for point in found):
        state.faults.append(
            f"no entry point `mars` in group {ENTRY_POINT_GROUP}: verl-mars is not installed in {sys.prefix} "
            "(a folder on PYTHONPATH is not enough); pip install verl-mars"
        )
    import verl  # noqa: F401

    state.loaded = "verl_mars.register" in sys.modules
    if not state.loaded:
        state.faults.append(f"verl did not load the entry point `mars`: {_why_not_loaded(state.policy)}")
        return state
    state.registered = _registered_names()
    register = importlib.import_module("verl_mars.register")
    state.faults.extend(register.FAILURES)
    for kind, wanted in (
        ("estimators", register.ESTIMATORS),
        ("reward managers", register.REWARD_MANAGERS),
        ("trainer modes", register.TRAINER_MODES),
    ):
        missing = sorted(set(wanted) - set(state.registered[kind]))
        if missing:
            state.faults.append(f"{kind} not registered with verl: {', '.join(missing)}")
    return state


def inspect_ray_worker() -> PluginState:
    """:func:`inspect_plugin` inside a worker of the cluster that RAY_ADDRESS names, or of a new one."""
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        return ray.get(ray.remote(inspect_plugin).options(num_cpus=0).remote(), timeout=120)
    finally:
        if started:
            ray.shutdown()


def compose_recipe(config_name: str, overrides: Sequence[str] = ()) -> Any:
    """The configuration that ``python -m verl.trainer.main_ppo --config-name=...`` would run, Hydra's section included.

    Raises:
        ValueError: no such recipe, or an override that does not fit; Hydra's message says which.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(config_name, overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ValueError(f"recipe {config_name!r} cannot be composed: {error}") from error


def recipe_faults(config_name: str, overrides: Sequence[str] = ()) -> Iterator[str]:
    """A sentence for each fault of a recipe and of its training data."""
    from verl_mars.trainer.checks import config_faults, data_faults, uses_anchors

    try:
        config = compose_recipe(config_name, overrides)
    except ValueError as error:
        yield str(error)
        return
    faults = list(config_faults(config))
    yield from faults
    made_on_start = config.data.train_files is None and "callbacks" in config.hydra and len(config.hydra.callbacks) > 0
    if uses_anchors(config) and not faults and not made_on_start:
        yield from data_faults(config, progress=True)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "-"
    return versions


def _why_not_loaded(policy: str) -> str:
    if policy.strip().lower() == "none" or (
        policy.strip().lower() != "auto" and "mars" not in policy.lower().replace(" ", "").split(",")
    ):
        return f"the environment variable VERL_USE_EXTERNAL_PLUGINS={policy} leaves it out"
    try:
        importlib.import_module("verl_mars.register")
    except Exception as error:  # the very exception that verl swallowed
        return f"{type(error).__name__}: {error}"
    return "importing verl_mars.register works now; was verl imported before verl-mars was installed?"


def _registered_names() -> dict[str, list[str]]:
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    return {
        "estimators": sorted(ADV_ESTIMATOR_REGISTRY),
        "reward managers": sorted(REWARD_MANAGER),
        "trainer modes": sorted(TRAINER_REGISTRY),
    }
