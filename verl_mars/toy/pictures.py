"""The demo's pictures: ``curve.png`` (training) and ``samples.png`` (answers before and after)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

from verl_mars.fields import FieldDict
from verl_mars.reward import compute_score
from verl_mars.toy.evaluate import FUSED, Evaluation
from verl_mars.toy.runs import Metrics
from verl_mars.toy.world import COMPLEMENTARY, CONFLICTING, DOMINANT, REDUNDANT, parse_answer

_HALO = withStroke(linewidth=3.5, foreground="white")
INK, GREY, PALE, PAPER = "#1b1f2a", "#7d8390", "#e4e7ec", "#ffffff"
COLOR_OF: Mapping[str, str] = {FUSED: "#27348b", "rgb": "#e07a1f", "infrared": "#c2357a", "depth": "#1f8fb8"}
RIGHT, WRONG = "#1a8f4c", "#cf3a3a"
REWARD_WEIGHTS = {"accuracy_weight": 0.9, "format_weight": 0.1}  # as in recipes/dataset/toy.yaml
_ABOUT = {
    COMPLEMENTARY: "needs both sources",
    REDUNDANT: "either source will do",
    DOMINANT: "one source sees nothing",
    CONFLICTING: "RGB is misleading",
}


def draw_curve(metrics: Metrics, before: Evaluation, after: Evaluation, title: str, file: Path) -> None:
    """Training reward and anchors, information gain, groups that anchors change, and held-out accuracy.

    A run without anchors (`grpo`) has only the first and the last.
    """
    anchored = bool(metrics.series("mars/info_gain")[0])
    figure = Figure(figsize=(13.5, 9 if anchored else 4.9), dpi=130, facecolor=PAPER)
    figure.suptitle(title, x=0.05, y=0.975 if anchored else 0.96, ha="left", fontsize=15, fontweight="bold", color=INK)
    low, high = (0.065, 0.855) if anchored else (0.12, 0.74)
    figure.subplots_adjust(left=0.05, right=0.925, top=high, bottom=low, hspace=0.45, wspace=0.46)
    rows = 2 if anchored else 1
    _draw_reward(_axes(figure, rows, 1, "Training reward", "mean reward of a step"), metrics)
    if anchored:
        _draw_gain(_axes(figure, rows, 2, "Information gain", "fused reward minus anchors"), metrics)
        _draw_groups(_axes(figure, rows, 3, "Groups that anchors tell apart", "share of prompts"), metrics)
    _draw_heldout(_axes(figure, rows, 2 * rows, "Held-out accuracy", ""), before, after)
    figure.savefig(file)


def _axes(figure: Figure, rows: int, place: int, title: str, label: str) -> Axes:
    axes = figure.add_subplot(rows, 2, place)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=22)
    axes.text(0, 1.03, label, transform=axes.transAxes, fontsize=9, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(colors=GREY, length=0, labelsize=9)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


@dataclass(frozen=True)
class _Line:
    name: str
    label: str
    color: str
    bold: bool = False


def _draw_lines(axes: Axes, metrics: Metrics, lines: Sequence[_Line]) -> None:
    """Each metric as a faint line and its running mean, named at its right end."""
    ends = []
    for line in lines:
        steps, values = metrics.series(line.name)
        if not steps:
            continue
        smooth = _running_mean(values)
        axes.plot(steps, values, color=line.color, alpha=0.18, linewidth=1)
        axes.plot(steps, smooth, color=line.color, linewidth=2.6 if line.bold else 1.8, solid_capstyle="round")
        ends.append((smooth[-1], line, steps[-1]))
    axes.margins(x=0.01)
    axes.set_xlabel("step", fontsize=9, color=GREY, loc="right")
    low, high = axes.get_ylim()
    placed = _spread([value for value, _, _ in ends], gap=0.062 * (high - low))
    for y, (_, line, step) in zip(placed, ends, strict=True):
        weight = "bold" if line.bold else "normal"
        axes.annotate(
            line.label, (step, y), xytext=(6, 0), textcoords="offset points", va="center", color=line.color,
            fontsize=9.5, fontweight=weight, annotation_clip=False,
        )  # fmt: skip


def _running_mean(values: Sequence[float], width: int = 5) -> list[float]:
    """Mean over the last `width` values; fewer at the start."""
    return [float(np.mean(values[max(0, i - width + 1) : i + 1])) for i in range(len(values))]


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved apart to at least `gap`, in their order, close to their places (one pass, no optimum)."""
    placed = np.array(values, float)
    order = np.argsort(placed, kind="stable")
    for lower, upper in zip(order, order[1:], strict=False):
        placed[upper] = max(placed[upper], placed[lower] + gap)
    return [float(value) for value in placed - (placed - values).mean()] if len(placed) else []


