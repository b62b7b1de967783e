"""Methods that reshape the advantages of a base estimator by how another view changes the policy."""

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from verl_mars.config import Settings
from verl_mars.errors import UserError
from verl_mars.fields import FieldDict
from verl_mars.methods.base import Inputs, Method, Result, RowsToView, ViewContext
from verl_mars.methods.table import METHODS
from verl_mars.views import Blind, OtherPixels, RescoreView
from verl_mars.vision.patches import PatchLayout, mask_patches

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from transformers import ProcessorMixin

_GIVEN = ("token_level_rewards", "response_mask", "index", "config", "norm_adv_by_std_in_grpo")
"""Arguments that a base estimator of verl's registry is called with."""


class ReshapingSettings(Settings):
    """Settings that every reshaping method has."""

    base: str = "grpo"
    """The estimator whose advantages are reshaped: any of verl's registry that gives a response one advantage from the
    rewards of its group, a user's own included, or a method that does (``mars``)."""

    divergence: Literal["sampled", "exact"] = "sampled"
    """How far the other view moves the policy. ``sampled``: estimated at the sampled token. ``exact``: over the whole
    vocabulary, by one more forward pass; needs FSDP without sequence parallelism and without fused kernels."""


class Reshaping(Method):
    """Computes the base's advantages and reshapes them with the view log-probs of the same responses.

    If the base is a method, its sessions, group filter and metrics come with it.
    """

    Settings = ReshapingSettings
    lacks = "rescores no view"
    one_value = False
    rescores = True

    def __init__(self, algorithm: "DictConfig | None" = None) -> None:
        super().__init__(algorithm)
        self.base_name = self.settings.base
        self.exact = self.settings.divergence == "exact"
        self.base: Method | None = None
        if self.base_name in METHODS:
            base = METHODS[self.base_name]
            if not base.one_value:
                raise UserError(
                    f"algorithm.{self.name}.base = {self.base_name!r}: it reshapes advantages itself, and a response "
                    "has no single one left; name an estimator that gives one, as 'grpo' or 'mars'"
                )
            self.base = base(algorithm)
            for attribute in ("anchor_epochs", "mono_prompt", "check_data", "counts"):
                setattr(self, attribute, getattr(self.base, attribute))
            self.reward_details = (*self.reward_details, *self.base.reward_details)
            self.fields = (*self.fields, *self.base.fields)

    @property
    def anchoring(self) -> Method | None:
        return None if self.base is None else self.base.anchoring

    @property
    def group_filter(self) -> Method | None:
        return None if self.base is None else self.base.group_filter

    @abstractmethod
    def reshape(self, advantages: torch.Tensor, inputs: Inputs) -> Result:
        """Reshape (B, T) advantages of the base; the result's ``details`` are for :meth:`own_metrics`."""

    def own_metrics(self, inputs: Inputs, details: Any) -> dict[str, float]:
        """Metrics beside those of the base."""
        return {}

    def advantages(self, inputs: Inputs) -> Result:
        if inputs.index is None:
            raise ValueError(f"algorithm.adv_estimator={self.name} needs the prompt uid of each row (`index`)")
        if self.base is not None:
            base = self.base.advantages(inputs)
        else:
            base = Result(base_advantages(self.base_name, inputs, f"algorithm.{self.name}.base"))
        shaped = self.reshape(base.advantages, inputs)
        return Result(shaped.advantages, {**base.tokens, **shaped.tokens}, (base, shaped.details))

    def metrics(self, inputs: Inputs, result: Result) -> dict[str, float]:
        base, details = result.details
        metrics = {} if self.base is None else self.base.metrics(inputs, base)
        return metrics | self.own_metrics(inputs, details)

    def log_probs_of_both(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) log-probs of the responses under their own view and under the other.

        Raises:
            ValueError: nobody handed them over.
        """
        if inputs.log_probs is None or inputs.view_log_probs is None:
            raise self.missing("view log-probs")
        return inputs.log_probs, inputs.view_log_probs

    # ------------------------------------------------------------ before a run

    def cautions(self, config: "DictConfig") -> Iterator[str]:
        if self.base is not None:
            yield from self.base.cautions(config)

    def faults(self, config: "DictConfig") -> Iterator[str]:
        if self.base is None:
            yield from base_faults(self.base_name, f"algorithm.{self.name}.base")
        else:
            yield from self.base.faults(config)
        correction = config.algorithm.get("rollout_correction", None)
        if correction and correction.get("bypass_mode", False):
            yield (
                f"algorithm.rollout_correction.bypass_mode = True with adv_estimator={self.name}: the fused log-probs "
                "would be the rollout engine's and the other view's the actor's, and their difference would say "
                "nothing about the images; set it to false"
            )
        if self.exact:
            yield from exact_faults(config, f"algorithm.{self.name}.divergence=exact")
        actor = config.actor_rollout_ref.actor
        if actor.strategy in ("megatron", "veomni"):
            mode = ((actor.get(actor.strategy) or {}).get("router_replay") or {}).get("mode", "disabled")
            if mode != "disabled":
                yield (
                    f"actor_rollout_ref.actor.{actor.strategy}.router_replay.mode = {mode!r} with "
                    f"adv_estimator={self.name}: the recorded routing belongs to the fused view's tokens and does not "
                    "fit another view; set it to disabled"
                )


def blind_view(processor: "ProcessorMixin") -> Blind:
    """The view without the visual tokens of a processor.

    Raises:
        ValueError: the processor names no image token.
    """
    from verl.utils.tokenizer import get_processor_token_id

    ids = (get_processor_token_id(processor, kind) for kind in ("image", "video"))
    tokens = frozenset(token for token in ids if token is not None)
    if not tokens:
        raise ValueError(
            "the processor of actor_rollout_ref.model.path names no image token, so that there is no blind view; "
            "an algorithm.adv_estimator that rescores responses under another view needs a vision-language model"
        )
    return Blind(tokens)


MASKED_FIELDS = ("multi_modal_inputs", "index")
"""Fields of the rows that :func:`masked_views` reads."""


def masked_views(rows: RowsToView, context: ViewContext, share: float) -> list[RescoreView | None]:
    """(B) every response with black patches in its images; None for padding and rows without images.

    The patches depend on the run's seed, the step and the prompt: all responses to a prompt see the same ones.

    Args:
        rows: with :data:`MASKED_FIELDS`.
        context: of the run.
        share: the probability that a patch is black.

    Raises:
        ValueError: the processor is not of the Qwen-VL family.
    """
    layout = PatchLayout.of(context.processor)
    made: dict[Hashable, OtherPixels] = {}
    views: list[RescoreView | None] = []
    columns = (rows.fields[name] for name in MASKED_FIELDS)
    for pixels, index, real in zip(*columns, rows.real.tolist(), strict=True):
        own = getattr(pixels, "data", pixels) or {}
        if not real or "pixel_values" not in own:
            views.append(None)
            continue
        # Images that a tool returned make a row's pixels different from those of its group.
        key = (index, own["pixel_values"].shape)
        if key not in made:
            identity = repr((context.seed, context.step, index, "patches")).encode()
            seed = int.from_bytes(hashlib.blake2b(identity, digest_size=7).digest(), "big")
            made[key] = OtherPixels(mask_patches(own, layout, share, seed))
        views.append(made[key])
    return views


def base_faults(name: str, where: str) -> Iterator[str]:
    """Why an estimator cannot be a base, as far as that is known before it runs."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    reason = _unfit(name)
    if reason:
        usable = sorted(str(other) for other in ADV_ESTIMATOR_REGISTRY if not _unfit(str(other)))
        yield f"{where} = {name!r}: {reason}; known: {', '.join(map(repr, usable))}"


