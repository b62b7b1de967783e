"""MARS (arXiv 2605.25437) as a method: mono sessions beside the fused ones, whose rewards anchor the group.

The mathematics is in :mod:`verl_mars.algos.mars`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from verl_mars.algos.mars import GroupStatistics, advantage_from_statistics, group_statistics
from verl_mars.config import Settings
from verl_mars.methods.base import FinishedGroups, Inputs, Method, Result, Session
from verl_mars.rows import AnchorRows, Tags, anchor_matrix
from verl_mars.views import Mono, MonoPrompt, Row, sources_of_row


class MarsSettings(Settings):
    """Settings under ``algorithm.mars``."""

    anchors_per_source: int = Field(default=1, ge=1, le=64)
    """Mono sessions of each source. 1: greedy, as the authors do. Above 1: sampled like the fused rollouts."""

    mono_prompt: MonoPrompt = "repeat"
    """How the fused text is shown with one source, if the row has no prompt for the source. ``repeat``: the source's
    images fill every image placeholder (the authors' way); ``drop``: the other placeholders are left out."""

    anchor_timeout_seconds: float = Field(default=600.0, gt=0)
    """A mono session that takes longer has failed: its anchor is missing, its group is trained on without it."""

    anchor_max_tokens: int | None = Field(default=None, ge=1)
    """Longest response of a mono session in tokens; a longer one is cut there and scored as it is. None: as long as a
    fused one (``data.max_response_length``)."""

    anchor_every: int = Field(default=1, ge=1)
    """Epochs that an anchor serves before its mono session is run again. 1: it is used once."""

    filter_on: Literal["union", "fused"] = "union"
    """What ``algorithm.filter_groups`` (DAPO's dynamic sampling) looks at. ``union``: a group is dropped when its fused
    rewards and its anchors are all equal; ``fused``: when its fused rewards are, whatever its anchors say."""

    check_data: bool = True
    """Read every row and the header of every image of the training files, and count the tokens of every prompt, before
    the models load."""


class Mars(Method):
    """Mono-source anchors in the group statistics."""

    name = "mars"
    Settings: ClassVar[type[Settings]] = MarsSettings
    lacks = "rolls out no anchors"
    group_fields = ("anchor_scores",)
    counts = frozenset(("mars/missing_anchors", "mars/anchor_tokens", "mars/kept_groups"))

    def __init__(self, algorithm: Any = None) -> None:
        super().__init__(algorithm)
        self.anchor_epochs = self.settings.anchor_every
        self.mono_prompt = self.settings.mono_prompt
        self.check_data = self.settings.check_data

    def faults(self, config: Any) -> Iterator[str]:
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

    # ------------------------------------------------------------ rollout

    @property
    def anchoring(self) -> Method:
        return self

    def sessions(self, prompt: Row) -> Sequence[Session]:
        """The mono sessions of each source; a prompt with one source has none, as its mono view is its fused view."""
        sources, settings = sources_of_row(prompt), self.settings
        if len(sources) == 1:
            return [Session(sources[0].name, None)]
        limit = {} if settings.anchor_max_tokens is None else {"max_tokens": settings.anchor_max_tokens}
        return [
            Session(
                source.name,
                Mono(source, settings.mono_prompt),
                number,
                greedy=settings.anchors_per_source == 1,
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
        """A group of equal fused rewards still teaches if one of its anchors differs: only its advantages in GRPO are
        all 0, those of MARS have one sign (arXiv 2605.25437)."""
        stats = group_statistics(groups.rewards, groups.uids, anchor_matrix(groups.fields["anchor_scores"]))
        return {
            uid: stats.fused_mean[group].item() if stats.union_is_constant[group] else None
            for uid, group in dict(zip(groups.uids, stats.group_of_row.tolist(), strict=True)).items()
        }

    # ------------------------------------------------------------ training

    def advantages(self, inputs: Inputs) -> Result:
        if inputs.anchors is None:
            raise self.missing("anchors")
        if inputs.index is None:
            raise ValueError("algorithm.adv_estimator=mars needs the prompt uid of each row (`index`)")
        scores = inputs.rewards.sum(-1)  # (B,)
        stats = group_statistics(scores, inputs.index, inputs.anchors.scores, inputs.counted)
        normalize = True if inputs.config is None else bool(inputs.config.get("norm_adv_by_std_in_grpo", True))
        advantages = advantage_from_statistics(scores, stats, normalize)[:, None] * inputs.response_mask
        return Result(advantages, details=stats)

    def metrics(self, inputs: Inputs, result: Result) -> dict[str, float]:
        """Means over the groups of the batch (:func:`group_metrics`) and the cost of its mono sessions
        (:func:`session_metrics`)."""
        stats, anchors = result.details, inputs.anchors
        assert anchors is not None  # advantages() refused that
        of_group = dict(zip(stats.group_of_row.tolist(), anchors.sources, strict=True))
        metrics = group_metrics(stats, [of_group[n] for n in range(len(of_group))])
        return metrics | session_metrics(anchors, stats, inputs.counted, inputs.tags)


def group_metrics(stats: GroupStatistics, sources_of_group: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over the groups (prompts) of a batch; padding groups are left out.

    Args:
        stats: statistics of the N groups, K anchors each.
        sources_of_group: the source of each anchor of each group, in the order of ``stats.anchors``; may be shorter
            than K, never longer.

    Returns:
        ``mars/fused_score`` mean fused reward; ``mars/info_gain`` mean information gain of the groups with an anchor,
        ``mars/info_gain/<source>`` against that source's anchors alone; ``mars/anchor_score/<source>``;
        ``mars/interference_groups`` share of groups with negative gain among those with an anchor;
        ``mars/rescued_groups`` share of groups with no signal under GRPO and some under MARS;
        ``mars/missing_anchors`` number of missing anchors. A mean over nothing is left out.
    """
    real = stats.num_fused > 0
    metrics = {"mars/fused_score": stats.fused_mean[real].mean().item()} if real.any() else {}
    gain = stats.information_gain
    known = real & gain.isfinite()
    if known.any():
        metrics["mars/info_gain"] = gain[known].mean().item()
        metrics["mars/interference_groups"] = (gain[known] < 0).double().mean().item()
    if real.any():
        rescued = real & stats.fused_is_constant & ~stats.union_is_constant
        metrics["mars/rescued_groups"] = (rescued.double().sum() / real.double().sum()).item()

    missing = 0
    scores: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for n in real.nonzero()[:, 0].tolist():
        of_source: dict[str, list[float]] = {}
        for name, score in zip(sources_of_group[n], stats.anchors[n].tolist(), strict=False):
            if score == score:
                of_source.setdefault(name, []).append(score)
            else:
                missing += 1
        for name, values in of_source.items():
            mean = sum(values) / len(values)
            scores.setdefault(name, []).append(mean)
            gains.setdefault(name, []).append(stats.fused_mean[n].item() - mean)
    for name in sorted(scores):
        metrics[f"mars/anchor_score/{name}"] = float(torch.tensor(scores[name], dtype=torch.float64).mean())
        metrics[f"mars/info_gain/{name}"] = float(torch.tensor(gains[name], dtype=torch.float64).mean())
    metrics["mars/missing_anchors"] = float(missing)
    return metrics


def session_metrics(anchors: AnchorRows, stats: GroupStatistics, counted: torch.Tensor, tags: Tags) -> dict[str, float]:
    """The cost of a batch's mono sessions, and how far their weights were from those of the fused ones.

    Args:
        anchors: of the B rows.
        stats: of their groups.
        counted: (B,) bool, rows that enter group statistics.
        tags: verl's, of each row: ``response_len``, ``max_global_steps``, ``is_padding``.

    Returns:
        ``timing_s/anchors`` the longest time from the start of a prompt's first mono session to the score of its last;
        ``mars/anchor_tokens`` tokens that mono sessions sampled; ``mars/anchor_token_share`` their share of all sampled
        tokens; ``mars/anchor_version_gap`` mean distance in updates between the weights with which an anchor and a
        fused trajectory of its prompt ended: 0 in the synchronous mode. Left out if versions are unknown.
    """
    if not counted.any():
        return {"timing_s/anchors": 0.0, "mars/anchor_tokens": 0.0}
    group = stats.group_of_row[counted]
    of_group = torch.zeros(len(stats.num_fused), dtype=torch.float64)
    of_group[group] = anchors.tokens[counted].double()
    tokens = of_group.sum().item()
    fused = sum(float(tag["response_len"]) for tag in tags if not tag.get("is_padding", False))
    metrics = {
        "timing_s/anchors": anchors.seconds[counted].max().item(),
        "mars/anchor_tokens": tokens,
        "mars/anchor_token_share": tokens / (tokens + fused) if tokens + fused else 0.0,
    }
    ended = [tag.get("max_global_steps") for tag in tags]
    own = torch.tensor([float("nan") if version is None else float(version) for version in ended])
    gaps = (anchors.versions - own[:, None]).abs()[counted]
    gaps = gaps[gaps.isfinite()]
    if gaps.numel():
        metrics["mars/anchor_version_gap"] = gaps.mean().item()
    return metrics
