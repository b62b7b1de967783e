"""docs/metrics.md has every metric that the source logs, and no other."""

import ast
import re
from dataclasses import fields

from repository_files import ROOT

from verl_mars.algos.gain import GainEffect

ROOMS = ("methods", "trainer", "rollout", "liveness")
NAME = re.compile(r"((?:val-)?mars|pgpo|papo|vppo|vogue|timing_s|perf|reward)/[\w/{}]+")
EXPANDED = {
    "mars/{name}": [f"mars/{field.name}" for field in fields(GainEffect)],
    "mars/{what}/{name}": [
        f"mars/{what}/<source>" for what in ("anchor_score", "anchor_acc", "anchor_format", "info_gain")
    ],
    "reward/{key}/mean": ["reward/<key>/mean"],
    "val-mars/{key}/fused": ["val-mars/acc/fused", "val-mars/reward/fused"],
    "val-mars/{key}/{source}": ["val-mars/acc/<source>", "val-mars/reward/<source>"],
    "val-mars/interference/{name}": ["val-mars/interference/<data source>"],
}
"""Names that are put together at run time."""


def text_of(node):
    """A text of the source; names in braces stand for what an f-string fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in node.values
        ]
        return "".join(parts)
    return ""


def logged():
    """Names in the source; templates as they stand there."""
    files = [file for room in ROOMS for file in (ROOT / "verl_mars" / room).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    inside = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    return {text_of(node) for node in nodes if node not in inside and NAME.fullmatch(text_of(node))}


def documented():
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def also_in_the_meaning():
    """Metrics that a row explains beside the one that it is of."""
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ", 1)[1])}


def test_names_are_put_together_where_this_test_knows():
    assert {name for name in logged() if "{" in name} == EXPANDED.keys()


def test_every_metric_is_on_the_page():
    names = {other for name in logged() for other in EXPANDED.get(name, [name])}
    missing = names - {*documented()} - also_in_the_meaning()
    assert not missing, f"logged, but not in docs/metrics.md: {sorted(missing)}"


def test_the_page_has_no_other_metric():
    names = {other for name in logged() for other in EXPANDED.get(name, [name])}
    assert len(documented()) == len({*documented()})
    unknown = {*documented()} - names
    assert not unknown, f"in docs/metrics.md, but never logged: {sorted(unknown)}"
