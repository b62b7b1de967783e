"""``verl-mars``: demo, doctor, data, score, probe, show-tokens, show-rollouts."""

import os
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from verl_mars.data.cli import app as data_app
from verl_mars.data_prep import converter_names, find_converter
from verl_mars.errors import FAILED, UsageError, errors_printed
from verl_mars.probe.cli import probe
from verl_mars.reward.cli import score

if TYPE_CHECKING:
    from verl_mars.preflight.report import DoctorReport


class Commands(TyperGroup):
    """Every command below it prints a user's error in the same way."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        with errors_printed():
            return super().invoke(ctx)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, help="Multi-source visual RL for verl.")
app.add_typer(data_app, name="data")
app.command()(score)
app.command()(probe)


@app.command()
def doctor(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides of the recipe, as for verl.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Also check this recipe and its data.")] = None,
    data: Annotated[bool, typer.Option(help="Read every row and image header of the recipe's data.")] = True,
    ray: Annotated[bool, typer.Option(help="Ask inside a Ray worker too.")] = True,
    see: Annotated[
        bool, typer.Option("--see", help="Load the recipe's models and ask whether they see the images of 8 rows.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for a bug report.")] = False,
) -> None:
    """Is the plugin loaded, here and inside Ray, and can a recipe run? Exits with 1 and a line for each fault."""
    from verl_mars.preflight.report import examine

    if see and config_name is None:
        raise UsageError("--see asks the models of a recipe; name it with --config-name")
    warnings.simplefilter("ignore")  # of engines that are not installed, which verl tells at every import
    os.environ.setdefault("VERL_LOGGING_LEVEL", "ERROR")
    with Console(stderr=True).status("examining"), redirect_stdout(sys.stderr if as_json else sys.stdout):
        report = examine(config_name, overrides or [], data, ray, see)
    if as_json:
        typer.echo(report.to_json())
    else:
        _print_report(report)
    if report.faults:
        raise typer.Exit(FAILED)


def _print_report(report: "DoctorReport") -> None:
    """The report as a table, a line for each note and each fault."""
    console, here = Console(soft_wrap=True), report.here
    table = Table("", "", show_header=False, box=None)
    for package, version in here.versions.items():
        table.add_row(package, version)
    table.add_row("entry points", ", ".join(here.entry_points) or "-")
    table.add_row("VERL_USE_EXTERNAL_PLUGINS", here.policy)
    table.add_row("loaded by verl", "yes" if here.loaded else "no")
    for kind, names in here.registered.items():
        table.add_row(f"registered {kind}", ", ".join(names))
    console.print(table)
    for note in report.recipe.notes if report.recipe else ():
        console.print(f"[yellow]note[/yellow] {report.config_name}: {escape(note)}", highlight=False)
    for fault in report.faults:
        console.print(f"[red]fault[/red] {escape(fault)}", highlight=False)
    if not report.faults:
        console.print("[green]no faults[/green]")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("outputs/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 40,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    track: Annotated[str, typer.Option(help="`default`, `interference`, `broken_form` or `entrenched`.")] = "default",
    algorithm: Annotated[
        str, typer.Option(help="The toy recipe without `toy_` and `_grpo`: mars, grpo, mars_dapo, ...")
    ] = "mars",
) -> None:
    """A MARS training run on a CPU: the toy world, a warm start, training with verl, evaluation, pictures."""
    from verl_mars.toy.demo import demo as run

    run(out=out, steps=steps, seed=seed, track=track, algorithm=algorithm)


@data_app.command("list")
def list_data_sets(
    data_set: Annotated[str | None, typer.Argument(help="Describe this one.")] = None,
) -> None:
    """The data sets that can be converted; with a name: its layout, options, licence, known shortcuts and leaks."""
    to = Console(soft_wrap=True)
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


@data_app.command(context_settings={"allow_extra_args": True})
def convert(
    context: typer.Context,
    data_set: Annotated[str, typer.Argument(help="As in `verl-mars data list`, or package.module:NAME of your own.")],
    root: Annotated[Path, typer.Option(help="Folder of the raw data.")],
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
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
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; by default as many as help.")] = None,
    model: Annotated[str, typer.Option(help="Prompt lengths for `qwen2_5_vl` or `qwen3_vl`.")] = "qwen2_5_vl",
    tokenizer: Annotated[str | None, typer.Option(help="A checkpoint, to count text exactly.")] = None,
    max_prompt_length: Annotated[int | None, typer.Option(help="Reject longer prompts.")] = None,
    min_pixels: Annotated[int | None, typer.Option(help="Least area of an image after scaling.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest area of an image after scaling.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many samples.")] = None,
    allow_root: Annotated[list[Path] | None, typer.Option(help="Folders outside --root that files may be in.")] = None,
    set_option: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the data set's own.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a conversion with other settings.")] = False,
    sources: Annotated[
        list[str] | None, typer.Option(help="Which image is which source: rgb=0 ir=1, or rgb=*_rgb.jpg ir=*_ir.jpg.")
    ] = None,
    dry_run: Annotated[int | None, typer.Option(min=1, help="Show so many rows and write nothing.")] = None,
) -> None:
    """Convert a raw data set to shards of rows, a summary and a list of rejects."""
    from verl_mars.data.convert import TooManyRejects, first_rows
    from verl_mars.data.convert import convert as run
    from verl_mars.data.settings import settings_from
    from verl_mars.data.terminal import bar, print_conversion, print_rows

    converter = find_converter(data_set)
    if workers is None:  # headers come in too fast for other processes to help: benchmarks/data.py has the figures
        workers = min(8, os.cpu_count() or 1) if decode or converter.draws else 0
    options = _pairs(set_option or [])
    if sources or context.args:
        options["sources"] = " ".join(_sources([*(sources or []), *context.args], bool(sources)))
    settings = settings_from(
        {
            "root": root,
            "out": out,
            "images": images,
            "style": style or converter.default_style,
            "mono": mono,
            "depth_encoding": depth_encoding,
            "splits": split or (),
            "val_fraction": val_fraction,
            "seed": seed,
            "shard_rows": shard_rows,
            "shard_megabytes": shard_megabytes,
            "max_reject": max_reject,
            "decode": decode,
            "workers": workers,
            "model": model,
            "tokenizer": tokenizer,
            "max_prompt_length": max_prompt_length,
            "min_pixels": min_pixels,
            "max_pixels": max_pixels,
            "limit": limit,
            "allow_roots": allow_root or (),
            "options": options,
            "overwrite": overwrite,
        }
    )
    if dry_run is not None:
        print_rows(*first_rows(converter, settings, dry_run))
        return
    with bar(converter.name) as advance:
        try:
            result = run(converter, settings, advance)
        except TooManyRejects as error:
            print_conversion(error.result, failed=True)
            raise
    print_conversion(result)


def _sources(items: list[str], given: bool) -> list[str]:
    """``rgb=0 ir=1`` after ``--sources``, where the shell passes the second as an argument by itself."""
    wrong = next((item for text in items for item in text.split() if "=" not in item), None)
    if wrong is not None or not given:
        raise UsageError(f"{wrong or items[0]!r} is no argument of data convert; --sources takes NAME=POSITION ...")
    return items


def _pairs(texts: list[str]) -> dict[str, str]:
    """``--set NAME=VALUE`` options as a dict."""
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--set {text!r}, but NAME=VALUE is needed")
    return {name.strip(): value for name, value in (text.split("=", 1) for text in texts)}


@data_app.command("show")
def show_rows(
    files: Annotated[list[str], typer.Argument(help="Files, as in data.train_files.")],
    out: Annotated[Path, typer.Option(help="Folder for rows.html.")] = Path("outputs/rows"),
    rows: Annotated[int, typer.Option(min=1, max=500, help="Rows to show, at equal distances.")] = 24,
) -> None:
    """Write a page to look at: every source, boxes, question, ground truth, mono prompts."""
    from verl_mars.reports.rows import write_rows_page

    print(write_rows_page(files, out / "rows.html", rows))


@app.command("show-tokens")
def show_tokens(
    dump: Annotated[Path, typer.Argument(help="A file of trainer.rollout_data_dir, of a run whose method rescores.")],
    out: Annotated[Path, typer.Option(help="Folder for tokens.html.")] = Path("outputs/tokens"),
    count: Annotated[int, typer.Option(min=1, max=100, help="Prompts to show, one response of each.")] = 6,
    value: Annotated[str | None, typer.Option(help="dependency, uncertainty or weight.")] = None,
) -> None:
    """Responses with each token shaded by how much it depends on the images, next to the images."""
    from verl_mars.reports.tokens import write_tokens_page

    print(write_tokens_page(dump, out / "tokens.html", count, value))


@app.command("show-rollouts")
def show_rollouts(
    dump: Annotated[Path, typer.Argument(help="A file of trainer.rollout_data_dir.")],
    out: Annotated[Path, typer.Option(help="Where rollouts.html goes.")] = Path("outputs/rollouts"),
    count: Annotated[int, typer.Option(min=1, max=1000, help="Prompts to show, with all their answers.")] = 24,
) -> None:
    """The answers to each prompt of a training step with rewards and advantages, beside the answers to one source."""
    from verl_mars.reports.rollouts import write_rollouts_page

    Console(soft_wrap=True).print(str(write_rollouts_page(dump, out / "rollouts.html", count)), highlight=False)


def main() -> None:
    """Entry point of the command line."""
    app()


if __name__ == "__main__":
    main()
