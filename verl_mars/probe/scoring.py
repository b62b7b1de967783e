"""Answers scored by the rewards of training, and gathered by row."""

from collections.abc import Iterable
from dataclasses import dataclass

from verl_mars.errors import UsageError
from verl_mars.fields import Fields
from verl_mars.probe.figures import ScoredRow
from verl_mars.probe.folder import Line
from verl_mars.reward.score import score_response
from verl_mars.reward.settings import RewardSettings
from verl_mars.vision.checkpoint import read_family, read_limits
from verl_mars.vision.families import FAMILIES, frame_named
from verl_mars.vision.resize import ImageLimits


@dataclass(frozen=True)
class ScoredLine:
    """An answer with what its reward says of it."""

    line: Line
    accuracy: float
    format: float | None
    error: str


def in_frame_of_model(
    settings: RewardSettings, rows: Iterable[Fields], model: str | None, max_pixels: int | None
) -> RewardSettings:
    """Settings that say in which frame the model writes boxes, if any row asks for boxes.

    With ``max_pixels`` the size that the model sees is computed from the original image under the smaller limit; the
    two ways round to patches at different times and may differ by one patch.

    Args:
        settings: as given.
        rows: of the data.
        model: folder or hub name of the model, None where it is behind a server.
        max_pixels: to which images are scaled down before the model's own image processor sees them.

    Raises:
        UsageError: the frame is not known, or it does not follow a smaller image.
    """
    boxed = [row["extra_info"] for row in rows if row["extra_info"].get("task") == "grounding"]
    if not boxed:
        return settings
    if settings.coordinates is None and any(extra.get("coordinates") is None for extra in boxed):
        if model is None:
            allowed = ", ".join(("pixel", *FAMILIES))
            raise UsageError(f"the rows ask for boxes: name the model's frame with --coordinates, one of {allowed}")
        settings = settings.model_copy(update={"coordinates": read_family(model)})
        if settings.image_processor is None:
            settings = settings.model_copy(update={"image_processor": read_limits(model)})
    names = {settings.coordinates} if settings.coordinates else {extra["coordinates"] for extra in boxed}
    units = {frame_named(name).unit for name in names}
    if max_pixels is not None and "pixel" in units:
        raise UsageError("--max-pixels: boxes in pixels of the original do not follow a smaller image; leave it out")
    if max_pixels is not None and "seen" in units:
        limits = settings.image_processor or ImageLimits()
        smaller = limits.model_copy(update={"max_pixels": min(limits.max_pixels, max_pixels)})
        settings = settings.model_copy(update={"image_processor": smaller})
    return settings


def check_truths(rows: Iterable[Fields], settings: RewardSettings) -> None:
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
    info: dict[int, Fields] = {}
    for each in scored:
        line = each.line
        accuracy.setdefault(line.row, {}).setdefault(line.view, []).append(each.accuracy)
        info.setdefault(line.row, line.fields)
    return [
        ScoredRow(number, tuple(info[number]["sources"]), info[number].get("group"), accuracy[number])
        for number in sorted(accuracy)
    ]
