"""docs/architecture.md agrees with the code: its walks, its list of rooms, and its generated parts."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def walks():
    """(title, most files, files) of each walk of the page."""
    for title, most, body in re.findall(r"^### ([^\n]+) \(at most (\d+) files\)\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S):
        yield pytest.param(int(most), re.findall(r"^\d+\. `([\w./]+)`", body, re.M), id=title)


WALKS = list(walks())


def module_of(file):
    parts = Path(file).with_suffix("").parts
    parts = ("verl_mars", *parts) if parts[0] in ("data_prep", "recipes") else parts
    return ".".join(part for part in parts if part != "__init__")


def names_in(file):
    """What a file names of ours: modules that it imports, and for a module's names those too; words of a recipe."""
    source = (ROOT / file).read_text()
    if not file.endswith(".py"):
        return set(re.findall(r"\w+", source))
    names, module = set(), module_of(file)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, (package, node.module))) if node.level else str(node.module)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(re.findall(r"verl_mars(?:\.\w+)+", node.value))
    return names


def are_linked(one, other):
    """One imports the other, or names it; a recipe sets what a method reads, so its words are compared instead."""
    if not one.endswith(".py"):
        return Path(other).stem in names_in(one)
    return module_of(other) in names_in(one) or module_of(one) in names_in(other)


@pytest.mark.parametrize(("one", "other", "linked"), [
    ("verl_mars/cpu/server.py", "verl_mars/cpu/sampling.py", True),
    ("verl_mars/cpu/sampling.py", "verl_mars/cpu/server.py", True),
    ("data_prep/llvip.py", "data_prep/_aligned.py", True),
    ("recipes/algo/pgpo.yaml", "verl_mars/algos/pgpo.py", True),
    ("recipes/algo/pgpo.yaml", "verl_mars/algos/vogue.py", False),
    ("verl_mars/cpu/server.py", "verl_mars/algos/mars.py", False),
])  # fmt: skip
def test_links_are_recognised(one, other, linked):
    assert are_linked(one, other) is linked


def test_the_page_has_the_walks():
    assert [walk.id for walk in WALKS] == [
        "An anchor from rollout to advantage",
        "`algorithm.pgpo.tau` from YAML to mathematics",
        "The log-probs of another view",
        "A reward from text to score",
        "A row from raw file to parquet",
    ]


@pytest.mark.parametrize(("most", "files"), WALKS)
def test_a_walk_is_true(most, files):
    """Its files exist, are no more than promised, and each is linked with one before it."""
    assert 2 <= len(files) <= most
    assert len(set(files)) == len(files)
    for number, file in enumerate(files):
        assert (ROOT / file).is_file(), file
        assert not number or any(are_linked(before, file) for before in files[:number]), f"nothing leads to {file}"


def test_every_room_has_a_paragraph():
    rooms = {path.name for path in (ROOT / "verl_mars").iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in (ROOT / "verl_mars").glob("*.py")} - {"__init__.py"}
    described = set(re.findall(r"^\| `([\w.]+)/?` \|", PAGE, re.M))
    assert rooms | {"data_prep", "recipes"} <= described


def test_the_table_of_hooks_is_current():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "_site" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    assert architecture.with_hooks(PAGE) == PAGE, "run `python docs/_site/architecture.py`"
    assert architecture.PICTURE.exists()