def _draw_reward(axes: Axes, metrics: Metrics) -> None:
    fused = "mars/fused_score" if metrics.series("mars/fused_score")[0] else "critic/score/mean"
    axes.set_ylim(0, 1.02)
    anchors = [
        _Line(f"mars/anchor_score/{source}", f"{source} alone", COLOR_OF.get(source, GREY))
        for source in metrics.under("mars/anchor_score/")
    ]
    _draw_lines(axes, metrics, [_Line(fused, "fused", COLOR_OF[FUSED], bold=True), *anchors])


def _draw_gain(axes: Axes, metrics: Metrics) -> None:
    axes.axhline(0, color=GREY, linewidth=1)
    by_source = [
        _Line(f"mars/info_gain/{source}", f"over {source}", COLOR_OF.get(source, GREY))
        for source in metrics.under("mars/info_gain/")
    ]
    _draw_lines(axes, metrics, [_Line("mars/info_gain", "mean", INK, bold=True), *by_source])


def _draw_groups(axes: Axes, metrics: Metrics) -> None:
    axes.set_ylim(-0.02, 1.02)
    lines = [
        _Line("mars/interference_groups", "interference:\nfused below anchors", WRONG, bold=True),
        _Line("mars/rescued_groups", "rescued: no signal\nwithout anchors", RIGHT, bold=True),
    ]
    _draw_lines(axes, metrics, lines)


def _draw_heldout(axes: Axes, before: Evaluation, after: Evaluation) -> None:
    """Fused accuracy before and after, and the best source alone after training, overall and for each regime."""
    regimes = [None, *before.regimes]
    names = ["overall", *before.regimes]
    x, width = np.arange(len(regimes)), 0.36
    for evaluation, side, color, ink in ((before, -1, "#b9c0e6", INK), (after, 1, COLOR_OF[FUSED], COLOR_OF[FUSED])):
        heights = [evaluation.accuracy(FUSED, regime) for regime in regimes]
        axes.bar(x + side * width / 2, heights, width * 0.94, color=color, label=("before", "after")[side > 0])
        for at, height in zip(x, heights, strict=True):
            axes.text(
                at + side * width / 2, height + 0.018, f"{100 * height:.0f}", ha="center", color=ink, fontsize=9.5,
                fontweight="bold" if side > 0 else "normal", path_effects=[_HALO],
            )  # fmt: skip
    best = [max(after.accuracy(source, regime) for source in after.sources) for regime in regimes]
    marks: FieldDict = {"color": INK, "linewidth": 1.8, "path_effects": [_HALO], "zorder": 2.5}
    axes.hlines(best, x - width, x + width, label="best source alone, after", **marks)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100%"])
    axes.set_xticks(x, names, color=INK, fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    bars_first = sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0].startswith("best"))
    axes.legend(
        [handle for _, handle in bars_first],
        [label for label, _ in bars_first],
        loc="lower left",
        bbox_to_anchor=(-0.012, 0.985),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=GREY,
        handlelength=1.2,
        columnspacing=1.4,
    )


# The sheet of samples, in pixels.
_PICTURE, _GAP, _MARGIN, _WIDTH = 168, 14, 28, 1330
_ROW = _PICTURE + 56
_HEAD = 118
_TEXT_AT = _MARGIN + 2 * (_PICTURE + _GAP) + 26
_TABLE_AT = _TEXT_AT + 330
_BEFORE_AT, _AFTER_AT, _PILL = _TABLE_AT + 105, _TABLE_AT + 340, 140