def _unfit(name: str) -> str:
    """Why an estimator of verl's registry gives no base; empty if it may."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    if name in METHODS:
        try:
            return "" if METHODS[name].one_value else "it reshapes advantages itself"
        except UserError as error:  # of somebody else
            return str(error)
    if name not in ADV_ESTIMATOR_REGISTRY:
        return "no estimator of this name is registered with verl"
    parameters = inspect.signature(ADV_ESTIMATOR_REGISTRY[name]).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable and p.name not in _GIVEN]
    return f"that estimator needs {', '.join(needed)}, which a base does not get" if needed else ""


def base_advantages(name: str, inputs: Inputs, where: str) -> torch.Tensor:
    """(B, T) advantages of an estimator of verl's registry, the same on all tokens of a response.

    As verl does for its own ``grpo``, a session with several outputs enters its group once, by its last output, and all
    its outputs get that advantage. Padding gets none.

    Raises:
        UserError: the estimator gives the tokens of a response different advantages.
    """
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    estimator = get_adv_estimator_fn(name)
    parameters = inspect.signature(estimator).parameters
    options: FieldDict = {"config": inputs.config}
    if inputs.config is not None and "norm_adv_by_std_in_grpo" in parameters:
        options["norm_adv_by_std_in_grpo"] = inputs.config.get("norm_adv_by_std_in_grpo", True)
    rows = inputs.counted.nonzero()[:, 0]
    mask = inputs.response_mask[rows]  # (C, T)
    of_rows, _ = estimator(
        token_level_rewards=inputs.rewards[rows],
        response_mask=mask,
        index=None if inputs.index is None else np.asarray(inputs.index, dtype=object)[rows.numpy()],
        **options,
    )
    one_each = of_rows.gather(1, mask.argmax(1, keepdim=True))  # (C, 1)
    if not torch.isclose(of_rows, one_each, rtol=1e-5, atol=1e-6)[mask.bool()].all():
        raise UserError(
            f"{where} = {name!r}: that estimator gives the tokens of one response different advantages; "
            "name one that gives a response a single advantage, as 'grpo' or 'rloo'"
        )
    values = of_rows.new_zeros(len(inputs.real), 1)
    values[rows] = one_each
    return values[inputs.last_output] * inputs.response_mask


def exact_faults(config: "DictConfig", where: str) -> Iterator[str]:
    """Settings that comparing views over the whole vocabulary cannot be combined with."""
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
            f"actor_rollout_ref.model.use_fused_kernels = True with {where}: fused kernels bypass the output layer, "
            "whose inputs are compared; set it to false, or divergence=sampled"
        )
