"""Checks of a run's configuration before any model is loaded; ``verl-mars doctor`` runs the same ones."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

from omegaconf import DictConfig

from verl_mars.images.settings import ImagesOnce
from verl_mars.methods.base import Method
from verl_mars.methods.table import METHODS, method_of
from verl_mars.preflight.checkpoints import checkpoint_faults
from verl_mars.preflight.data import data_faults, frame_faults
from verl_mars.register import TRAINER_MODES
from verl_mars.rollout.validation import SECTION, ProbeSettings

logger = logging.getLogger(__name__)

MANAGER_CLASS = "verl_mars.rollout.manager.MarsAgentLoopManager"


def raise_on_faults(config: DictConfig) -> None:
    """Check a run's whole configuration, the checkpoint that it resumes from and its training data.

    Raises:
        ValueError: all faults at once, a line each.
    """
    faults = [*config_faults(config)]
    if not faults:
        faults = [*checkpoint_faults(config)]
    if not faults:
        faults = [*frame_faults(config), *data_faults(config, method_of(config.algorithm))]
    refuse(faults)
    for caution in method_of(config.algorithm).cautions(config):
        logger.warning(caution)


def refuse(faults: Sequence[str]) -> None:
    """Return if there is no fault.

    Raises:
        ValueError: all faults at once, a line each.
    """
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise ValueError(f"verl-mars refuses this run before any model is loaded:\n{lines}")


def config_faults(config: DictConfig) -> Iterator[str]:
    """A sentence for each setting that cannot work, naming key, value and what is allowed."""
    yield from _estimator_faults(config)
    yield from _separate_faults(config)
    yield from _sampler_faults(config)
    yield from _off_policy_faults(config)
    yield from _correction_faults(config)
    yield from _micro_batch_faults(config)
    yield from _images_faults(config)
    yield from _tower_faults(config)
    yield from _probe_faults(config)
    name = str(config.algorithm.adv_estimator)
    try:
        # Sections of other methods are not looked at: a recipe may be changed on the command line, to compare.
        method = method_of(config.algorithm)
    except ValueError as error:
        yield from str(error).split("\n")
        method = None
    if name in METHODS:
        yield from _mode_faults(config, METHODS[name] if method is None else type(method))
        yield from _rollout_faults(config)
    if method is not None:
        yield from method.faults(config)


def _estimator_faults(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    name = config.algorithm.adv_estimator
    known = sorted({*ADV_ESTIMATOR_REGISTRY, AdvantageEstimator.GAE.value})
    if name not in known:
        yield f"algorithm.adv_estimator = {name!r} is not registered with verl; known: {', '.join(known)}"
    elif name in METHODS and name in {own.value for own in AdvantageEstimator}:
        yield f"algorithm.adv_estimator = {name!r}: an installed method has the name of an estimator of verl; rename it"


def _images_faults(config: DictConfig) -> Iterator[str]:
    """Impossible settings, and rollouts that outlive the images that their rows refer to."""
    try:
        enabled = ImagesOnce.of(config).enable
    except ValueError as error:
        yield from str(error).split("\n")
        return
    if enabled and config.trainer.v1.trainer_mode in TRAINER_MODES and config.skip.rollout_tq.enable:
        yield (
            "skip.rollout_tq.enable = True: verl would write rows to disk that refer to images of this run only; set "
            "data.images_once.enable=false, so that each row holds a copy"
        )


def _tower_faults(config: DictConfig) -> Iterator[str]:
    """A frozen vision tower where the engine cannot have one."""
    actor = config.actor_rollout_ref.actor
    if not actor.get("freeze_vision_tower"):
        return
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield (
            f"actor_rollout_ref.actor.freeze_vision_tower = True with strategy {actor.strategy!r}: only fsdp2 and fsdp "
            "can freeze it; set the strategy to fsdp2, or freeze_vision_tower to false"
        )
    elif actor.strategy == "fsdp" and not actor.fsdp_config.get("use_orig_params"):
        yield (
            "actor_rollout_ref.actor.freeze_vision_tower = True with strategy 'fsdp': FSDP1 puts frozen and trained "
            "parameters into one flat one; set actor.fsdp_config.use_orig_params=true, or the strategy to fsdp2"
        )


def _mode_faults(config: DictConfig, method: type[Method]) -> Iterator[str]:
    mode = config.trainer.v1.trainer_mode
    if not config.trainer.use_v1:
        yield (f"trainer.use_v1 = False: algorithm.adv_estimator={method.name} needs verl's v1 trainer; set it to true")
    if mode not in TRAINER_MODES:
        yield (
            f"trainer.v1.trainer_mode = {mode!r} {method.lacks}; "
            f"algorithm.adv_estimator={method.name} needs one of {', '.join(TRAINER_MODES)}"
        )


def _rollout_faults(config: DictConfig) -> Iterator[str]:
    rollout = config.actor_rollout_ref.rollout
    if not isinstance(rollout.n, int) or (rollout.n < 2 and not _filters_groups(config)):
        yield (
            f"actor_rollout_ref.rollout.n = {rollout.n}: a group of one has no spread to compare within; "
            "set it to 2 or more (the paper: 14 with GRPO, 12 with DAPO)"
        )
    manager = rollout.agent.get("agent_loop_manager_class")
    if manager not in (None, MANAGER_CLASS):
        yield (
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class = {manager!r} does not know the method; "
            f"leave it out or set it to {MANAGER_CLASS}"
        )
    ranks = data_parallel_ranks(config)
    rows = rollout.n * config.actor_rollout_ref.actor.ppo_mini_batch_size
    if ranks > 0 and isinstance(rows, int) and rows % ranks:
        yield (
            f"actor_rollout_ref.rollout.n x actor.ppo_mini_batch_size = {rows} rows do not divide among {ranks} "
            "data-parallel ranks; verl would stop at the first actor update"
        )


def _probe_faults(config: DictConfig) -> Iterator[str]:
    try:
        settings = ProbeSettings.of(config.algorithm)
    except ValueError as error:
        yield from str(error).split("\n")
        return
    mode = config.trainer.v1.trainer_mode
    for key, value in settings.model_dump(by_alias=True).items():
        if value and (mode not in TRAINER_MODES or not config.trainer.use_v1):
            yield (
                f"algorithm.{SECTION}.{key} = {value!r}: the trainer mode {mode!r} does not know it; "
                f"set trainer.v1.trainer_mode to one of {', '.join(TRAINER_MODES)}"
            )
    if settings.see and mode == "mars_separate_async":
        yield (
            f"algorithm.{SECTION}.see = {settings.see}: mars_separate_async does not stop its rollout devices to look; "
            "leave it at 0, and ask `verl-mars doctor --see` before the run"
        )


MODEL_PARALLEL_SIZES = {
    "megatron": ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"),
    "veomni": ("ulysses_parallel_size",),
    "torchtitan": ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"),
}
"""By the actor's ``strategy``, which is also the name of its section: sizes of the groups that share a row."""


