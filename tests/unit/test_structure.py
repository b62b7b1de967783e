"""Imports run downward only, and what is packaged is what is there."""

import ast
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "verl_mars"

FLOOR = {
    **dict.fromkeys(("cli", "register", "doctor"), 3),
    **dict.fromkeys(("toy", "trainer", "data_prep", "show_tokens"), 2),
    **dict.fromkeys(("rollout", "reward", "data", "cpu"), 1),
    **dict.fromkeys(("views", "algos", "settings"), 0),
    "config": -1,
    **dict.fromkeys(("_compat", "errors"), -2),
}
SIDEWAYS = {
    ("trainer", "register"),  # which names are ours: constants, no import side effect in a process of verl's
    ("doctor", "register"),
    ("cli", "doctor"),
}


def rooms_imported(file):
    """The rooms of verl_mars that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "verl_mars" else [f"verl_mars.{a.name}" for a in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("verl_mars.") and "__" not in name)


def files_of_rooms():
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "data_prep").glob("*.py")]):
        inside = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path.relative_to(ROOT)
        room = inside.parts[0].removesuffix(".py")
        if room != "__init__":
            yield pytest.param(room, path, id=str(inside))


@pytest.mark.parametrize(("room", "file"), files_of_rooms())
def test_imports_run_downward(room, file):
    assert room in FLOOR, f"{file.name}: say in FLOOR which floor {room} is on"
    for other in set(rooms_imported(file)) - {room}:
        allowed = FLOOR[other] < FLOOR[room] or (room, other) in SIDEWAYS
        assert allowed, f"{file} imports {other}: {room} is on floor {FLOOR[room]}, {other} on {FLOOR[other]}"


def test_every_package_is_packaged():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert there | {"verl_mars.data_prep", "verl_mars.recipes"} == {
        name for name in config["packages"] if name.startswith("verl_mars")
    }
    for name, folder in config["package-dir"].items():
        assert (ROOT / folder / "__init__.py").exists(), f"{name} is mapped to {folder}, which is no package"


def test_version_is_told_once():
    import verl_mars

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == verl_mars.__version__


def test_required_verl_is_told_the_same_everywhere():
    from verl_mars.register import SUPPORTED_VERL

    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"verl{SUPPORTED_VERL}" in dependencies
