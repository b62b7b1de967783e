"""Results of a benchmark: their files, their tables, and the machine they were measured on.

Figures are written to ``results/NAME.json``; their table stands between the marks ``NAME`` of ``docs/benchmarks.md``.
"""

import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil

from verl_mars.fields import FieldDict

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def about(*packages: str) -> FieldDict:
    """The day, the machine, and the versions of Python and of these packages."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {
            "processor": processor() + _clock(),
            "cores": os.cpu_count(),
            "memory_gigabytes": round(psutil.virtual_memory().total / 2**30),
        },
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }


def processor() -> str:
    """The name of the processor, if the system has it."""
    return _first_core().get("model name") or platform.processor() or platform.machine()


def _clock() -> str:
    """Its clock, to be added to its name; empty if the system does not have it."""
    megahertz = _first_core().get("cpu MHz")
    return f", {float(megahertz) / 1000:.1f} GHz" if megahertz else ""


def _first_core() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}


def read(name: str) -> FieldDict:
    """The figures of the last run; empty where there was none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def publish(name: str, result: FieldDict, table: str) -> None:
    """Print a table, write the figures, and put the table into the page."""
    file = RESULTS / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(exchange(PAGE.read_text(), name, table))
    print(f"{table}\n\nresults: {file}, {PAGE}")


def exchange(page: str, name: str, table: str) -> str:
    """The page with this table between the marks of that name.

    Raises:
        ValueError: the page has no such marks.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opening, rest = page.partition(first)
    _, closing, after = rest.partition(last)
    if not (opening and closing):
        raise ValueError(f"the page has no place for this table: {first} and {last} are needed")
    return f"{before}{first}\n{table}\n{last}{after}"


def where(result: FieldDict) -> str:
    """A sentence: when a table was measured, and on what."""
    machine = result["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    hardware = f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gigabytes']} GB"
    return f"Measured on {result['date']}: {hardware}; {versions}."


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
