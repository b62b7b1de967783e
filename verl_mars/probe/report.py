"""The report of a probe: one HTML file with its pictures inside, which loads nothing and sends nothing.

Answers and questions are other people's text: escaped, clipped, and kept from doing anything by a content security
policy that allows the page's own script by its hash and no connection at all.
"""

import json
from collections.abc import Sequence

from markupsafe import Markup

from verl_mars.data.view_rows import ViewedRows
from verl_mars.fields import FieldDict, Fields
from verl_mars.probe.charts import Bar, bars, ends
from verl_mars.probe.figures import Figures
from verl_mars.probe.pictures import Pictures
from verl_mars.probe.scoring import ScoredLine, gather
from verl_mars.probe.statistics import Estimate
from verl_mars.probe.verdict import interval, percent, points
from verl_mars.reports.page import Picture, picture, render, script_of
from verl_mars.views import Message

PICTURE_BYTES = 12 * 2**20
"""All thumbnails together; they get smaller where there are many."""
ANSWER_CHARACTERS, QUESTION_CHARACTERS = 1500, 600
TEXT_CHARACTERS = 6 * 2**20
"""All answers together; they are clipped shorter where there are many."""
_LARGEST = 200
_SIZES = ((112, 112), (_LARGEST, 0), (112, 0), (64, 0))
"""Longest side, and longest side of a PNG: small pictures stay as they are if there is room."""

_ORDER = ("interference", "complementary", "dominant", "unsolved", "redundant", "incomplete")
_COLORS = {
    "interference": "#c8433b",
    "complementary": "#2f7d6d",
    "dominant": "#3b6fb6",
    "redundant": "#8a9bb0",
    "unsolved": "#b9b2a6",
    "incomplete": "#dedee2",
}
_FUSED, _SOURCE, _CONTROL = "#2f7d6d", "#3b6fb6", "#8a9bb0"
_MEANING = {
    "complementary": "only all sources together are right",
    "redundant": "several sources are right alone",
    "dominant": "one source is right alone, and so are all together",
    "interference": "a source is right alone, all together are wrong",
    "unsolved": "no source alone and not all together",
}


def page(
    summary: Fields,
    figures: Figures,
    numbered: Sequence[tuple[int, Fields]],
    viewed: ViewedRows,
    pictures: Pictures,
    scored: Sequence[ScoredLine],
    most_rows: int,
) -> str:
    """The report.

    Args:
        summary: as ``summary.json`` holds it.
        figures: of the probe.
        numbered: position and row of each row.
        viewed: renders the rows' views.
        pictures: loads images.
        scored: the answers.
        most_rows: rows in the table, interference first.
    """
    rows = _rows(numbered, viewed, pictures, scored, most_rows, list(figures.accuracy))
    return render(
        "probe.html",
        title=f"Probe of {summary['model']} on {', '.join(file['file'] for file in summary['data'])}",
        summary=summary,
        missing=sum(summary["missing"].values()),
        charts=_charts(figures),
        shares=_shares(figures),
        tests=_tests(figures),
        compared=_compared(summary.get("compared")),
        needed=summary.get("rows_needed"),
        rows=rows,
        not_shown=len(numbered) - len(rows),
        classes=[name for name in _ORDER if any(row["class"] == name for row in rows)],
        views=list(summary["asked"]),
        colors=_COLORS,
        details=json.dumps({k: summary[k] for k in ("data", "sampling", "reward", "versions", "prompts")}, indent=2),
        **script_of("probe.js"),
    )


# ---------------------------------------------------------------- figures


def _charts(figures: Figures) -> list[FieldDict]:
    charts = []
    shown = [(view, e) for view, e in figures.accuracy.items()]
    accuracy = [Bar(_label(view), e, _color(view, figures), _with_interval(e)) for view, e in shown]
    if accuracy:
        svg = bars("Accuracy of each view", accuracy, low=0.0, high=1.0)
        charts.append({"title": "Accuracy of each view", "note": "95% intervals over scenes", "svg": Markup(svg)})
    names = {"mean": "the mean of its sources", "best": "the best source"}
    gains = [(names.get(name, _label(name)), e, name) for name, e in figures.gains.items()]
    if gains:
        low, high = ends([e for _, e, _ in gains])
        rows = [Bar(f"over {label}", e, _sign(e), _gain(e)) for label, e, _ in gains]
        svg = bars("Gain of all sources", rows, low=low, high=high, percent=False)
        note = "fused minus another view, in points, paired by row; pale where the interval holds 0"
        charts.append({"title": "Gain of seeing all sources", "note": note, "svg": Markup(svg)})
    parts = [Bar(f"without {name}", e, _sign(e), _gain(e)) for name, e in figures.leave_one_out.items()]
    parts += [Bar(f"Shapley value of {name}", e, _sign(e), _gain(e)) for name, e in figures.shapley.items()]
    parts += [Bar(f"own prompt, {name}", e, _sign(e), _gain(e)) for name, e in figures.own_prompt.items()]
    if parts:
        low, high = ends([bar.estimate for bar in parts])
        svg = bars("Contribution of each source", parts, low=low, high=high, percent=False)
        note = (
            "without: what is lost when it is left out; Shapley: its share of the gain over no image; own prompt: "
            "the source alone as asked, minus the repeated fused prompt"
        )
        charts.append({"title": "What each source contributes", "note": note, "svg": Markup(svg)})
    return charts


