"""``verl-mars data``: list, convert, validate, show, stats; and ``python -m verl_mars.data_prep.NAME``.

Exit codes: 0 all is well; 1 faulty or unreadable data, or too many rejected samples; 2 a wrong argument.
"""

import functools
import importlib
import json
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verl_mars.data.terminal import bar, console, print_conversion, print_stats, print_validation
from verl_mars.errors import FAILED, errors_printed

if TYPE_CHECKING:
    from verl_mars.data.sample import Converter

app = typer.Typer(no_args_is_help=True, add_completion=False, help="From raw data sets to Parquet that verl trains on.")


# Converters


def converter_names() -> list[str]:
    """The data sets that come with verl-mars."""
    package = importlib.import_module("verl_mars.data_prep")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find_converter(name: str) -> "Converter":
    """The converter of a data set, or ``package.module:NAME`` of one's own.

    Raises:
        UsageError: there is none.
    """
    from verl_mars.data.sample import Converter
    from verl_mars.errors import UsageError

    module, _, attribute = name.partition(":")
    if not attribute:
        if name not in converter_names():
            raise UsageError(
                f"data set {name!r} is unknown, allowed: {', '.join(converter_names())}, or package.module:NAME"
            )
        module, attribute = f"verl_mars.data_prep.{name}", "CONVERTER"
    try:
        converter = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"no converter at {module}:{attribute}: {error}") from error
    if not isinstance(converter, Converter):
        raise UsageError(f"{module}:{attribute} is no verl_mars.data.sample.Converter")
    return converter


def run_converter(converter: "Converter") -> None:
    """Convert one data set: ``python -m verl_mars.data_prep.NAME --root ... --out ...``."""

    @functools.wraps(convert)
    def command(**arguments: Any) -> None:
        _convert(converter, **arguments)

    signature = _signature_without(convert, "data_set")
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
    command.__doc__ = f"Convert {converter.title}.\n\n\b\nExpected under --root:\n{converter.layout}"
    single = typer.Typer(add_completion=False)
    single.command()(command)
    with errors_printed():
        single()


def _signature_without(function: Callable[..., Any], name: str) -> Any:
    import inspect

    signature = inspect.signature(function)
    return signature.replace(parameters=[item for item in signature.parameters.values() if item.name != name])


# Commands


@app.command("list")
def list_data_sets(
    data_set: Annotated[str | None, typer.Argument(help="Tell all about this one.")] = None,
) -> None:
    """The data sets that can be converted; with a name: its layout, options, licence, known shortcuts and leaks."""
    from rich.table import Table

    to = console()
    if data_set is None:
        table = Table("data set", "", "licence", box=None, header_style="bold")
        for name in converter_names():
            converter = find_converter(name)
            table.add_row(name, converter.title, converter.licence)
        to.print(table)
        to.print("\n`verl-mars data list DATASET` shows the layout that one expects.", style="dim")
        return
    converter = find_converter(data_set)
    to.print(f"[bold]{converter.name}[/bold]  {converter.title}")
    to.print(f"licence  {converter.licence}\nsource   {converter.url}\n", highlight=False)
    to.print("[bold]Expected under --root[/bold]")
    to.print(converter.layout, markup=False, highlight=False)
    options = list(converter.describe_options())
    if options:
        to.print("\n[bold]Options[/bold] (--set NAME=VALUE)")
        table = Table("name", "default", "", box=None, header_style="dim")
        for name, default, text in options:
            table.add_row(name, default or "-", text)
        to.print(table)
    if converter.caveats:
        to.print("\n[bold]Known shortcuts and leaks[/bold]")
        for text in converter.caveats:
            to.print(f"- {text}", markup=False, highlight=False)


@app.command()
def convert(
    data_set: Annotated[str, typer.Argument(help="As in `verl-mars data list`, or package.module:NAME of your own.")],
    root: Annotated[Path, typer.Option(help="Folder of the raw data.")],
    out: Annotated[Path, typer.Option(help="Folder for the result; the same command again goes on where it ended.")],
    images: Annotated[str, typer.Option(help="`path`: rows name the files; `embed`: rows hold them.")] = "path",
    style: Annotated[str | None, typer.Option(help="Prompts: `labelled`, `plain` or `official`.")] = None,
    mono: Annotated[str, typer.Option(help="One source alone: `own` prompts, or `repeat` the fused text.")] = "own",
    depth_encoding: Annotated[str, typer.Option(help="16-bit depth as `turbo`, `gray` or `spatialbot`.")] = "turbo",
    split: Annotated[list[str] | None, typer.Option(help="Only these splits. May be repeated.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of groups for `val` where there is no split.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the split by groups.")] = 0,
    shard_rows: Annotated[int, typer.Option(help="Rows of one file.")] = 100_000,
    shard_megabytes: Annotated[int, typer.Option(help="Image bytes of one file, with --images embed.")] = 512,
    max_reject: Annotated[float, typer.Option(help="Largest share of samples that may be rejected.")] = 0.01,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image in full, not only its header.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; by default what the data set needs.")] = None,
    model: Annotated[str, typer.Option(help="Prompt lengths for `qwen2_5_vl` or `qwen3_vl`.")] = "qwen2_5_vl",
    tokenizer: Annotated[str | None, typer.Option(help="A checkpoint, to count text exactly.")] = None,
    max_prompt_length: Annotated[int | None, typer.Option(help="Reject longer prompts.")] = None,
    min_pixels: Annotated[int | None, typer.Option(help="Least area of an image after scaling.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest area of an image after scaling.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many samples.")] = None,
    allow_root: Annotated[list[Path] | None, typer.Option(help="Folders outside --root that files may be in.")] = None,
    set_option: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the data set's own.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a conversion with other settings.")] = False,
) -> None:
    """Convert a raw data set to shards of rows, a manifest and a list of rejects."""
    arguments = dict(locals())
    converter = find_converter(arguments.pop("data_set"))
    _convert(converter, **arguments)


def _convert(converter: "Converter", **arguments: Any) -> None:
    from verl_mars.data.convert import TooManyRejects
    from verl_mars.data.convert import convert as run
    from verl_mars.data.settings import settings_from

    values = {key: value for key, value in arguments.items() if value is not None}
    values["style"] = values.get("style", converter.default_style)
    values["splits"] = tuple(values.pop("split", ()))
    values["allow_roots"] = tuple(values.pop("allow_root", ()))
    values["options"] = _options(values.pop("set_option", []))
    values["workers"] = _workers(converter, values.get("workers"), values["decode"])
    settings = settings_from(values)
    with bar(converter.name) as advance:
        try:
            result = run(converter, settings, advance)
        except TooManyRejects as error:
            print_conversion(error.result, failed=True)
            raise
    print_conversion(result)


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


# Arguments


def _options(given: list[str]) -> dict[str, str]:
    from verl_mars.errors import UsageError

    for item in given:
        if "=" not in item:
            raise UsageError(f"--set {item!r}, but NAME=VALUE is needed")
    return {name.strip(): value for name, value in (item.split("=", 1) for item in given)}


def _workers(converter: "Converter", given: int | None, decode: bool) -> int:
    """As asked; else one for each core where pixels are decoded or drawn, and none where headers are read only.

    Headers come in too fast from a local disk for others to help: benchmarks/data.py has the figures.
    """
    if given is not None:
        return given
    return min(8, os.cpu_count() or 1) if decode or converter.draws else 0
