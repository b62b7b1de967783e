"""``verl-mars data``: list, convert, validate, show, stats; and ``python -m verl_mars.data_prep.NAME``.

Commands print sentences, not stack traces. Exit codes: 0 all is well; 1 the data have faults, or too many samples were
rejected; 2 a wrong argument, or nothing could be read.
"""

import functools
import importlib
import json
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from verl_mars.data.check import CheckReport
    from verl_mars.data.convert import ConvertResult
    from verl_mars.data.sample import Converter

app = typer.Typer(no_args_is_help=True, add_completion=False, help="From raw data sets to Parquet that verl trains on.")

_FAULTY, _USAGE = 1, 2
_SHOWN_ANSWERS = 8


# Converters


def converter_names() -> list[str]:
    """The data sets that come with verl-mars."""
    package = importlib.import_module("verl_mars.data_prep")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find_converter(name: str) -> "Converter":
    """The converter of a data set, or ``package.module:NAME`` of one's own.

    Raises:
        DataError: there is none.
    """
    from verl_mars.data.faults import DataError
    from verl_mars.data.sample import Converter

    module, _, attribute = name.partition(":")
    if not attribute:
        if name not in converter_names():
            raise DataError(
                f"data set {name!r} is unknown, allowed: {', '.join(converter_names())}, or package.module:NAME"
            )
        module, attribute = f"verl_mars.data_prep.{name}", "CONVERTER"
    try:
        converter = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DataError(f"no converter at {module}:{attribute}: {error}") from error
    if not isinstance(converter, Converter):
        raise DataError(f"{module}:{attribute} is no verl_mars.data.sample.Converter")
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

    console = _console()
    with _sentences():
        if data_set is None:
            table = Table("data set", "", "licence", box=None, header_style="bold")
            for name in converter_names():
                converter = find_converter(name)
                table.add_row(name, converter.title, converter.licence)
            console.print(table)
            console.print("\n`verl-mars data list DATASET` shows the layout that one expects.", style="dim")
            return
        converter = find_converter(data_set)
        console.print(f"[bold]{converter.name}[/bold]  {converter.title}")
        console.print(f"licence  {converter.licence}\nsource   {converter.url}\n", highlight=False)
        console.print("[bold]Expected under --root[/bold]")
        console.print(converter.layout, markup=False, highlight=False)
        options = list(converter.describe_options())
        if options:
            console.print("\n[bold]Options[/bold] (--set NAME=VALUE)")
            table = Table("name", "default", "", box=None, header_style="dim")
            for name, default, text in options:
                table.add_row(name, default or "-", text)
            console.print(table)
        if converter.caveats:
            console.print("\n[bold]Known shortcuts and leaks[/bold]")
            for text in converter.caveats:
                console.print(f"- {text}", markup=False, highlight=False)


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
    with _sentences():
        converter = find_converter(arguments.pop("data_set"))
    _convert(converter, **arguments)


def _convert(converter: "Converter", **arguments: Any) -> None:
    from verl_mars.data.convert import TooManyRejects
    from verl_mars.data.convert import convert as run
    from verl_mars.data.settings import settings_from

    console = _console()
    with _sentences():
        values = {key: value for key, value in arguments.items() if value is not None}
        values["style"] = values.get("style", converter.default_style)
        values["splits"] = tuple(values.pop("split", ()))
        values["allow_roots"] = tuple(values.pop("allow_root", ()))
        values["options"] = _options(values.pop("set_option", []))
        values["workers"] = _workers(converter, values.get("workers"), values["decode"])
        settings = settings_from(values)
        with _bar(converter.name) as advance:
            try:
                result = run(converter, settings, advance)
            except TooManyRejects as error:
                _print_result(console, error.result)
                raise
    _print_result(console, result)
    console.print("\n[bold]Paste into a recipe's command line[/bold]")
    for line in result.manifest["recipe"]:
        print(f"  {line} \\")  # noqa: T201  # rich would wrap it


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

    console = _console()
    with _sentences():
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
            progress=console.is_terminal,
        )
    _print_faults(report.check)
    bound = "" if report.exact else "at most "
    console.print(
        f"{report.check.rows} rows in {len(report.check.files)} files, {report.rows_loaded} read by verl, "
        f"{report.prompts_processed} prompts through the processor, "
        f"up to {report.check.images_per_row_max} images a row, "
        f"longest prompt {bound}{report.max_tokens} tokens",
        highlight=False,
    )
    if not report.ok:
        raise typer.Exit(_FAULTY)
    console.print("[green]no faults[/green]")