def _label(view: str) -> str:
    fixed = {"fused": "all sources", "blind": "no image", "shuffled": "images of another row"}
    if view in fixed:
        return fixed[view]
    for prefix, words in (("without_", "without "), ("repeat_", "repeated ")):
        if view.startswith(prefix):
            return words + view.removeprefix(prefix)
    return view


def _color(view: str, figures: Figures) -> str:
    if view == "fused":
        return _FUSED
    return _SOURCE if view in figures.sources else _CONTROL


def _sign(estimate: Estimate) -> str:
    return {1: "#2f7d6d", -1: "#c8433b", 0: "#c9ced6"}[estimate.shown]


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)}  ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def _gain(estimate: Estimate) -> str:
    if estimate.low is None:
        return points(estimate.value)
    return f"{points(estimate.value)}  ({interval(estimate)})"


def _shares(figures: Figures) -> list[FieldDict]:
    """Classes in the order of the bar, ``dominant`` with its sources."""
    shares = []
    for name in _ORDER[:-1]:
        estimate = figures.shares.get(name)
        if estimate is None:
            continue
        by_source = {k.split(":", 1)[1]: e for k, e in figures.shares.items() if k.startswith(f"{name}:")}
        shares.append(
            {
                "name": name,
                "width": f"{100 * estimate.value:.2f}",
                "text": _with_interval(estimate),
                "meaning": _MEANING[name],
                "by_source": ", ".join(f"{source} {percent(e.value)}" for source, e in by_source.items()),
            }
        )
    return shares


def _tests(figures: Figures) -> list[dict[str, str]]:
    return [
        {
            "source": source,
            "only_fused": f"{test['only_fused']:.0f}",
            "only_source": f"{test['only_source']:.0f}",
            "p": _p(test["p"]),
            "p_holm": _p(test["p_holm"]),
        }
        for source, test in figures.mcnemar.items()
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _compared(compared: Fields | None) -> FieldDict | None:
    if compared is None:
        return None
    rows = []
    for view, entry in compared["differences"].items():
        estimate = Estimate(**{key: value for key, value in entry.items() if key != "p_holm"})
        label = "information gain" if view == "information_gain" else _label(view)
        rows.append({"view": label, "text": _gain(estimate), "p": _p(entry["p_holm"]), "rows": estimate.rows})
    return {"with": compared["with"], "rows": rows}


# ---------------------------------------------------------------- rows


def _rows(
    numbered: Sequence[tuple[int, Fields]],
    viewed: ViewedRows,
    pictures: Pictures,
    scored: Sequence[ScoredLine],
    most: int,
    views: Sequence[str],
) -> list[FieldDict]:
    """The rows of the table, interference first, with thumbnails and clipped texts."""
    classes = {row.number: (row.share_class or "incomplete") for row in gather(scored)}
    lines: dict[int, dict[str, list[ScoredLine]]] = {}
    for each in scored:
        lines.setdefault(each.line.row, {}).setdefault(each.line.view, []).append(each)
    places = {number: place for place, (number, _) in enumerate(numbered)}
    ordered = sorted(lines, key=lambda number: (_ORDER.index(classes[number].split(":")[0]), number))[:most]
    images = sum(len(numbered[places[number]][1]["images"]) for number in ordered)
    each_picture = PICTURE_BYTES / max(1, images)
    answers = sum(len(lines[number]) for number in ordered)
    clip = min(ANSWER_CHARACTERS, max(80, TEXT_CHARACTERS // max(1, answers)))
    rows = []
    for rank, number in enumerate(ordered):
        row = numbered[places[number]][1]
        name, _, dominant = classes[number].partition(":")
        rows.append(
            {
                "number": number,
                "rank": rank,
                "id": row["extra_info"].get("sample_id") or number,
                "class": name,
                "badge": f"{name}: {dominant}" if dominant else name,
                "question": _clipped(_question(row), QUESTION_CHARACTERS),
                "truth": _clipped(row["reward_model"]["ground_truth"], 300),
                "pictures": _pictures(row, pictures, each_picture),
                "answers": [_answer(view, lines[number][view], clip) for view in views if view in lines[number]],
            }
        )
    return rows


def _question(row: Fields) -> str:
    question = row["extra_info"].get("question")
    return question or " ".join(m["content"].replace("<image>", " ") for m in row["prompt"] if m["role"] == "user")


def _answer(view: str, found: Sequence[ScoredLine], clip: int) -> FieldDict:
    accuracy = sum(each.accuracy for each in found) / len(found)
    mark = "right" if accuracy >= 0.5 else "wrong"
    figure = "" if accuracy in (0.0, 1.0) else f"{accuracy:.2f}"
    return {
        "view": view,
        "label": _label(view),
        "mark": mark,
        "figure": figure,
        "text": _clipped(found[0].line.answer.text, clip),
        "error": found[0].error,
    }


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} \u2026 ({len(text) - length:,} more characters)"


def _pictures(row: Fields, pictures: Pictures, each: float) -> list[FieldDict]:
    """The row's images with their sources' names, none larger than ``each`` bytes: rather no picture."""
    of_image = {index: source["name"] for source in row["sources"] for index in source["images"]}
    shown = []
    for index, image in enumerate(row["images"]):
        part: Message = {"image": image} if isinstance(image, str) else image
        decoded = pictures.load(part).small(_LARGEST)
        made = (picture(decoded, side, jpeg_from) for side, jpeg_from in _SIZES)
        small: Picture | None = next((p for p in made if len(p.url) <= each), None)
        shown.append({"picture": small, "source": of_image.get(index, "")})
    return shown
