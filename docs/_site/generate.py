"""Write the reference pages of the documentation site from the package.

    python docs/_site/generate.py build/reference

Nothing here is written by hand twice: commands come from the typer application, settings from their classes, and the
table of what is overridden in verl from ``_compat.HOOKS``.
"""

import argparse
import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer.main
import yaml
from pydantic import BaseModel

from verl_mars.fields import Fields

ROOT = Path(__file__).parents[2]

API = {
    "algos": ("Tensor functions", "Tensors in, tensors out; they import torch and nothing of verl."),
    "methods": ("Methods", "What a method is, and the three that are built in."),
    "tasks": ("Tasks", "What a task is, and those that are built in."),
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


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings below the fields of a settings class, its bases' included.

    Fields that stand together over one docstring share it.
    """
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner in (BaseModel, object) or not issubclass(owner, BaseModel):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        waiting: list[str] = []
        for item in node.body:  # type: ignore[attr-defined]
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                waiting.append(item.target.id)
            elif isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and waiting:
                found |= dict.fromkeys(waiting, line(str(item.value.value)))
                waiting = []
            else:
                waiting = []
    return found


def markdown(docstring: str) -> str:
    """A docstring as Markdown: roles and double backquotes become code, a literal block stays one."""
    text = re.sub(r":(?:mod|class|func|meth|data|attr):(?=`)", "", docstring).replace("``", "`")
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def line(docstring: str) -> str:
    """A docstring as one line of Markdown."""
    return " ".join(markdown(docstring).split())


BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "array": "list"}


def allowed(schema: Fields, definitions: Fields) -> str:
    """What a JSON schema allows, in words."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in schema:
        return " or ".join(allowed(branch, definitions) for branch in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "null":
        return "null"
    bounds = [f"{words} {schema[key]:g}" for key, words in BOUNDS.items() if key in schema]
    return ", ".join(filter(None, [TYPES.get(schema.get("type", ""), schema.get("type", "")), *bounds]))


def value(default: object) -> str:
    """A default as YAML writes it."""
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    if isinstance(default, (list, tuple)):
        return f"[{', '.join(map(value, default))}]"
    return f"{default:g}" if isinstance(default, float) else str(default)


def setting_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A table row for each setting of a class, settings of nested classes included."""
    schema = model.model_json_schema()
    docs = attribute_docs(model)
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from setting_rows(type(default), f"{prefix}{name}.")
            continue
        nested = [part for part in get_args(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        words = allowed(schema["properties"][field.alias or name], schema.get("$defs", {}))
        yield f"| `{prefix}{field.alias or name}` | `{value(default)}` | {cell(words)} | {cell(docs.get(name, ''))} |"
        for part in nested:
            yield from setting_rows(part, f"{prefix}{name}.")


def configuration_page() -> str:
    """Every setting of verl-mars, section by section."""
    from verl_mars.methods import METHODS
    from verl_mars.reward.settings import RewardSettings

    sections: dict[str, type[BaseModel]] = {f"algorithm.{name}": METHODS[name].Settings for name in METHODS}
    sections["reward.reward_kwargs"] = RewardSettings
    lines = [
        "# Configuration",
        "",
        "The sections that verl-mars adds to a configuration of verl. Unknown keys and impossible values are refused",
        "by name before a model is loaded. Everything else is verl's own.",
        "",
        "| estimator (`algorithm.adv_estimator`) | section |",
        "|---|---|",
        *(f"| `{name}` | [`algorithm.{name}`](#algorithm{name}) |" for name in METHODS),
        "",
        "A method needs one of the trainer modes `trainer.v1.trainer_mode=mars_sync`, `mars_colocate_async` or",
        "`mars_separate_async`.",
        "",
    ]
    for section, model in sections.items():
        rows = list(setting_rows(model))
        lines += [f"## {section}", "", markdown(inspect.getdoc(model) or ""), ""]
        if rows:
            lines += ["| key | default | allowed | meaning |", "|---|---|---|---|", *rows, ""]
        else:
            lines += ["No settings.", ""]
    return "\n".join(lines)


def tasks_page() -> str:
    """The tasks, from their table."""
    from verl_mars.tasks import TASKS

    lines = ["# Tasks", "", "`extra_info.task` of a row names its task.", ""]
    for name, task in TASKS.items():
        module = inspect.getmodule(type(task))
        accuracy, form = task.weights
        text = markdown(inspect.getdoc(module) or "").partition(":")[2].strip()
        lines += [
            f"## {name}",
            "",
            text[:1].upper() + text[1:],
            "",
            "| property | value |",
            "|---|---|",
            f"| ground truth | `{cell(task.example)}` |",
            f"| a prompt asks | {cell(task.instruction)} |",
            f"| score of a complete answer | {accuracy:.3g} for accuracy, {form:.3g} for format |",
            f"| its own keys in metrics and dumps | {', '.join(f'`{key}`' for key in task.keys) or '-'} |",
            "",
        ]
    return "\n".join(lines)


def hooks_page() -> str:
    """The private methods of verl that are overridden, and the patches."""
    from verl_mars import _compat

    lines = [
        "# What is overridden in verl",
        "",
        "verl-mars uses verl's registries, entry points and configuration wherever they suffice. Where they do not,",
        "classes of verl-mars override a private method of verl and call the original. A contract test compares each",
        "signature with the installed verl.",
        "",
        "| method of verl | parameters | overridden by |",
        "|---|---|---|",
    ]
    for name, hook in _compat.HOOKS.items():
        ours = ", ".join(f"`{path}`" for path in hook.ours)
        lines.append(f"| `{name}` | {f'`{hook.parameters}`' if hook.parameters else '-'} | {ours} |")
    lines += ["", "## Patches", "", "Each says what verl or torch does, why it is not enough, and when it goes.", ""]
    for name, function in inspect.getmembers(_compat, inspect.isfunction):
        if function.__module__ == _compat.__name__ and not name.startswith("_"):
            lines += [f"### {name}", "", markdown(inspect.getdoc(function) or ""), ""]
    return "\n".join(lines)


def support_page() -> str:
    """What runs with what, from ``support.yaml``."""
    lines = [
        "# Support",
        "",
        "`tested`: a real run of verl in this repository's tests. `composed`: the configuration is composed and",
        "validated, and no model is trained. `refused`: by name, before a model is loaded. `untested`: it may work,",
        "and nobody has tried.",
        "",
    ]
    for section in yaml.safe_load((Path(__file__).parent / "support.yaml").read_text()):
        lines += [f"## {section['title']}", "", "| what | with | status | shown by |", "|---|---|---|---|"]
        for row in section["rows"]:
            by = f"`{row['by']}`" if "by" in row else "-"
            lines.append(f"| {cell(row['what'])} | {cell(row['with'])} | {row['status']} | {by} |")
        lines.append("")
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
    yield "configuration.md", configuration_page()
    yield "cli.md", cli_page()
    yield "tasks.md", tasks_page()
    yield "support.md", support_page()
    yield "hooks.md", hooks_page()
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
