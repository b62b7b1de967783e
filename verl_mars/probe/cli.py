"""``verl-mars probe``: does seeing more mean knowing more, for any model and any data.

Exit codes: 0 done; 1 the probe could not be made or finished; 2 a wrong argument; 3 ``--fail-below`` was not met.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from verl_mars.probe.figures import Figures
    from verl_mars.probe.options import Options
    from verl_mars.probe.run import Outcome


def probe(
    data: Annotated[list[Path], typer.Argument(help="Parquet files of rows with sources.")],
    model: Annotated[str, typer.Option(help="A model folder or hub name; with --server its name there.")],
    server: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server; its key in OPENAI_API_KEY. Else transformers.")
    ] = None,
    views: Annotated[
        str, typer.Option(help="Of fused, mono, blind, leave_one_out, shuffled, repeat, subsets.")
    ] = "fused,mono,blind",
    out: Annotated[Path, typer.Option(help="Folder for answers and report; the same command again goes on.")] = Path(
        "outputs/probe"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows, drawn with --seed.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each question.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Scale larger images down to this area.")] = None,
    mono_prompt: Annotated[
        str, typer.Option(help="`repeat` or `drop`: the fused text with one source, as in training.")
    ] = "repeat",
    coordinates: Annotated[
        str | None, typer.Option(help="Frame of the boxes of answers: pixel, qwen2_5_vl, qwen3_vl.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A reward setting, as answer_tags=optional.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a reply of the server.")] = 300.0,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at a time, without --server.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, without --server.")] = None,
    compare: Annotated[Path | None, typer.Option(help="The folder of another probe of the same data.")] = None,
    power: Annotated[float | None, typer.Option(help="Also say how many rows show this gain, as 0.03.")] = None,
    fail_below: Annotated[
        tuple[str, float] | None,
        typer.Option(help="VIEW GAIN: exit with 3 unless the gain over VIEW is shown to reach GAIN, as blind 0.02."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, --limit, shuffled images and intervals.")] = 0,
    report_rows: Annotated[int, typer.Option(min=0, help="Rows in the table of the report.")] = 500,
) -> None:
    """What each source gives a model, what fusing gains or costs, and whether the model looks at its images at all."""
    from verl_mars.data.view_rows import parse_kinds, read_mono_prompt
    from verl_mars.probe.options import Options
    from verl_mars.probe.questions import Sampling
    from verl_mars.probe.run import EngineMaker
    from verl_mars.probe.run import probe as run
    from verl_mars.probe.verdict import check
    from verl_mars.reward.cli import read_settings

    options = Options(
        data=tuple(data),
        out=out,
        model=model,
        server=server,
        kinds=parse_kinds(views),
        sampling=Sampling(temperature, max_tokens, samples, seed),
        limit=limit,
        max_pixels=max_pixels,
        mono_prompt=read_mono_prompt(mono_prompt),
        concurrency=concurrency,
        timeout=timeout,
        batch=batch,
        device=device,
        reward=read_settings("mars", coordinates, None, setting or []),
        compare=compare,
        power=power,
        condition=fail_below,
        report_rows=report_rows,
    )
    outcome = run(options, EngineMaker(options))
    _print(options, outcome)
    if outcome.stopped is not None:
        raise outcome.stopped
    if fail_below is not None:
        check(outcome.figures, *fail_below)


def _print(options: "Options", outcome: "Outcome") -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(outcome.summary["verdict"], style="bold")
    for title, table in _tables(outcome.figures):
        console.print(f"\n{title}")
        console.print(table)
    missing = sum(outcome.missing.values())
    if missing:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in outcome.summary["missing_because"].items())
        console.print(f"\n{missing} answers are missing and count as nothing: {reasons}", style="yellow")
    for kind, count in outcome.summary["left_out"].items():
        console.print(f"{count} rows cannot have the view {kind}", style="yellow")
    for name, count in outcome.figures.needed.items():
        console.print(f"{count} rows show a gain of {options.power} over {name} (power 80%, level 5%)")
    console.print(f"\nreport: {options.out / 'report.html'}")


def _tables(figures: "Figures") -> "Iterator[tuple[str, Table]]":
    from rich.table import Table

    from verl_mars.probe.verdict import interval, percent, points

    table = Table("view", "accuracy", "95% interval", "rows", box=None)
    for view, estimate in figures.accuracy.items():
        ends = "-" if estimate.low is None else f"{percent(estimate.low)} to {percent(estimate.high or 0.0)}"
        table.add_row(view, percent(estimate.value), ends, str(estimate.rows))
    yield "accuracy", table
    table = Table("over", "points", "95% interval", "p", "rows", box=None)
    for name, estimate in figures.gains.items():
        p = "-" if estimate.p is None else f"{estimate.p:.3f}"
        table.add_row(name, points(estimate.value), interval(estimate), p, str(estimate.rows))
    yield "gain of seeing all sources", table
    if figures.shares:
        table = Table("class", "share", "rows", box=None)
        for name, estimate in figures.shares.items():
            table.add_row(name, percent(estimate.value), str(round(estimate.value * estimate.rows)))
        yield "rows", table
