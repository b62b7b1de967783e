"""``verl-mars``: demo, doctor, data, score, probe, show-tokens, show-rollouts."""

import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from verl_mars.data.cli import app as data_app
from verl_mars.errors import FAILED, errors_printed
from verl_mars.probe.cli import probe
from verl_mars.reward.cli import score


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
) -> None:
    """Is the plugin loaded, here and inside Ray, and can a recipe run? Exits with 1 and a line for each fault."""
    from verl_mars.preflight.doctor import inspect_plugin, inspect_ray_worker, inspect_recipe

    warnings.simplefilter("ignore")  # of engines that are not installed, which verl tells at every import
    os.environ.setdefault("VERL_LOGGING_LEVEL", "ERROR")
    console = Console(soft_wrap=True)
    with console.status("importing verl"):
        here = inspect_plugin()
    table = Table("", "", show_header=False, box=None)
    for package, version in here.versions.items():
        table.add_row(package, version)
    table.add_row("entry points", ", ".join(here.entry_points) or "-")
    table.add_row("VERL_USE_EXTERNAL_PLUGINS", here.policy)
    table.add_row("loaded by verl", "yes" if here.loaded else "no")
    for kind, names in here.registered.items():
        table.add_row(f"registered {kind}", ", ".join(names))
    console.print(table)

    faults = list(here.faults)
    if ray:
        with console.status("asking a Ray worker"):
            worker = inspect_ray_worker()
        faults += [f"inside a Ray worker: {fault}" for fault in worker.faults]
        differing = [p for p, version in worker.versions.items() if version != here.versions.get(p)]
        faults += [
            f"inside a Ray worker: {package} is {worker.versions[package]}, here {here.versions.get(package, '-')}"
            for package in differing
        ]
    if config_name is not None:
        recipe = inspect_recipe(config_name, overrides or [], data)
        faults += [f"{config_name}: {fault}" for fault in recipe.faults]
        for note in recipe.notes:
            console.print(f"[yellow]note[/yellow] {config_name}: {escape(note)}", highlight=False)
    for fault in faults:
        console.print(f"[red]fault[/red] {escape(fault)}", highlight=False)
    if faults:
        raise typer.Exit(FAILED)
    console.print("[green]no faults[/green]")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("outputs/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 40,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    track: Annotated[str, typer.Option(help="`default` or `interference`.")] = "default",
    algorithm: Annotated[
        str, typer.Option(help="The toy recipe without `toy_` and `_grpo`: mars, grpo, mars_dapo, ...")
    ] = "mars",
) -> None:
    """A MARS training run on a CPU: the toy world, a warm start, training with verl, evaluation, pictures."""
    from verl_mars.toy.demo import demo as run

    run(out=out, steps=steps, seed=seed, track=track, algorithm=algorithm)


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
