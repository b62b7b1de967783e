"""``verl-mars score PREDICTIONS``: offline scoring with the same code that rewards in training."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verl_mars.errors import UsageError
from verl_mars.fields import FieldDict

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from verl_mars.reward.authors_metric import AuthorsMetric
    from verl_mars.reward.predictions import Defaults, Prediction
    from verl_mars.reward.settings import RewardSettings

_MAX_GROUPS = 50


def score(
    predictions: Annotated[Path, typer.Argument(help="Responses with ground truths: JSONL, JSON, parquet or CSV.")],
    task: Annotated[str | None, typer.Option(help="Task, where lines do not say; see `docs/rewards.md`.")] = None,
    response_key: Annotated[str | None, typer.Option(help="Key of the response; else the usual ones.")] = None,
    truth_key: Annotated[str | None, typer.Option(help="Key of the ground truth; else the usual ones.")] = None,
    rows: Annotated[Path | None, typer.Option(help="The rows that were asked, in order: .parquet or .json.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Key to group by; may be repeated. Else source and data_source.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder: take the frame of the boxes from it.")] = None,
    coordinates: Annotated[str | None, typer.Option(help="Frame of the boxes: pixel or a model family.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of every image, as 1280x1024, where lines do not say.")] = None,
    label: Annotated[str, typer.Option(help="Label of true boxes that come without one; *: any.")] = "*",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A reward setting, as think_in_prompt=true.")
    ] = None,
    variant: Annotated[str, typer.Option(help="mars, or authors: the published reward formulas.")] = "mars",
    authors_metric: Annotated[bool, typer.Option("--authors-metric", help="Add the authors' evaluation.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95% intervals; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the score of every line here (JSONL).")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write the tables here (JSON).")] = None,
) -> None:
    """Score predictions that were made elsewhere, with the rewards of training, and say how sure the figures are."""
    from rich.console import Console

    from verl_mars.reward.predictions import Defaults

    console = Console(soft_wrap=False)
    report = run(
        predictions,
        read_settings(variant, coordinates, model, setting or []),
        defaults=Defaults(task, label, _size(size), response_key, truth_key),
        rows=rows,
        by=tuple(by) if by else ("source", "data_source"),
        with_authors_metric=authors_metric,
        resamples=bootstrap,
        seed=seed,
        out=out,
    )
    if summary is not None:
        summary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for title, table in _tables(report):
        console.print(f"\n[bold]{_escape(title)}[/bold]", highlight=False, soft_wrap=True)
        console.print(table)
    if out is not None:
        console.print(f"scores of {report['rows']} lines: {out}")


def run(
    path: Path,
    settings: "RewardSettings",
    *,
    defaults: "Defaults | None" = None,
    rows: Path | None = None,
    by: Sequence[str] = ("source", "data_source"),
    with_authors_metric: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    out: Path | None = None,
) -> FieldDict:
    """Score a file; the report is what ``--summary`` writes: tables for each task, overall and by each key.

    Raises:
        ValueError: a line that cannot be read or a ground truth at fault, naming file and line.
    """
    from verl_mars.reward.evaluate import grouped, metrics_of
    from verl_mars.reward.predictions import Defaults, read_predictions
    from verl_mars.reward.score import score_response

    lines = read_predictions(path, defaults or Defaults(), rows)
    results = [
        score_response(
            line.fields.get("data_source") or path.name, line.response, line.ground_truth, line.extra_info, settings
        )
        for line in lines
    ]
    report: FieldDict = {"file": str(path), "rows": len(lines), "settings": settings.model_dump(), "tasks": {}}
    for name in sorted({str(line.extra_info["task"]) for line in lines}):
        mine = [index for index, line in enumerate(lines) if line.extra_info["task"] == name]
        scored = [results[index] for index in mine]
        numbers = [lines[index].line for index in mine]
        part: FieldDict = {"all": metrics_of(name, scored, "all", resamples, seed, numbers).as_dict(), "by": {}}
        for key in by:
            groups = [lines[index].fields.get(key) for index in mine]
            names = {str(group) for group in groups if group is not None}
            if not 1 < len(names) <= _MAX_GROUPS and not (names and None in groups):
                continue
            tables = grouped(name, scored, ["-" if g is None else str(g) for g in groups], resamples, seed, numbers)
            part["by"][key] = [table.as_dict() for table in tables]
        part["errors"] = _counted(result["error"] for result in scored if result["error"])
        if with_authors_metric and name != "math":
            part["authors_metric"] = _authors(name, [lines[index] for index in mine])
        report["tasks"][name] = part
    if out is not None:
        _write_scores(out, lines, results)
    return report


def read_settings(variant: str, coordinates: str | None, model: str | None, changes: list[str]) -> "RewardSettings":
    from verl_mars.reward.settings import RewardSettings

    section: FieldDict = {"variant": variant}
    if model is not None:
        from verl_mars.vision.checkpoint import read_family, read_limits
        from verl_mars.vision.families import needs_limits

        section["coordinates"] = read_family(model)
        if needs_limits(section["coordinates"]):
            section["image_processor"] = read_limits(model).model_dump()
    if coordinates is not None:
        section["coordinates"] = coordinates
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change!r}: KEY=VALUE is needed, as think_in_prompt=true")
        try:
            section[key.strip()] = json.loads(value)
        except ValueError:
            section[key.strip()] = value
    return RewardSettings.read(section, "--set")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(f"--size {text!r}: WIDTHxHEIGHT in pixels is needed, as 1280x1024")
    return int(width), int(height)


def _authors(task: str, lines: "Sequence[Prediction]") -> FieldDict:
    """Their metric of the lines of one task, and how many rows it leaves out."""
    from verl_mars.reward.authors_metric import grounding_metric, words_metric
    from verl_mars.tasks import task_named

    kind = task_named(task)
    rows = [(line.response, kind.read(line.ground_truth)) for line in lines]
    metric: AuthorsMetric
    if task == "grounding":
        metric = grounding_metric((response, truth.boxes) for response, truth in rows)
    else:
        metric = words_metric((response, kind.published(truth)) for response, truth in rows)
    return {
        "accuracy": metric.accuracy,
        "accuracy_of_all_rows": metric.accuracy_of_all,
        "mIoU": metric.miou,
        "rows_counted": metric.counted,
        "rows_left_out": metric.rows - metric.counted,
        "rows_that_crash_their_script": metric.crashed,
    }


def _counted(errors: Iterator[str]) -> dict[str, int]:
    """The ten most frequent errors; figures in them are made alike first."""
    import re
    from collections import Counter

    return dict(Counter(re.sub(r"\d+", "N", error) for error in errors).most_common(10))


def _write_scores(path: Path, lines: "Sequence[Prediction]", results: Sequence[FieldDict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line, result in zip(lines, results, strict=True):
            file.write(json.dumps({"line": line.line, **result}, allow_nan=False) + "\n")


# ---------------------------------------------------------------- tables


def _tables(report: FieldDict) -> "Iterator[tuple[str, RichTable]]":
    """Title and table, in the order they are shown."""
    from rich.table import Table as RichTable

    for task, part in report["tasks"].items():
        tables = [("all", [part["all"]]), *part["by"].items()]
        names = list(part["all"]["metrics"])
        for key, groups in tables:
            title = f"{task}: {part['all']['rows']} rows" if key == "all" else f"{task} by {key}"
            table = RichTable()
            table.add_column("" if key == "all" else key)
            if key == "all":
                table.add_column("value", justify="right")
                table.add_column("95% interval", justify="right")
                for name in names:
                    table.add_row(name, *_cells(groups[0]["metrics"][name]))
            else:
                table.add_column("rows", justify="right")
                for name in names:
                    table.add_column(name, justify="right")
                for group in groups:
                    cells = ["\n".join(_cells(group["metrics"][n])) if n in group["metrics"] else "-" for n in names]
                    table.add_row(_escape(group["name"]), str(group["rows"]), *cells)
            yield title, table
        if part["errors"]:
            table = RichTable()
            table.add_column("reason")
            table.add_column("rows", justify="right")
            for error, count in part["errors"].items():
                table.add_row(_escape(error), str(count))
            yield f"{task}: answers that could not be scored", table
        if "authors_metric" in part:
            yield f"{task}: the authors' metric beside this one", _authors_table(part)


def _authors_table(part: FieldDict) -> "RichTable":
    """Their figures beside the right ones."""
    from rich.table import Table as RichTable

    theirs, ours = part["authors_metric"], part["all"]["metrics"]
    table = RichTable()
    for column in ("", "authors", "authors, every row counted", "this"):
        table.add_column(column, justify="left" if not column else "right")
    right = ours.get("accuracy@0.5", ours["acc"])["value"]
    table.add_row("accuracy", _percent(theirs["accuracy"]), _percent(theirs["accuracy_of_all_rows"]), _percent(right))
    if "mIoU" in ours:
        counted = theirs["rows_counted"] / max(1, theirs["rows_counted"] + theirs["rows_left_out"])
        of_all = None if theirs["mIoU"] is None else theirs["mIoU"] * counted
        table.add_row("mIoU", _number(theirs["mIoU"]), _number(of_all), _number(ours["mIoU"]["value"]))
        table.add_row("F1 over all boxes", "-", "-", _number(ours["F1"]["value"]) if "F1" in ours else "-")
    rows = part["all"]["rows"]
    table.add_row("rows counted", str(theirs["rows_counted"]), str(rows), str(rows))
    if theirs["rows_that_crash_their_script"]:
        table.add_row("rows that crash it", str(theirs["rows_that_crash_their_script"]), "-", "-")
    return table


def _cells(estimate: "FieldDict") -> tuple[str, str]:
    interval = "-" if estimate["low"] is None else f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"
    return _number(estimate["value"]), interval


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