@app.command()
def show(
    files: Annotated[list[str], typer.Argument(help="Files, as in data.train_files.")],
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to draw, at equal distances.")] = 24,
    per_sheet: Annotated[int, typer.Option(min=1, max=12, help="Rows on one sheet.")] = 4,
) -> None:
    """Draw contact sheets: every source, boxes, question, ground truth, mono prompts."""
    from verl_mars.data.sheets import write_sheets

    with _sentences():
        sheets = write_sheets(files, out, rows=rows, per_sheet=per_sheet)
    for sheet in sheets:
        print(sheet)  # noqa: T201


@app.command()
def stats(
    files: Annotated[list[str], typer.Argument(help="Files, as in data.train_files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is in files: rows, tasks, sources, image sizes, boxes, answers, prompt lengths."""
    from rich.table import Table

    from verl_mars.data.stats import collect

    with _sentences():
        found = collect(files)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))  # noqa: T201
        return
    console = _console()
    table = Table("", "", box=None, show_header=False)
    table.add_row("files", f"{len(found.files)}, {found.bytes / 2**20:.1f} MB")
    table.add_row("rows", str(found.rows))
    for name in (
        "data_sources",
        "splits",
        "tasks",
        "sources_per_row",
        "images_per_row",
        "image_sizes",
        "boxes_per_row",
    ):
        table.add_row(name.replace("_", " "), _told(getattr(found, name)))
    for name, count in sorted(found.sources.items()):
        own = f", {found.own_prompts[name]} own prompts, {found.own_truths[name]} own ground truths"
        table.add_row(f"source {name}", f"{count} rows{own}")
    table.add_row("answers", _told(found.answers))
    for family, longest in found.max_tokens.items():
        bins = ", ".join(f"{low}-: {count}" for low, count in sorted(found.tokens[family].items()))
        table.add_row(f"tokens, {family}", f"at most {longest}  ({bins})")
    if found.unreadable:
        table.add_row("[red]of another form[/red]", f"{found.unreadable} rows; see `verl-mars data validate`")
    console.print(table)


# Output


def _told(counts: Any) -> str:
    shown = ", ".join(f"{key}: {count}" for key, count in counts.most_common(_SHOWN_ANSWERS))
    left = len(counts) - _SHOWN_ANSWERS
    return f"{shown}, {left} more" if left > 0 else shown or "-"


def _print_result(console: "Console", result: "ConvertResult") -> None:
    manifest = result.manifest
    for split, part in manifest["splits"].items():
        files = len(part["shards"])
        console.print(f"[bold]{split}[/bold]  {part['rows']} rows in {files} file{'s' * (files != 1)}", highlight=False)
    rejects = manifest["rejects"]
    reasons = "".join(f", {count} x {code}" for code, count in rejects["by_reason"].items())
    console.print(f"rejected  {rejects['total']} ({rejects['share']:.2%}){reasons}", highlight=False)
    for text, count in manifest["counts"].items():
        console.print(f"counted  {count} {text}", highlight=False, markup=False)
    for text in manifest["findings"]:
        console.print(f"[yellow]note[/yellow]  {text}", highlight=False)
    console.print(
        f"prompts  up to {manifest['max_prompt_tokens']} tokens, {manifest['prompt_tokens_are']}", highlight=False
    )
    console.print(f"licence  {manifest['licence']}", highlight=False)
    console.print(f"written  {result.out}", highlight=False)


def _print_faults(report: "CheckReport") -> None:
    text = report.text()
    if text:
        print(text)  # noqa: T201


def _options(given: list[str]) -> dict[str, str]:
    from verl_mars.data.faults import DataError

    for item in given:
        if "=" not in item:
            raise DataError(f"--set {item!r}, but NAME=VALUE is needed")
    return {name.strip(): value for name, value in (item.split("=", 1) for item in given)}


def _workers(converter: "Converter", given: int | None, decode: bool) -> int:
    """As asked; else one for each core where pixels are decoded or drawn, and one where headers are read only."""
    if given is not None:
        return given
    cores = os.cpu_count() or 1
    if decode or converter.draws:
        return min(8, cores)
    return 1 if cores > 1 else 0


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None] | None]:
    console = _console()
    if not console.is_terminal:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=name, unit="rows") as bar:

        def advance(rows: int, rejects: int) -> None:
            bar.update(rows - bar.n)
            if rejects:
                bar.set_postfix(rejected=rejects, refresh=False)

        yield advance


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the data as one sentence on stderr."""
    from verl_mars.data.convert import TooManyRejects
    from verl_mars.data.faults import DataError

    try:
        yield
    except TooManyRejects as error:
        _stop(str(error), _FAULTY)
    except DataError as error:
        _stop(str(error), _USAGE)
    except KeyboardInterrupt:
        _stop("interrupted; the same command again goes on where it ended", 130)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def _console() -> "Console":
    from rich.console import Console

    return Console(soft_wrap=True)
