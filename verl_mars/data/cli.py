"""``verl-mars data validate``, ``stats``, ``views``; ``list``, ``convert``, ``show`` stand in :mod:`verl_mars.cli`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from verl_mars.data.terminal import console, counted, print_stats, print_validation
from verl_mars.errors import FAILED

app = typer.Typer(no_args_is_help=True, add_completion=False, help="From raw data sets to Parquet that verl trains on.")


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(help="Files, as in data.train_files.")],
    processor: Annotated[str | None, typer.Option(help="The checkpoint to train; counts its tokens exactly.")] = None,
    model: Annotated[str, typer.Option(help="Without --processor: `qwen2_5_vl` or `qwen3_vl`.")] = "qwen2_5_vl",
    sample: Annotated[int, typer.Option(min=1, help="Rows that go through the processor in full.")] = 16,
    all_rows: Annotated[
        bool, typer.Option("--all", help="All rows go through the processor (about 1 s each).")
    ] = False,
    limit_images: Annotated[int | None, typer.Option(help="As actor_rollout_ref.rollout.limit_images.")] = None,
    max_prompt_length: Annotated[int | None, typer.Option(help="As data.max_prompt_length.")] = None,
    sources: Annotated[bool, typer.Option(help="Rows need `sources`.")] = True,
    truth: Annotated[bool, typer.Option(help="Check tasks and ground truths.")] = True,
    max_faults: Annotated[int, typer.Option(help="Faults to spell out; all are counted.")] = 20,
) -> None:
    """Check files by rules, with verl's own RLHFDataset and with a real processor: what passes loads."""
    from verl_mars.data.validate import validate as run

    report = run(
        files,
        processor=processor,
        model=model,
        sample=None if all_rows else sample,
        max_images=limit_images,
        max_prompt_length=max_prompt_length,
        need_sources=sources,
        check_truth=truth,
        max_faults=max_faults,
        progress=console().is_terminal,
    )
    print_validation(report)
    if not report.ok:
        raise typer.Exit(FAILED)


@app.command()
def stats(
    files: Annotated[list[str], typer.Argument(help="Files, as in data.train_files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is in files: rows, tasks, sources, image sizes, boxes, answers, prompt lengths."""
    from verl_mars.data.stats import collect

    found = collect(files)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))  # noqa: T201
        return
    print_stats(found)


@app.command()
def views(
    files: Annotated[list[str], typer.Argument(help="Parquet files of rows with sources.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    kinds: Annotated[
        str, typer.Option("--views", help="Of fused, mono, blind, leave_one_out, shuffled, repeat, subsets.")
    ] = "fused,mono,blind",
    mono_prompt: Annotated[
        str, typer.Option(help="`repeat` or `drop`: the fused text with one source, as in training.")
    ] = "repeat",
    seed: Annotated[int, typer.Option(help="Of the rows whose images a shuffled view shows.")] = 0,
) -> None:
    """Each view of each row as an ordinary row: any run or harness then reports them as data sets of their own."""
    from verl_mars.data.view_rows import parse_kinds, read_mono_prompt, write_views

    to = console()
    written, left_out = write_views(
        files, out, parse_kinds(kinds), mono_prompt=read_mono_prompt(mono_prompt), seed=seed
    )
    for view, count in written.items():
        to.print(f"{view}  {counted(count, 'row')}", highlight=False, markup=False)
    for kind, count in left_out.items():
        to.print(f"{counted(count, 'row')} cannot have the view {kind}", style="yellow", highlight=False)
    to.print(f"{out}: {counted(sum(written.values()), 'row')}", highlight=False, markup=False)
