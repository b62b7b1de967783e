"""Answers scored by the rewards of training, and gathered by row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verl_mars.probe.figures import ScoredRow
from verl_mars.probe.folder import Line
from verl_mars.reward.score import score_response
from verl_mars.reward.settings import RewardSettings


@dataclass(frozen=True)
class ScoredLine:
    """An answer with what its reward says of it."""

    line: Line
    accuracy: float
    format: float | None
    error: str


def check_truths(rows: Iterable[Mapping[str, Any]], settings: RewardSettings) -> None:
    """Score an empty answer to every row, so that a row without a scorer is found before anything is asked.

    Raises:
        RowError: no or an unknown task, or a ground truth at fault; the row is named.
    """
    for row in rows:
        truths = [row["reward_model"]["ground_truth"]]
        truths += [s["ground_truth"] for s in row["sources"] if s.get("ground_truth") is not None]
        for truth in truths:
            score_response(row["data_source"], "", truth, row["extra_info"], settings)


def score_line(line: Line, settings: RewardSettings) -> ScoredLine:
    """One answer scored.

    Raises:
        RowError: the line's ground truth or task is at fault.
    """
    fields = line.fields
    verdict = score_response(
        fields.get("data_source"),
        line.answer.text,
        fields.get("ground_truth"),
        fields.get("extra_info"),
        settings,
        truncated=line.answer.cut_off,
    )
    return ScoredLine(line, float(verdict["acc"]), verdict["format"], verdict["error"] or "")


def gather(scored: Iterable[ScoredLine]) -> list[ScoredRow]:
    """Rows in the order of the data."""
    accuracy: dict[int, dict[str, list[float]]] = {}
    info: dict[int, Mapping[str, Any]] = {}
    for each in scored:
        line = each.line
        accuracy.setdefault(line.row, {}).setdefault(line.view, []).append(each.accuracy)
        info.setdefault(line.row, line.fields)
    return [
        ScoredRow(number, tuple(info[number]["sources"]), info[number].get("group"), accuracy[number])
        for number in sorted(accuracy)
    ]
