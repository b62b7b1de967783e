"""What the tests of the repository's files share: commands in texts, code blocks, modules outside packages."""

import ast
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import typer.main

ROOT = Path(__file__).parents[2]
IDS = {"ids": lambda value: value.name if isinstance(value, Path) else None}


def load(path):
    """A module that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def make_targets():
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def cli_commands():
    """Words of a command, as ("verl-mars", "data", "list") -> (its options, whether it is only a group)."""

    def walk(command, words):
        options = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
        inner = getattr(command, "commands", {})
        yield words, ({flag for flag in options if flag.startswith("-")} | {"--help"}, bool(inner))
        for name, child in inner.items():
            yield from walk(child, (*words, name))

    from verl_mars.cli import app

    return dict(walk(typer.main.get_command(app), ("verl-mars",)))


def shell_commands(text):
    """The commands of a shell text as lists of words: comments, loops and assignments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&()<>")
        lexer.wordchars += "~=*$,:@%+-./[]{}"  # words of a command line
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&()<>"):
                while words and (words[0] in ("do", "then") or re.match(r"[A-Z_]+=", words[0])):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def fault_of(words):
    """Why a command of the documentation cannot be run; None if nothing is known against it."""
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        unknown = set(targets) - make_targets()
        return f"no make target {', '.join(sorted(unknown))}" if unknown else None
    if words[0] == "verl-mars":
        known = cli_commands()
        depth = max(n for n in range(1, len(words) + 1) if tuple(words[:n]) in known)
        options, is_group = known[tuple(words[:depth])]
        following = words[depth] if depth < len(words) else "--help"
        if is_group and not following.startswith("-"):
            return f"{' '.join(words[:depth])} has no command {following}"
        used = {word.split("=")[0] for word in words[depth:] if re.match(r"--?[a-z]", word)}
        return (
            f"{' '.join(words[:depth])} has no option {', '.join(sorted(used - options))}" if used - options else None
        )
    if words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        return None if (ROOT / words[1]).exists() else f"no file {words[1]}"
    return None


def code_blocks(path):
    """(language, text, line number) of the fenced code blocks of a page."""
    language, start, lines = None, 0, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if language is None:
                language, start, lines = line.strip().removeprefix("```"), number, []
            else:
                yield language, "\n".join(lines) + "\n", start
                language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{path.name}:{start}: the code block is not closed"


def commands_in(path):
    for language, text, _ in code_blocks(path):
        if language in ("bash", "sh"):
            yield from shell_commands(text)
    prose = re.sub(r"^#.*$", "", path.read_text(), flags=re.MULTILINE)  # headings of the page of errors quote messages
    for text in re.findall(r"`((?:make|verl-mars|python) [^`]+)`", prose):
        yield from shell_commands(text)


def texts_of(source):
    """The texts of a Python file: strings as the parser joins them, with FIELD for what an f-string fills in."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "FIELD" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value
    yield from re.findall(r"#.*", source)


def commands_in_source(source):
    """The commands that messages, docstrings, help texts and comments name, in backticks."""
    for text in texts_of(source):
        for command in re.findall(r"`((?:make|verl-mars) [^`.][^`]*)`", text):
            yield from shell_commands(" ".join(command.split()))
