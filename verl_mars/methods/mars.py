"""MARS (arXiv 2605.25437) as a method: mono sessions beside the fused ones, whose rewards anchor the group.

The mathematics is in :mod:`verl_mars.algos.mars`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from verl_mars.algos.gain import (
    GroupAccuracy,
    accuracy_anchors,
    anchored_advantage,
    closed_out,
    gain_effect,
    group_accuracy,
    open_gates,
    teaches,
)
from verl_mars.algos.mars import Groups, GroupStatistics, group_statistics
from verl_mars.config import Settings
from verl_mars.methods.base import FinishedGroups, Inputs, Method, Result, Session
from verl_mars.methods.mars_metrics import group_metrics, session_metrics
from verl_mars.rows import anchor_matrix, as_list
from verl_mars.views import Mono, MonoPrompt, Row, Source, sources_of_row

if TYPE_CHECKING:
    from omegaconf import DictConfig


class MarsSettings(Settings):
    """Settings under ``algorithm.mars``. Defaults are the authors'."""

    anchors_per_source: int = Field(default=1, ge=1, le=64)
    """Mono sessions of each source."""

    anchor_decoding: Literal["greedy", "sampled"] | None = None
    """How mono sessions are decoded; ``sampled``: like the fused rollouts. None: greedy for one anchor a source,
    sampled for more. Greedy anchors bias the gain: down on prompts that are easy for the source, up on hard ones."""

    anchors: Literal["mono", "leave_one_out"] = "mono"
    """``mono``: each source alone. ``leave_one_out``: all sources but one, so that the gain is that of adding it. The
    same for two sources."""

    mono_prompt: MonoPrompt = "repeat"
    """How the fused text is shown with one source, if the row has no prompt for the source. ``repeat``: the source's
    images fill every image placeholder (the authors' way); ``drop``: the other placeholders are left out."""

    anchor_timeout_seconds: float = Field(default=600.0, gt=0)
    """A mono session that takes longer has failed: its anchor is missing, its group is trained on without it."""

    anchor_max_tokens: int | None = Field(default=None, ge=1)
    """Longest response of a mono session in tokens. One that reaches it was cut and would score 0: its anchor is
    missing. None: as long as a fused one (``data.max_response_length``)."""

    anchor_every: int = Field(default=1, ge=1)
    """Epochs that an anchor serves before its mono session is run again. 1: it is used once."""

    gain_gate: Literal["none", "solved", "unsolved_or_mixed"] = "none"
    """Where the information gain acts. ``solved``: not where it is positive and no fused rollout is right.
    ``unsolved_or_mixed``: not where every fused rollout is right. There U is the fused rewards alone."""

    anchor_key: Literal["score", "acc"] = "score"
    """What anchors and rollouts are compared on. ``acc``: accuracy; form and length penalty of an anchor count as those
    of its group."""

    accuracy_weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What an accuracy of 1 adds to the score, for ``anchor_key=acc``: that of the reward. The recipes take it from
    ``reward.reward_kwargs.accuracy_weight``."""

    gain_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Weight of the gain in the numerator. None: K / (G + K), which grows with the number of anchors."""

    std_floor: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Smallest denominator, so that a small difference between anchors and rollouts stays small."""

    filter_on: Literal["union", "fused"] = "union"
    """What ``algorithm.filter_groups`` (DAPO's dynamic sampling) looks at. ``union``: a group is dropped when all its
    advantages are 0; ``fused``: when its fused rewards are equal, whatever its anchors say."""

    check_data: bool = True
    """Read every row and the header of every image of the training files, and count the tokens of every prompt, before
    the models load."""


@dataclass(frozen=True)
class Anchored:
    """The groups of a batch with their anchors."""

    measured: GroupStatistics
    """With every anchor as it was scored, truncated ones left out."""
    acting: GroupStatistics
    """With the anchors that enter the advantages, as the options leave them."""
    accuracy: GroupAccuracy | None
    """Of the fused rollouts; None: the reward function does not say it."""


class Mars(Method):
    """Mono-source anchors in the group statistics."""

    name = "mars"
    Settings: ClassVar[type[Settings]] = MarsSettings
    lacks = "rolls out no anchors"
    reward_details = ("acc",)
    anchor_values = ("acc", "format", "truncated")
    counts = frozenset(("mars/missing_anchors", "mars/truncated_anchors", "mars/anchor_tokens", "mars/kept_groups"))

    def __init__(self, algorithm: "DictConfig | None" = None) -> None:
        super().__init__(algorithm)
        self.anchor_epochs = self.settings.anchor_every
        self.mono_prompt = self.settings.mono_prompt
        self.check_data = self.settings.check_data
        self.joins_sources = self.settings.anchors == "leave_one_out"
        self.group_fields = ("anchor_scores",)
        if self.settings.anchor_max_tokens is not None:
            self.group_fields += ("anchor_truncated",)
        if self.settings.gain_gate != "none" or self.settings.anchor_key == "acc":
            self.group_fields += ("anchor_acc", "extra_fields")

    def faults(self, config: "DictConfig") -> Iterator[str]:
        if config.algorithm.use_kl_in_reward:
            yield (
                "algorithm.use_kl_in_reward = True with adv_estimator=mars: the fused rewards would carry a KL penalty "
                "and the anchors none; use actor_rollout_ref.actor.use_kl_loss=true instead"
            )
        reward_model = config.reward.reward_model
        separate = config.trainer.v1.trainer_mode == "mars_separate_async"  # refused for every estimator
        if reward_model.enable and not reward_model.enable_resource_pool and not separate:
            yield (
                "reward.reward_model.enable_resource_pool = False: a colocated reward model scores after the rollout, "
                "but anchors are scored during it; give the reward model its own pool or use a rule-based reward"
            )
        groups = config.algorithm.get("filter_groups") or {}
        metric = groups.get("metric")
        if groups.get("enable", False) and self.settings.filter_on == "union" and metric != "reward":
            yield (
                f"algorithm.filter_groups.metric = {metric!r} with algorithm.mars.filter_on=union: anchors are rewards "
                "and are compared with rewards; set the metric to reward, or filter_on=fused to leave anchors out"
            )
        yield from self._option_faults(config)

    def _option_faults(self, config: "DictConfig") -> Iterator[str]:
        settings = self.settings
        if settings.anchor_decoding == "greedy" and settings.anchors_per_source > 1:
            yield (
                f"algorithm.mars.anchors_per_source = {settings.anchors_per_source} with anchor_decoding=greedy: all "
                "greedy answers of a source are the same; set anchors_per_source to 1, or anchor_decoding to sampled"
            )
        scored = (config.reward.get("reward_kwargs") or {}).get("accuracy_weight")
        if settings.anchor_key == "acc" and settings.accuracy_weight is None:
            yield (
                "algorithm.mars.anchor_key = 'acc' needs the weight of accuracy in the score; set "
                "reward.reward_kwargs.accuracy_weight and format_weight (the recipes take it from there), or "
                "algorithm.mars.accuracy_weight if the reward function is not `mars`"
            )
        elif settings.anchor_key == "acc" and scored is not None and scored != settings.accuracy_weight:
            yield (
                f"algorithm.mars.accuracy_weight = {settings.accuracy_weight}, but the reward weighs accuracy with "
                f"reward.reward_kwargs.accuracy_weight = {scored}; leave the former out, or set both to one value"
            )

    def cautions(self, config: "DictConfig") -> Iterator[str]:
        rollout = config.actor_rollout_ref.rollout
        cut = [f"top_p = {rollout.top_p}"] if rollout.top_p < 1 else []
        cut += [f"top_k = {rollout.top_k}"] if rollout.top_k not in (-1, 0, None) else []
        if cut:
            yield (
                f"actor_rollout_ref.rollout.{' and '.join(cut)} with the anchors of mars: tokens are drawn from part "
                "of the vocabulary and log-probs are of all of it, so a positive information gain sharpens the policy "
                "and a negative one flattens it, whatever the reward says; top_p=1 and top_k=-1 have no such term "
                "(docs/algorithms/mars.md)"
            )

    # ------------------------------------------------------------ rollout

    @property
    def anchoring(self) -> Method:
        return self

    def sessions(self, prompt: Row) -> Sequence[Session]:
        """The mono sessions of each source; a prompt with one source has none, as its mono view is its fused view."""
        sources, settings = sources_of_row(prompt), self.settings
        if len(sources) == 1:
            return [Session(sources[0].name, None)]
        if settings.anchors == "leave_one_out" and len(sources) > 2:
            sources = tuple(all_but(source, sources) for source in sources)
        greedy = settings.anchor_decoding == "greedy" or (
            settings.anchor_decoding is None and settings.anchors_per_source == 1
        )
        limit = {} if settings.anchor_max_tokens is None else {"max_tokens": settings.anchor_max_tokens}
        return [
            Session(
                source.name,
                Mono(source, settings.mono_prompt),
                number,
                greedy=greedy,
                sampling=limit,
                timeout_seconds=settings.anchor_timeout_seconds,
            )
            for source in sources
            for number in range(settings.anchors_per_source)
        ]

    @property
    def group_filter(self) -> Method | None:
        return self if self.settings.filter_on == "union" else None

    def verdicts(self, groups: FinishedGroups) -> Mapping[str, float | None]:
        """A group of equal fused rewards still teaches if its anchors give it an advantage (arXiv 2605.25437)."""
        fields, rows = groups.fields, len(groups.uids)
        anchors = {name: anchor_matrix(fields[name]) for name in self.group_fields if name != "extra_fields"}
        accuracy = torch.full((rows,), math.nan)
        if "extra_fields" in self.group_fields:
            extra = [getattr(row, "data", row) or {} for row in as_list(fields["extra_fields"])]
            said = [(row.get("reward_extra_info") or {}).get("acc") for row in extra]
            accuracy = torch.tensor([math.nan if value is None else float(value) for value in said])
        values = {name.removeprefix("anchor_"): column for name, column in anchors.items()}
        counted = torch.ones(rows, dtype=torch.bool)
        anchored = self._anchored(groups.rewards, groups.uids, values["scores"], values, accuracy, counted)
        learns = teaches(anchored.acting, self.settings.gain_weight)
        of_group = dict(zip(groups.uids, anchored.acting.group_of_row.tolist(), strict=True))
        return {
            uid: None if learns[group] else anchored.acting.fused_mean[group].item() for uid, group in of_group.items()
        }

    # ------------------------------------------------------------ training

    def advantages(self, inputs: Inputs) -> Result:
        if inputs.anchors is None:
            raise self.missing("anchors")
        if inputs.index is None:
            raise ValueError("algorithm.adv_estimator=mars needs the prompt uid of each row (`index`)")
        scores = inputs.rewards.sum(-1)  # (B,)
        accuracy = inputs.reward_details.get("acc", torch.full_like(scores, math.nan))
        anchored = self._anchored(
            scores, inputs.index, inputs.anchors.scores, inputs.anchors.values, accuracy, inputs.counted
        )
        of_rows = anchored_advantage(
            scores, anchored.acting, _normalizes(inputs.config), self.settings.gain_weight, self.settings.std_floor
        )
        return Result(of_rows[:, None] * inputs.response_mask, details=(anchored, of_rows))

    def _anchored(
        self,
        scores: torch.Tensor,
        uids: Groups,
        anchors: torch.Tensor,
        values: Mapping[str, torch.Tensor],
        accuracy: torch.Tensor,
        counted: torch.Tensor,
    ) -> Anchored:
        """Statistics of B rows in N groups.

        Args:
            scores: (B,) fused rewards.
            uids: (B,) of the rows' prompts.
            anchors: (B, K) scores, NaN = no anchor.
            values: (B, K) of the anchors by name, where known: ``acc``, ``truncated``.
            accuracy: (B,) of the fused rollouts, NaN where the reward function does not say it.
            counted: (B,) bool, rows that enter the statistics.
        """
        settings = self.settings
        if settings.anchor_max_tokens is not None and "truncated" in values:
            anchors = torch.where(values["truncated"] > 0, torch.nan, anchors)
        measured = group_statistics(scores, uids, anchors, counted)
        known = bool(accuracy[counted].isfinite().all())
        of_groups = group_accuracy(accuracy, measured, counted) if known else None
        acting = measured
        if settings.anchor_key == "acc":
            if not known or "acc" not in values or settings.accuracy_weight is None:
                raise self._no_accuracy("algorithm.mars.anchor_key=acc")
            weight = torch.full_like(scores, settings.accuracy_weight)
            own = torch.where(anchors.isfinite(), values["acc"].to(anchors), torch.nan)
            anchors = accuracy_anchors(scores, accuracy, uids, own, weight, counted)
            acting = group_statistics(scores, uids, anchors, counted)
        if settings.gain_gate != "none":
            if of_groups is None:
                raise self._no_accuracy(f"algorithm.mars.gain_gate={settings.gain_gate}")
            gates = open_gates(acting, of_groups, settings.gain_gate)
            acting = group_statistics(scores, uids, closed_out(anchors, acting, gates), counted)
        return Anchored(measured, acting, of_groups)

    def _no_accuracy(self, option: str) -> ValueError:
        return ValueError(
            f"{option} needs `acc` of every fused rollout and anchor, and the reward function returns none; use "
            "reward.reward_manager.name=mars, return `acc` beside `score`, or leave the option out"
        )

    def metrics(self, inputs: Inputs, result: Result) -> dict[str, float]:
        """Means over the groups of the batch (:func:`group_metrics`), what the shift did to it
        (:func:`~verl_mars.algos.gain.gain_effect`) and the cost of its mono sessions (:func:`session_metrics`)."""
        (anchored, of_rows), anchors, settings = result.details, inputs.anchors, self.settings
        assert anchors is not None  # advantages() refused that
        stats = anchored.measured
        of_group = dict(zip(stats.group_of_row.tolist(), range(len(inputs.real)), strict=True))
        first = [of_group[n] for n in range(len(of_group))]
        limit = settings.anchor_max_tokens is not None
        values = {name: column[first] for name, column in anchors.values.items()}
        metrics = group_metrics(stats, [anchors.sources[row] for row in first], values, limit)
        metrics |= session_metrics(anchors, stats, inputs.counted, inputs.tags)
        if not bool((stats.num_fused > 0).any()):
            return metrics
        effect = gain_effect(
            of_rows,
            anchored.acting,
            inputs.counted,
            anchored.accuracy,
            settings.gain_weight,
            settings.std_floor,
            _normalizes(inputs.config),
        )
        named = {f"mars/{name}": value for name, value in vars(effect).items() if value is not None}
        named["mars/rescued_groups"] = effect.rescued_up + effect.rescued_down
        return metrics | named


def all_but(source: Source, sources: Sequence[Source]) -> Source:
    """All sources of a prompt but one, as a source."""
    images = tuple(image for other in sources if other is not source for image in other.images)
    return Source(f"all_but_{source.name}", images)


def _normalizes(algorithm: "DictConfig | None") -> bool:
    return True if algorithm is None else bool(algorithm.get("norm_adv_by_std_in_grpo", True))
