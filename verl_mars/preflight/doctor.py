"""``verl-mars doctor``: is the plugin loaded, in this process and inside Ray, and can a recipe run?"""

import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from verl_mars import _compat

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from verl_mars.methods.base import Method

PACKAGES = (
    *("verl", "verl-mars", "torch", "transformers", "ray", "TransferQueue", "tensordict"),
    *("torchvision", "vllm", "flash-attn", "hydra-core"),
)
ENTRY_POINT_GROUP = "verl.plugins"


@dataclass
class PluginState:
    """verl and this plugin as one process sees them."""

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
            "(a folder on PYTHONPATH is not enough); install it there with pip"
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


def compose_recipe(config_name: str, overrides: Sequence[str] = ()) -> "DictConfig":
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


@dataclass
class RecipeState:
    """Findings about a recipe before it runs."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Checks that were left out, and things that this machine lacks but the one that runs the recipe may have."""


def inspect_recipe(config_name: str, overrides: Sequence[str] = (), data: bool = True) -> RecipeState:
    """Compose a recipe and check it: verl's own checks, ours, and those of the training data unless ``data`` is False.

    No model is loaded or fetched, so a recipe can be checked on a machine that has none.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    state = RecipeState()
    try:
        config = compose_recipe(config_name, overrides)
    except ValueError as error:
        state.faults.append(str(error))
        return state
    from verl_mars.preflight.checkpoints import checkpoint_faults
    from verl_mars.preflight.configuration import config_faults

    try:
        for name, section in config.items():
            if name != "hydra" and OmegaConf.is_config(section):  # `hydra` names what only a run has
                OmegaConf.resolve(section)
    except OmegaConfBaseException as error:
        state.faults.append(f"a value cannot be resolved: {error}")
        return state
    state.faults += verl_faults(config)
    for check in (config_faults, checkpoint_faults):
        if not state.faults:
            state.faults += check(config)
    if not state.faults:
        from verl_mars.methods.table import method_of

        state.notes += method_of(config.algorithm).cautions(config)
    state.notes += _machine_notes(config)
    for findings in (_model_findings(config), _data_findings(config, data and not state.faults)):
        state.faults += findings.faults
        state.notes += findings.notes
    return state


def recipe_faults(config_name: str, overrides: Sequence[str] = ()) -> list[str]:
    """A sentence for each fault of a recipe and of its training data."""
    return inspect_recipe(config_name, overrides).faults


def verl_faults(config: "DictConfig") -> Iterator[str]:
    """Settings that verl itself refuses, as far as they can be known without a model.

    verl builds dataclasses from these sections inside its workers, after models were loaded; an unknown key or an
    impossible value ends the run there. Here they are built at once.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.config import HFModelConfig

    for section in ("actor", "rollout"):
        try:
            omega_conf_to_dataclass(config.actor_rollout_ref[section])
        except (
            *(HydraException, OmegaConfBaseException),
            *(AssertionError, TypeError, ValueError, NotImplementedError),
        ) as error:
            yield f"verl refuses actor_rollout_ref.{section}: {_cause(error)}"
            return
    known = {f.name for f in fields(HFModelConfig)} | {"_target_"}
    for key in sorted(set(config.actor_rollout_ref.model) - known):
        yield f"actor_rollout_ref.model.{key} is no setting of verl's; known: {', '.join(sorted(known - {'_target_'}))}"
    try:
        # It prints that all is well, and warns of every run without a critic.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, ValueError) as error:
        yield f"verl refuses the configuration: {_cause(error)}"


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _machine_notes(config: "DictConfig") -> Iterator[str]:
    """Things that this machine lacks: no faults, since a recipe may run on another machine than it is checked on."""
    engine = config.actor_rollout_ref.rollout.get("name")  # verl has no default for it
    if engine in ("vllm", "sglang") and importlib.util.find_spec(engine) is None:
        yield f"rollout.name={engine}: the package {engine} is not installed here"
    if config.trainer.device == "cuda":
        import torch

        wanted, found = config.trainer.n_gpus_per_node, torch.cuda.device_count()
        if found < wanted:
            yield f"trainer.n_gpus_per_node={wanted}: {found} CUDA devices are visible here"
    yield from _cpu_notes(config)