def data_parallel_ranks(config: DictConfig) -> int:
    """Ranks among which verl divides the rows of a mini-batch: GPUs over those that work on one row together.

    Expert parallelism does not count: expert ranks hold rows of their own.
    """
    actor = config.actor_rollout_ref.actor
    return config.trainer.n_gpus_per_node * config.trainer.nnodes // _gpus_on_a_row(actor, MODEL_PARALLEL_SIZES)


def _gpus_on_a_row(actor: DictConfig, keys: Mapping[str, Sequence[str]]) -> int:
    """Product of FSDP's sequence parallelism and of the sizes that a table names for the actor's engine."""
    section = actor.get(actor.strategy) or {}
    sizes = [actor.get("ulysses_sequence_parallel_size", 1)]
    sizes += [section.get(key, 1) for key in keys.get(actor.strategy, ())]
    return math.prod(size or 1 for size in sizes)


SHARED_ROW_SIZES = {
    "megatron": ("context_parallel_size",),
    "veomni": ("ulysses_parallel_size",),
    "torchtitan": ("tensor_parallel_size",),
}
"""By the actor's ``strategy``: the number by which its engine multiplies the tokens that a GPU may hold."""


def _micro_batch_faults(config: DictConfig) -> Iterator[str]:
    """Rows that fit into no micro-batch: verl would stop by an assertion at the first such row, maybe after hours."""
    actor, rollout, data = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.data
    if not actor.use_dynamic_bsz:
        return
    gpus = _gpus_on_a_row(actor, SHARED_ROW_SIZES)
    longest = min(data.max_prompt_length + data.max_response_length, rollout.get("max_model_len") or math.inf)
    limits = {
        "actor.ppo_max_token_len_per_gpu": actor.ppo_max_token_len_per_gpu,
        "rollout.log_prob_max_token_len_per_gpu": rollout.log_prob_max_token_len_per_gpu,
    }
    for key, tokens in limits.items():
        if isinstance(tokens, int) and tokens * gpus < longest:
            yield (
                f"actor_rollout_ref.{key} = {tokens}: a row may have {longest} tokens "
                f"(data.max_prompt_length = {data.max_prompt_length}, data.max_response_length = "
                f"{data.max_response_length}, actor_rollout_ref.rollout.max_model_len = "
                f"{rollout.get('max_model_len')}), and verl stops at the first row of more than {tokens * gpus}; "
                "raise it, or lower these lengths"
            )
            return  # the second key follows the first


