"""The house: imports run downward only, no file is long, and what stands twice is the same."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "verl_mars"
OUTSIDE = ("data_prep", "recipes")
"""Packages of verl_mars that lie at the top level of the repository."""
SOURCES = ("verl_mars", "hydra_plugins", *OUTSIDE)
LONGEST_FILE = 400
FLOORS = (
    ("interrupts", "fields"),
    ("errors",),
    ("config", "file_kinds", "row_tools"),
    ("views", "algos"),
    ("vision",),
    ("tasks", "rows", "store"),
    ("methods", "liveness", "reward", "data", "cpu", "images"),
    ("rollout", "data_prep", "recipes", "reports"),
    ("preflight",),
    ("trainer",),
    ("probe", "toy"),
    ("cli", "register", "hydra_callbacks"),
)
"""From the lowest up. A room imports lower floors only, and `_compat`, which imports nothing of ours."""
ALONE = ("cpu", "algos")
"""Rooms that import nothing of ours but `_compat`."""
UPWARD = {("preflight", "register"): "which names the plugin registers, and why one could not be loaded"}
"""Imports that do not run downward, and why."""
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms} | {"_compat": -1}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(file: Path) -> str:
    """The room that a source file belongs to; empty for ``verl_mars/__init__.py``."""
    inside = file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file.relative_to(ROOT)
    return inside.parts[0].removesuffix(".py").replace("__init__", "")


def modules_named(source: str) -> Iterator[str]:
    """The modules of verl_mars that a file imports: by statement, inside functions too, or by name in a string."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("verl_mars."))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "verl_mars":
            yield from (f"verl_mars.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("verl_mars."):
            yield str(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            yield f"verl_mars.{node.module or node.names[0].name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            if match := re.match(r"verl_mars\.[a-z_]+(?=[.:]|$)", node.value):
                yield match[0]


def rooms_imported(source: str) -> set[str]:
    return {name.split(".")[1] for name in modules_named(source)}


@cache
def arrows() -> list[tuple[str, str, Path]]:
    return [
        (room, other, file)
        for file in python_files("verl_mars", "data_prep")
        if (room := room_of(file))
        for other in rooms_imported(file.read_text()) - {room}
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import verl_mars.trainer.modes",
        "from verl_mars import trainer",
        "def f():\n    from verl_mars.trainer import modes",
        "importlib.import_module('verl_mars.trainer.modes')",
        "importlib.import_module(f'verl_mars.trainer.{name}')",
        "PATH = 'verl_mars.trainer.modes:Mode'",
        "from ..trainer import modes",
        "from .. import trainer",
    ],
)
def test_every_way_to_import_a_room_is_seen(source):
    assert rooms_imported(source) == {"trainer"}


def test_words_about_a_room_are_no_import():
    assert rooms_imported('"""verl_mars.trainer.modes"""\nx = "see verl_mars.trainer"\nfrom . import modes') == set()


def test_every_room_has_a_floor():
    rooms = {room_of(file) for file in python_files("verl_mars", "data_prep")} - {""}
    assert rooms <= FLOOR.keys(), f"say in FLOORS where {sorted(rooms - FLOOR.keys())} stand"


def test_imports_run_downward():
    upward = [
        f"{file.relative_to(ROOT)} imports {other}: {room} is on floor {FLOOR[room]}, {other} on {FLOOR.get(other)}"
        for room, other, file in arrows()
        if (room, other) not in UPWARD and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]
    ]
    assert upward == []


def test_every_exception_is_needed():
    assert UPWARD.keys() <= {(room, other) for room, other, _ in arrows()}


def test_rooms_that_stand_alone_do():
    assert [f"{file}: {other}" for room, other, file in arrows() if room in ALONE and other != "_compat"] == []


def test_no_file_is_long():
    files = python_files(*SOURCES, "tests", "benchmarks")
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert not {file for file, lines in lengths.items() if lines > LONGEST_FILE}


def test_the_source_is_counted(capsys):
    """A number to watch: code that is not there needs no reader."""
    lines = sum(len(file.read_text().splitlines()) for file in python_files(*SOURCES))
    with capsys.disabled():
        print(f" [{lines:,} lines of source] ", end="")
    assert lines


def test_benchmarks_and_source_import_nothing_of_the_tests():
    helpers = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    helpers -= {path.stem for path in (ROOT / "benchmarks").glob("*.py")} | {"conftest"}
    for file in python_files(*SOURCES, "benchmarks"):
        tree = ast.parse(file.read_text())
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not names & helpers, file


def test_the_supported_verl_is_the_same_everywhere():
    from verl_mars.register import SUPPORTED_VERL

    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"verl{SUPPORTED_VERL}" in dependencies
