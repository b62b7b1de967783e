"""What each source alone gives in validation (``algorithm.probe.validate``), as metrics of a run.

Shapes: S samples of P prompts, K sources of a prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars.fields import Columns
from verl_mars.rows import ANCHOR_DETAILS

RIGHT = 0.5
"""Accuracy from which an answer counts as right; it matters for grounding only."""


@dataclass
class _Prompt:
    """The answers to one prompt."""

    data_source: str
    alone: Mapping[str, float | None]
    """By source; None: its session failed."""
    fused: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return sum(self.fused) / len(self.fused)


def validation_metrics(data_sources: Sequence[str], uids: Sequence[str], details: Columns) -> dict[str, float]:
    """Fused answers against each source alone, over the validation prompts.

    With accuracies, ``val-mars/acc/fused`` and ``val-mars/acc/<source>`` are means over prompts. For the prompts of two
    or more sources, none of them missing, ``val-mars/info_gain`` is the mean of: mean fused accuracy minus mean over
    the sources; ``val-mars/interference/<data source>`` is the share whose fused answers are wrong on average and
    whose best source alone is right. ``val-mars/missing_anchors`` counts sessions that failed. Rewards stand in
    (``val-mars/reward/...``, no interference) where the reward manager says no accuracy.

    Args:
        data_sources: (S) of the samples.
        uids: (S) of their prompts.
        details: by key, (S) values of the reward manager; ``reward`` is the score.
    """
    anchors = details.get(ANCHOR_DETAILS, ())
    asked = [entry for entries in anchors for entry in entries or () if entry["reward"] is not None]
    accurate = "acc" in details and all(value is not None for value in details["acc"])
    key = "acc" if accurate and all(entry["acc"] is not None for entry in asked) else "reward"
    prompts: dict[str, _Prompt] = {}
    for data_source, uid, value, entries in zip(data_sources, uids, details[key], anchors, strict=True):
        alone = {entry["source"]: entry[key] for entry in entries or ()}
        prompts.setdefault(uid, _Prompt(data_source, alone)).fused.append(float(value))
    metrics = {"val-mars/missing_anchors": 0.0, f"val-mars/{key}/fused": _mean(p.mean for p in prompts.values())}
    gains: list[float] = []
    by_source: dict[str, list[float]] = {}
    misled: dict[str, list[float]] = {}
    for prompt in prompts.values():
        known = {source: value for source, value in prompt.alone.items() if value is not None}
        for source, value in known.items():
            by_source.setdefault(source, []).append(value)
        if len(prompt.alone) < 2:
            continue  # its mono view is its fused view
        metrics["val-mars/missing_anchors"] += len(prompt.alone) - len(known)
        if len(known) == len(prompt.alone):
            gains.append(prompt.mean - _mean(known.values()))
            wrong = prompt.mean < RIGHT <= max(known.values())
            misled.setdefault(prompt.data_source, []).append(float(wrong))
    metrics |= {f"val-mars/{key}/{source}": _mean(values) for source, values in sorted(by_source.items())}
    if gains:
        metrics["val-mars/info_gain"] = _mean(gains)
    if key == "acc":
        metrics |= {f"val-mars/interference/{name}": _mean(values) for name, values in sorted(misled.items())}
    return metrics


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(sum(values) / len(values))


class ValidatesSources(PPOTrainer):
    """Adds :func:`validation_metrics` to verl's metrics of validation."""

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[object]],
        sample_turns: list[object],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        details = reward_extra_infos_dict
        numeric = {key: values for key, values in details.items() if key != ANCHOR_DETAILS}
        metrics = super()._val_metrics_update(
            data_sources, sample_uids, numeric, sample_turns, expected_acc_counts=expected_acc_counts
        )
        if ANCHOR_DETAILS in details:
            metrics |= validation_metrics(data_sources, sample_uids, details)
        return metrics
