"""What is refused before any model is loaded; ``verl-mars doctor`` runs the same checks."""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from verl_mars.register import TRAINER_MODES
from verl_mars.settings import RESHAPED, MarsSettings, VogueSettings, group_estimator
from verl_mars.trainer.checkpoints import checkpoint_faults
from verl_mars.trainer.data_checks import data_faults

MANAGER_CLASS = "verl_mars.rollout.manager.MarsAgentLoopManager"


def raise_on_faults(config: DictConfig) -> None:
    """Check a run's whole configuration, the checkpoint that it goes on from and its training data.

    Raises:
        ValueError: all faults at once, a line each.
    """
    faults = [*config_faults(config)]
    if not faults:
        faults = [*checkpoint_faults(config)]
    if not faults and uses_anchors(config):
        faults = data_faults(config)
    refuse(faults)


def refuse(faults: Sequence[str]) -> None:
    """Do nothing where there is no fault.

    Raises:
        ValueError: all faults at once, a line each.
    """
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise ValueError(f"verl-mars refuses this run before any model is loaded:\n{lines}")


def uses_anchors(config: DictConfig) -> bool:
    """Whether a run rolls out mono sessions."""
    return group_estimator(config.algorithm) == "mars"


def scores_views(config: DictConfig) -> bool:
    """Whether a run scores its responses under another view."""
    return config.algorithm.adv_estimator in RESHAPED


def config_faults(config: DictConfig) -> Iterator[str]:
    """A sentence for each setting that cannot work, naming key, value and what is allowed."""
    yield from _estimator_faults(config)
    yield from _separate_faults(config)
    yield from _sampler_faults(config)
    yield from _off_policy_faults(config)
    try:
        if not (uses_anchors(config) or scores_views(config)):
            return
    except ValueError:  # the faults of an estimator's settings are named already
        return
    yield from _mode_faults(config)
    yield from _rollout_faults(config)
    if uses_anchors(config):
        yield from _anchor_faults(config)
        yield from _filter_faults(config)
    if scores_views(config):
        yield from _scoring_faults(config)


