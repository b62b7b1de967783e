"""Write the reference pages of the documentation site from the package.

    python docs/_site/generate.py build/reference

Nothing here is written by hand twice: commands come from the typer application, settings from their classes, and the
table of what is overridden in verl from ``_compat.HOOKS``.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

ROOT = Path(__file__).parents[2]

API = {
    "algos": ("Tensor functions", "Tensors in, tensors out; they import torch and nothing of verl."),
    "views": ("Views", "What the policy is shown of a prompt, and how it is rendered."),
    "reward": ("Rewards", "Scoring of answers, during training and offline."),
    "data": ("Data", "Rows, their checks, and conversions."),
}
"""Rooms of the package with a public Python interface: title and a sentence."""


def cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands below a command of typer's, depth first, each with the words that call it.

    Newer versions of typer bring their own copy of click, so what is a group is asked by its attribute.
    """
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")
    if not getattr(command, "commands", None) or command.invoke_without_command:
        yield path, command


def parameter_rows(command: Any) -> Iterator[str]:
    """A table row for each argument and option of a command."""
    context = typer.Context(command)
    for parameter in command.params:
        if parameter.name == "help":
            continue
        if parameter.param_type_name == "option":
            name = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
            default = parameter.get_default(context, call=False)
        else:
            name, default = f"`{(parameter.metavar or parameter.name).upper()}`", None
        shown = "required" if parameter.required else "" if default in (None, (), []) else f"`{default}`"
        help_text = getattr(parameter, "help", None) or ""
        yield f"| {name} | {shown} | {cell(help_text)} |"


def cli_page() -> str:
    """The page of the command line."""
    from verl_mars.cli import app

    lines = ["# Command line", "", "`verl-mars` after installation. `--help` after any command prints the same.", ""]
    for path, command in commands(typer.main.get_command(app), "verl-mars"):
        lines += [f"## {path}", "", (command.help or command.short_help or "").strip(), ""]
        usage = command.get_usage(typer.Context(command, info_name=path)).removeprefix("Usage: ")
        lines += ["```text", usage, "```", ""]
        rows = list(parameter_rows(command))
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def api_pages() -> Iterator[tuple[str, str]]:
    """A page a room, with the documentation of its public modules in mkdocstrings' syntax."""
    for room, (title, sentence) in API.items():
        path = ROOT / "verl_mars" / room
        if path.is_dir():
            inner = [f"verl_mars.{room}.{file.stem}" for file in sorted(path.glob("[!_]*.py")) if file.stem != "cli"]
            modules = [f"verl_mars.{room}", *inner]
        else:
            modules = [f"verl_mars.{room}"]
        blocks = [
            f"## `{module}`\n\n::: {module}\n    options:\n      show_root_heading: false\n" for module in modules
        ]
        yield f"api/{room}.md", f"# {title}\n\n{sentence}\n\n" + "\n".join(blocks)


def pages() -> Iterator[tuple[str, str]]:
    """Every generated page: its path below ``reference/``, and its text."""
    yield "cli.md", cli_page()
    yield from api_pages()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    for name, text in pages():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


if __name__ == "__main__":
    main()