def _cpu_notes(config: "DictConfig") -> Iterator[str]:
    """A note if Ray has too few CPUs for verl's actors, which would then wait forever in silence."""
    ray_init = config.ray_kwargs.get("ray_init") or {}
    if ray_init.get("address") or os.environ.get("RAY_ADDRESS"):  # that cluster's CPUs, not this machine's
        return
    wanted, found = reserved_cpus(config), ray_init.get("num_cpus") or _compat.cpus_for_ray()
    if found < wanted:
        yield (
            f"verl's actors reserve {wanted} of Ray's CPUs, and Ray would have {found} here: the run would wait for "
            f"them forever in silence; ray_kwargs.ray_init.num_cpus={wanted} (Ray counts CPUs, it binds nothing)"
        )


def reserved_cpus(config: "DictConfig") -> int:
    """Number of Ray's CPUs that the actors of a run reserve.

    One for TransferQueue's controller, one for each of its storage units, three for each GPU of the trainer and of a
    reward model (the bundles of verl's resource pools), two for each GPU of a separate rollout server.
    """
    trainer, reward_model = config.trainer, config.reward.reward_model
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    gpus = trainer.nnodes * trainer.n_gpus_per_node
    if reward_model.enable_resource_pool:
        gpus += reward_model.nnodes * reward_model.n_gpus_per_node
    rollout = config.actor_rollout_ref.rollout
    separate = rollout.nnodes * rollout.n_gpus_per_node if "separate" in trainer.v1.trainer_mode else 0
    return int(1 + units + 3 * gpus + 2 * separate)


def _model_findings(config: "DictConfig") -> RecipeState:
    path = config.actor_rollout_ref.model.path
    if path is None:
        return RecipeState() if _makes_toy(config) else RecipeState(faults=["actor_rollout_ref.model.path is not set"])
    local = Path(path).expanduser()
    if (local / "config.json").is_file():
        return RecipeState()
    if local.is_absolute() or local.exists() or path.startswith("."):
        return RecipeState(faults=[f"actor_rollout_ref.model.path = {path}: no folder with a config.json"])
    return RecipeState(notes=[f"actor_rollout_ref.model.path = {path}: fetched when the run starts, not checked"])


def _data_findings(config: "DictConfig", wanted: bool) -> RecipeState:
    from verl_mars.methods.table import method_of
    from verl_mars.preflight.data import data_faults, frame_faults, training_files

    if _makes_toy(config) and config.data.train_files is None:
        return RecipeState()
    if config.data.train_files is None:
        return RecipeState(notes=["no data named, none checked: dataset=..., or data.train_files and data.val_files"])
    if not wanted:
        return RecipeState(notes=["the training data were not checked"])
    method = method_of(config.algorithm)
    unreadable = frame_faults(config)
    if unreadable:
        return RecipeState(faults=unreadable)
    if method.anchoring is not None:
        faults = data_faults(config, method, progress=True)
        return RecipeState(faults=faults) if faults else _length_findings(config, method)
    missing = [name for name in training_files(config) if not Path(name).expanduser().is_file()]
    return RecipeState(faults=[f"data.train_files: {name} is not there" for name in missing])


def _length_findings(config: "DictConfig", method: "Method") -> RecipeState:
    """Prompts that are too long; or a note that the model's processor is not on this machine."""
    from verl_mars.preflight.data import length_faults, why_lengths_are_unknown

    path = config.actor_rollout_ref.model.path
    if path is None:  # the toy's own, whose prompts are all as short
        return RecipeState()
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return RecipeState(notes=[f"prompt lengths were not checked: the processor of {path} is not on this machine"])
    why_not = why_lengths_are_unknown(config, processor)
    if why_not is not None:
        return RecipeState(notes=[f"prompt lengths were not checked: {why_not}"])
    return RecipeState(faults=length_faults(config, method, processor))


def _makes_toy(config: "DictConfig") -> bool:
    """Whether the toy world is built when the run starts, model and data."""
    return "verl_mars_toy" in (config.hydra.get("callbacks") or {})  # as recipes/dataset/toy.yaml names it


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