def draw_samples(before: Evaluation, after: Evaluation, file: Path, per_regime: int = 2) -> None:
    """A contact sheet: every source's picture, the question, the truth, and the answers to every view, with rewards.

    Of each regime: the first held-out row whose fused answer training changed, then the first of the others.
    """
    rows = list(_choose(before, after, per_regime))
    sheet = Image.new("RGB", (_WIDTH, _HEAD + len(rows) * _ROW + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 26), "What the model sees, and what it answers", INK, _font(25, bold=True))
    caption = "Held-out scenes: of each regime the first that training changed, and the first of the others."
    draw.text((_MARGIN, 62), caption, GREY, _font(15))
    for x, text in ((_TABLE_AT, "shown"), (_BEFORE_AT, "before"), (_AFTER_AT, "after")):
        draw.text((x, 92), text, INK, _font(14, bold=True))
    for x in (_BEFORE_AT, _AFTER_AT):
        draw.text((x + _PILL + 8, 92), "reward", GREY, _font(14))
    for place, row in enumerate(rows):
        _draw_row(sheet, draw, _HEAD + place * _ROW, row, before, after)
    sheet.save(file)


def _choose(before: Evaluation, after: Evaluation, per_regime: int) -> Iterator[int]:
    changed = before.right[FUSED] != after.right[FUSED]
    for regime in before.regimes:
        rows = np.flatnonzero(before.rows(regime))
        first = rows[changed[rows]][:1]
        yield from (int(row) for row in [*first, *(row for row in rows if row not in first)][:per_regime])


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, row: int, before: Evaluation, after: Evaluation
) -> None:
    heldout = before.heldout
    draw.line([(_MARGIN, top), (_WIDTH - _MARGIN, top)], PALE, 1)
    y = top + 18
    for place, (source, path) in enumerate(zip(heldout.sources[row], heldout.images[row], strict=True)):
        x = _MARGIN + place * (_PICTURE + _GAP)
        with Image.open(path) as picture:
            sheet.paste(picture.convert("RGB").resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + _PICTURE + 5), source, COLOR_OF.get(source, GREY), _font(14, bold=True))

    regime = heldout.regimes[row]
    draw.text((_TEXT_AT, y - 3), regime, INK, _font(20, bold=True))
    draw.text((_TEXT_AT, y + 25), _ABOUT.get(regime, ""), GREY, _font(14))
    draw.text((_TEXT_AT, y + 66), heldout.questions[row], INK, _font(17))
    draw.text((_TEXT_AT, y + 98), "truth", GREY, _font(14))
    draw.text((_TEXT_AT + 48, y + 95), heldout.answers[row], RIGHT, _font(17, bold=True))

    for place, view in enumerate((FUSED, *heldout.sources[row])):
        line = y + 8 + place * 54
        label = "both" if view == FUSED and len(heldout.sources[row]) == 2 else view
        draw.text((_TABLE_AT, line + 6), label, COLOR_OF.get(view, GREY), _font(16, bold=view == FUSED))
        for x, evaluation in ((_BEFORE_AT, before), (_AFTER_AT, after)):
            _draw_answer(draw, x, line, row, view, evaluation)


def _draw_answer(draw: ImageDraw.ImageDraw, x: int, y: int, row: int, view: str, evaluation: Evaluation) -> None:
    response = evaluation.responses[view][row] or ""
    answer = _clip(parse_answer(response) or response, 16)
    color = RIGHT if evaluation.right[view][row] else WRONG
    draw.rounded_rectangle([(x, y), (x + _PILL, y + 34)], 9, fill=_tint(color, 0.12))
    draw.text((x + _PILL / 2, y + 17), answer, color, _font(16, bold=view == FUSED), anchor="mm")
    draw.text((x + _PILL + 10, y + 17), f"{_reward(evaluation, view, row):.1f}", GREY, _font(14), anchor="lm")


def _reward(evaluation: Evaluation, view: str, row: int) -> float:
    """The training's reward of a response."""
    result = compute_score(
        "toy_multisource",
        evaluation.responses[view][row] or "",
        {"answers": [evaluation.heldout.answers[row]]},
        {"task": "vqa"},
        truncated=not evaluation.ended[view][row],
        **REWARD_WEIGHTS,
    )
    return float(result["score"])


def _clip(text: str, length: int) -> str:
    """At most `length` characters of a text, with a dot for each one that cannot be drawn."""
    drawn = "".join(letter if letter.isprintable() else "·" for letter in text)
    return drawn if len(drawn) <= length else drawn[: length - 1] + "…"


def _tint(color: str, strength: float) -> tuple[int, int, int]:
    """The color on white paper at this strength."""
    red, green, blue = (round(255 + (int(color[i : i + 2], 16) - 255) * strength) for i in (1, 3, 5))
    return red, green, blue


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    file = findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal"))
    # The basic layout takes any text; the default one raises on some.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