def _filters_groups(config: DictConfig) -> bool:
    """Whether a run has dynamic sampling (DAPO)."""
    groups = config.algorithm.get("filter_groups")
    return groups is not None and bool(groups.get("enable", False))


def _sampler_faults(config: DictConfig) -> Iterator[str]:
    sampler = config.trainer.v1.sampler.get("custom_sampler") or {}
    name, n = sampler.get("name"), config.actor_rollout_ref.rollout.n
    if _filters_groups(config) and isinstance(n, int) and n < 2:
        yield (
            f"actor_rollout_ref.rollout.n = {n} with algorithm.filter_groups.enable=true: the rewards of a group of "
            "one are all equal, so dynamic sampling drops every group and verl samples forever; set n to 2 or more "
            "or enable=false"
        )
        return
    if _filters_groups(config) and sampler.get("path") and name:
        yield (
            f"trainer.v1.sampler.custom_sampler.name = {name!r} with algorithm.filter_groups.enable=true: "
            "verl gives its filter to its own replay buffers only, so dynamic sampling would be off without notice; "
            "set path and name to null, or enable=false"
        )


def _correction_faults(config: DictConfig) -> Iterator[str]:
    """Rollout correction where tokens are drawn from part of the vocabulary: every weight would be biased."""
    rollout, correction = config.actor_rollout_ref.rollout, config.algorithm.get("rollout_correction", None) or {}
    cut = [f"top_p = {rollout.top_p}"] if rollout.top_p < 1 else []
    cut += [f"top_k = {rollout.top_k}"] if rollout.top_k not in (-1, 0, None) else []
    if not cut or rollout.get("logprobs_mode", "processed_logprobs") != "processed_logprobs":
        return
    for key in ("rollout_is", "rollout_rs", "bypass_mode"):
        if correction.get(key):
            yield (
                f"algorithm.rollout_correction.{key} = {correction[key]!r} with actor_rollout_ref.rollout.{cut[0]}: "
                "the engine's log-probs are renormalised over the words that could be drawn, the actor's are not, so "
                "each token's weight carries the missing mass (2e-9 for 400 tokens at top_p 0.9) and training stops "
                "silently; set top_p=1 and top_k=-1, or leave the correction out"
            )


def _off_policy_faults(config: DictConfig) -> Iterator[str]:
    """Settings that verl's replay buffer would refuse by assertions, after models were loaded."""
    sampler = config.trainer.v1.sampler
    threshold, strategy = sampler.max_off_policy_threshold, sampler.max_off_policy_strategy
    if threshold is not None and (not isinstance(threshold, int) or threshold < 1):
        yield (
            f"trainer.v1.sampler.max_off_policy_threshold = {threshold!r}: the largest age of a group in updates, "
            "1 or more; null for any age"
        )
    if strategy not in ("drop", "wait"):
        yield f"trainer.v1.sampler.max_off_policy_strategy = {strategy!r}; allowed: drop, wait"


def _separate_faults(config: DictConfig) -> Iterator[str]:
    """Settings that verl's ``separate_async`` would stop at, by assertions or on its first log line."""
    if config.trainer.v1.trainer_mode != "mars_separate_async":
        return
    rollout, mini = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor.ppo_mini_batch_size
    updates = config.trainer.v1.separate_async.parameter_sync_step
    if config.data.train_batch_size != updates * mini:
        yield (
            f"data.train_batch_size = {config.data.train_batch_size}: mars_separate_async needs "
            f"trainer.v1.separate_async.parameter_sync_step x actor.ppo_mini_batch_size = {updates} x {mini}"
        )
    reward_model = config.reward.reward_model
    if reward_model.enable and not reward_model.enable_resource_pool:
        yield (
            "reward.reward_model.enable_resource_pool = False: a colocated reward model scores while the rollout "
            "pauses, and that of mars_separate_async never does; give the reward model its own pool or use a rule-"
            "based reward"
        )
    for key in ("nnodes", "n_gpus_per_node"):
        if not rollout.get(key):
            yield (
                f"actor_rollout_ref.rollout.{key} = {rollout.get(key)}: mars_separate_async rolls out on separate "
                "devices; say how many (hardware=cpu_separate does, on a CPU)"
            )
    if rollout.checkpoint_engine.backend == "naive":
        yield (
            "actor_rollout_ref.rollout.checkpoint_engine.backend = 'naive' reaches rollout servers beside the trainer "
            "only; mars_separate_async needs nccl or another of verl's (on a CPU object_store)"
        )
    if not config.actor_rollout_ref.get("hybrid_engine", True):
        yield (
            'actor_rollout_ref.hybrid_engine = False: verl 0.9.1 stops there with "Logger._log() got an unexpected '
            "keyword argument 'flush'\"; leave it at true"
        )