def _estimator_faults(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    name = config.algorithm.adv_estimator
    known = sorted({*ADV_ESTIMATOR_REGISTRY, AdvantageEstimator.GAE.value})
    if name not in known:
        yield f"algorithm.adv_estimator = {name!r} is not registered with verl; known: {', '.join(known)}"
    try:
        # Sections of other estimators are not looked at: a recipe may be changed on the command line, to compare.
        if name in RESHAPED:
            RESHAPED[name].from_algorithm(config.algorithm)
        if uses_anchors(config):
            MarsSettings.from_algorithm(config.algorithm)
    except ValueError as error:
        yield from str(error).split("\n")


def _mode_faults(config: DictConfig) -> Iterator[str]:
    name, mode = config.algorithm.adv_estimator, config.trainer.v1.trainer_mode
    if not config.trainer.use_v1:
        yield f"trainer.use_v1 = False: algorithm.adv_estimator={name} needs verl's v1 trainer; set it to true"
    if mode not in TRAINER_MODES:
        lacks = "rolls out no anchors" if uses_anchors(config) else "scores no view"
        yield (
            f"trainer.v1.trainer_mode = {mode!r} {lacks}; "
            f"algorithm.adv_estimator={name} needs one of {', '.join(TRAINER_MODES)}"
        )


def _scoring_faults(config: DictConfig) -> Iterator[str]:
    name, actor = config.algorithm.adv_estimator, config.actor_rollout_ref.actor
    if name == "vogue" and uses_anchors(config):
        settings = VogueSettings.from_algorithm(config.algorithm)
        anchor_every = MarsSettings.from_algorithm(config.algorithm).anchor_every
        if settings.variant == "paper" and anchor_every > 1:
            yield (
                f"algorithm.mars.anchor_every = {anchor_every} with adv_estimator=vogue, variant=paper and base=mars: "
                "an anchor of a noisy group would be used again for a raw one; set anchor_every to 1, or variant to "
                "released"
            )
    correction = config.algorithm.get("rollout_correction", None)
    if correction and correction.get("bypass_mode", False):
        yield (
            f"algorithm.rollout_correction.bypass_mode = True with adv_estimator={name}: the fused log-probs would be "
            "the rollout engine's and the other view's the actor's, and their difference no dependency on the images; "
            "set it to false"
        )
    if RESHAPED[name].from_algorithm(config.algorithm).divergence == "exact":
        yield from _exact_faults(config)
    for engine in ("megatron", "veomni"):
        mode = OmegaConf.select(actor, f"{engine}.router_replay.mode", default="disabled")
        if actor.strategy == engine and mode != "disabled":
            yield (
                f"actor_rollout_ref.actor.{engine}.router_replay.mode = {mode!r} with adv_estimator={name}: the "
                "recorded routing belongs to the fused view's tokens and does not fit another view; set it to disabled"
            )


def _exact_faults(config: DictConfig) -> Iterator[str]:
    """What comparing views over the whole vocabulary cannot be combined with."""
    where = f"algorithm.{config.algorithm.adv_estimator}.divergence=exact"
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield (
            f"actor_rollout_ref.actor.strategy = {actor.strategy!r} with {where}: the states before the output layer "
            "are read in verl's FSDP engines only; use fsdp2, or divergence=sampled"
        )
    parallel = actor.get("ulysses_sequence_parallel_size", 1) or 1
    if parallel > 1:
        yield (
            f"actor_rollout_ref.actor.ulysses_sequence_parallel_size = {parallel} with {where}: no rank has all states "
            "of a response; set it to 1, or divergence=sampled"
        )
    if model.get("use_fused_kernels", False):
        yield (
            f"actor_rollout_ref.model.use_fused_kernels = True with {where}: fused kernels go round the output layer, "
            "whose states are compared; set it to false, or divergence=sampled"
        )


def _anchor_faults(config: DictConfig) -> Iterator[str]:
    if config.algorithm.use_kl_in_reward:
        yield (
            "algorithm.use_kl_in_reward = True with adv_estimator=mars: the fused rewards would carry a KL penalty and "
            "the anchors none; use actor_rollout_ref.actor.use_kl_loss=true instead"
        )
    reward_model = config.reward.reward_model
    separate = config.trainer.v1.trainer_mode == "mars_separate_async"  # told by _separate_faults
    if reward_model.enable and not reward_model.enable_resource_pool and not separate:
        yield (
            "reward.reward_model.enable_resource_pool = False: a colocated reward model scores after the rollout, "
            "but anchors are scored during it; give the reward model its own pool or use a rule-based reward"
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
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class = {manager!r} does not roll out anchors; "
            f"leave it out or set it to {MANAGER_CLASS}"
        )
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    ranks //= config.actor_rollout_ref.actor.get("ulysses_sequence_parallel_size", 1) or 1
    rows = rollout.n * config.actor_rollout_ref.actor.ppo_mini_batch_size
    if ranks > 0 and isinstance(rows, int) and rows % ranks:
        yield (
            f"actor_rollout_ref.rollout.n x actor.ppo_mini_batch_size = {rows} rows do not divide among {ranks} "
            "data-parallel ranks; verl would stop at the first actor update"
        )


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
            "one are all equal, so dynamic sampling drops every group and verl samples for ever; set n to 2 or more "
            "or enable=false"
        )
        return
    if _filters_groups(config) and sampler.get("path") and name:
        yield (
            f"trainer.v1.sampler.custom_sampler.name = {name!r} with algorithm.filter_groups.enable=true: "
            "verl gives its filter to its own replay buffers only, so dynamic sampling would be off without a word; "
            "set path and name to null, or enable=false"
        )


def _off_policy_faults(config: DictConfig) -> Iterator[str]:
    """What verl's replay buffer stops at, by assertions."""
    sampler = config.trainer.v1.sampler
    threshold, strategy = sampler.max_off_policy_threshold, sampler.max_off_policy_strategy
    if threshold is not None and (not isinstance(threshold, int) or threshold < 1):
        yield (
            f"trainer.v1.sampler.max_off_policy_threshold = {threshold!r}: a group may be so many updates old, counted "
            "from 1; null for any age"
        )
    if strategy not in ("drop", "wait"):
        yield f"trainer.v1.sampler.max_off_policy_strategy = {strategy!r}; allowed: drop, wait"


def _filter_faults(config: DictConfig) -> Iterator[str]:
    if not _filters_groups(config):
        return
    metric = config.algorithm.filter_groups.get("metric")
    if MarsSettings.from_algorithm(config.algorithm).filter_on == "union" and metric != "reward":
        yield (
            f"algorithm.filter_groups.metric = {metric!r} with algorithm.mars.filter_on=union: anchors are rewards and "
            "are compared with rewards; set the metric to reward, or filter_on=fused to leave anchors out"
        )


def _separate_faults(config: DictConfig) -> Iterator[str]:
    """What verl's ``separate_async`` stops at, by assertions or on its first log line."""
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
                f"actor_rollout_ref.rollout.{key} = {rollout.get(key)}: mars_separate_async rolls out on devices of "
                "its own; say how many (hardware=cpu_separate does, on a CPU)"
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
