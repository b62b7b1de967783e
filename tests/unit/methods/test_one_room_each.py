"""A method lives in its mathematics and its Method: no other source file knows its name."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from verl_mars.methods.table import BUILT_IN, METHODS

PACKAGE = Path(__file__).parents[3] / "verl_mars"
TABLE = "methods/table.py"
"""The one list of methods."""

ALSO_MARS = {
    "register.py": "the plugin, its reward manager and its trainer modes have the name of the package",
    "preflight/doctor.py": "the entry point of the plugin",
    "reward/manager.py": "the reward manager and its variant",
    "reward/settings.py": "the variant of the reward",
    "reward/cli.py": "the variant of the reward",
    "preflight/data.py": "the reward manager and its variant",
    "probe/cli.py": "the variant of the reward",
    "toy/demo.py": "the algorithm of the demo, unless it is named",
    "cli.py": "the algorithm of the demo, unless it is named",
}
"""Files in which `mars` is not the method."""


@cache
def names_in(source: str) -> set[str]:
    """Every identifier and every text of a file's code: no comments, no docstrings."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            names.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            names.add(f"from {node.module}")
        for field in ("id", "attr", "name", "arg"):
            if isinstance(getattr(node, field, None), str):
                names.add(getattr(node, field))
    return names


def knows(source: str, method: str) -> set[str]:
    """The identifiers and texts of a file that name a method."""
    if method == "mars":  # also the name of the package
        word = re.compile(r"(?<![\w.])algorithm\.mars\b|^mars$|^Mars$|MarsSettings|adv_estimator=mars|methods\.mars")
    else:
        word = re.compile(rf"(?i){method}")
    return {name for name in names_in(source) if word.search(name)}


@pytest.mark.parametrize("method", BUILT_IN)
def test_no_other_source_file_names_it(method):
    own = {f"algos/{method}.py", f"methods/{method}.py", TABLE, *(ALSO_MARS if method == "mars" else ())}
    elsewhere = {
        str(file.relative_to(PACKAGE)): found
        for file in sorted(PACKAGE.rglob("*.py"))
        if str(file.relative_to(PACKAGE)) not in own and (found := knows(file.read_text(), method))
    }
    assert elsewhere == {}


@pytest.mark.parametrize(
    ("source", "method"),
    [
        ("if name == 'pgpo': pass", "pgpo"),
        ("from verl_mars.methods.vogue import Vogue", "vogue"),
        ("settings = VogueSettings()", "vogue"),
        ("if estimator == 'mars': pass", "mars"),
        ("fault = 'algorithm.mars.anchor_every = 2'", "mars"),
    ],
)
def test_a_name_in_another_file_is_found(source, method):
    assert knows(source, method)


def test_a_docstring_may_name_a_paper():
    assert not knows('"""As PGPO does."""\n# and VOGUE', "pgpo")


def test_the_table_holds_the_classes_that_it_names():
    assert {name: METHODS[name].name for name in BUILT_IN} == {name: name for name in BUILT_IN}
