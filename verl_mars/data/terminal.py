"""The output of ``verl-mars data``: results, statistics and a progress bar."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from verl_mars.fields import FieldDict

if TYPE_CHECKING:
    from rich.console import Console

    from verl_mars.data.convert import ConvertResult
    from verl_mars.data.stats import Stats
    from verl_mars.data.validate import ValidationReport

_SHOWN_ANSWERS = 8


def console() -> "Console":
    """Where the commands print."""
    from rich.console import Console

    return Console(soft_wrap=True)


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of rows and rejects; none where nobody looks."""
    if not console().is_terminal:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=name, unit="rows") as shown:

        def advance(rows: int, rejects: int) -> None:
            shown.update(rows - shown.n)
            if rejects:
                shown.set_postfix(rejected=rejects, refresh=False)

        yield advance


def counted(number: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def print_conversion(result: "ConvertResult", *, failed: bool = False) -> None:
    """What a conversion made, the lines to paste into a recipe, and last where it lies."""
    from verl_mars.data.cures import CURES

    to, summary = console(), result.summary
    for split, part in summary["splits"].items():
        files = counted(len(part["shards"]), "file")
        to.print(f"[bold]{split}[/bold]  {counted(part['rows'], 'row')} in {files}", highlight=False)
    rejects = summary["rejects"]
    to.print(f"rejected  {rejects['total']} ({rejects['share']:.2%})", highlight=False)
    for code, count in rejects["by_reason"].items():
        to.print(f"  {count} x {code}: {CURES.get(code, '')}", highlight=False, markup=False)
    for text, count in summary["counts"].items():
        to.print(f"counted  {count} {text}", highlight=False, markup=False)
    for text in summary["findings"]:
        to.print("[yellow]note[/yellow]", end="  ")
        to.print(text, highlight=False, markup=False)
    if summary["rows"]:
        to.print(
            f"prompts  up to {summary['max_prompt_tokens']} tokens, {summary['prompt_tokens_are']}", highlight=False
        )
    to.print(f"licence  {summary['licence']}", highlight=False, markup=False)
    if not failed:
        to.print("\n[bold]Paste into a recipe's command line[/bold]")
        for line in summary["recipe"]:
            print(f"  {line} \\")  # noqa: T201  # rich would wrap it
        for key in ("data.train_files", "data.val_files"):
            if not any(key in line for line in summary["recipe"]):
                print(f"this conversion has no split for {key}: name files of your own (verl's default is GSM8K)")  # noqa: T201
    print(f"\nwritten  {result.out}")  # noqa: T201


def print_rows(rows: list[FieldDict], summary: FieldDict, rejects: list[FieldDict]) -> None:
    """Rows as a conversion would write them, then what was rejected and counted."""
    to = console()
    for row in rows:
        extra = row["extra_info"]
        to.print(f"[bold]{escape(extra['sample_id'])}[/bold]  {extra['split']}, {extra['task']}", highlight=False)
        for source in row["sources"]:
            images = ", ".join(f"{row['images'][k]['image']} {extra['image_sizes'][k]}" for k in source["images"])
            to.print(f"  {source['name']}: {images}", highlight=False, markup=False)
        for message in row["prompt"]:
            to.print("  | " + message["content"].replace("\n", "\n  | "), highlight=False, markup=False)
        to.print(f"  truth: {row['reward_model']['ground_truth']}\n", highlight=False, markup=False)
    for reject in rejects:
        to.print(f"rejected  {reject['origin']}: {reject['message']}", highlight=False, markup=False)
    for text, count in summary["counts"].items():
        to.print(f"counted  {count} {text}", highlight=False, markup=False)
    to.print(f"{counted(len(rows), 'row')} shown, {len(rejects)} rejected; nothing was written")


def print_validation(report: "ValidationReport") -> None:
    """Faults with their cures, and how much was looked at."""
    text = report.check.text()
    if text:
        print(text)  # noqa: T201
    print(  # noqa: T201
        f"{counted(report.check.rows, 'row')} in {counted(len(report.check.files), 'file')}, "
        f"{report.rows_loaded} read by verl, "
        f"{counted(report.prompts_processed, 'prompt')} through the processor, "
        f"up to {counted(report.check.images_per_row_max, 'image')} a row, "
        f"longest prompt {'' if report.exact else 'at most '}{report.max_tokens} tokens"
    )
    if report.ok:
        console().print("[green]no faults[/green]")


def print_stats(found: "Stats") -> None:
    """A table of all counts."""
    from rich.table import Table

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
        table.add_row(name.replace("_", " "), escape(_most_common(getattr(found, name))))
    for name, count in sorted(found.sources.items()):
        own = f", {found.own_prompts[name]} own prompts, {found.own_truths[name]} own ground truths"
        table.add_row(escape(f"source {name}"), f"{counted(count, 'row')}{own}")
    table.add_row("answers", escape(_most_common(found.answers)))
    for family, longest in found.max_tokens.items():
        bins = ", ".join(f"{low}-: {count}" for low, count in sorted(found.tokens[family].items()))
        table.add_row(f"tokens, {family}", f"at most {longest}  ({bins})")
    if found.unreadable:
        table.add_row(
            "[red]of another form[/red]", f"{counted(found.unreadable, 'row')}; see `verl-mars data validate`"
        )
    console().print(table)


def _most_common(counts: Counter[str] | Counter[int]) -> str:
    shown = ", ".join(f"{key}: {count}" for key, count in counts.most_common(_SHOWN_ANSWERS))
    left = len(counts) - _SHOWN_ANSWERS
    return f"{shown}, {left} more" if left > 0 else shown or "-"
