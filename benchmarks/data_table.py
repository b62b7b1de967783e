"""``results/data.json`` as the table in ``docs/data-format.md``: ``python benchmarks/data_table.py``."""

import json
from collections.abc import Iterator
from pathlib import Path

from verl_mars.fields import FieldDict

RESULTS = Path(__file__).parent / "results" / "data.json"
CONVERSIONS = {"manifest": "path mode, a manifest", "llvip": "path mode, LLVIP with its XML"}
OTHERS = {
    "embed": {
        "embed": "embed mode, 2 x {kilobytes} KB a row",
        "embed beside": "the same, `--workers 1`",
        "datasets": "`datasets`: `from_generator` + `to_parquet`",
    },
    "read": {"check": "`check_files` on the result", "verl": "verl's `RLHFDataset`: load, read each row"},
}


def table(results: FieldDict) -> Iterator[str]:
    """The lines of the table, and one that says where it was measured."""
    yield "| what | rows | rows a second (slowest to fastest) | CPU a row | peak memory |"
    yield "|---|---|---|---|---|"
    for part, name in CONVERSIONS.items():
        steps = results[part]["steps"]
        for step in steps.values():
            yield _line(name, step["default"])
        yield _line("the same, `--workers 1`", list(steps.values())[-1]["beside"])
    yield _line("Pillow alone, opening two headers a row", list(results["manifest"]["steps"].values())[-1]["pillow"])
    for part, arms in OTHERS.items():
        for arm, name in arms.items():
            yield _line(name.format(kilobytes=results["embed"]["picture_kilobytes"]), results[part][arm])
    about = results["manifest"]["machine"]
    yield ""
    yield (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gigabytes']} GB, "
        f"Python {about['python']}, {about['date']}; medians of {_runs(results)} runs."
    )


def _line(name: str, found: dict[str, float]) -> str:
    speed = f"{found['rows_per_second']:,.0f} ({found['slowest']:,.0f} to {found['fastest']:,.0f})"
    cost = f"{found['cpu_us_per_row']:,.0f} µs | {found['megabytes']:,.0f} MB"
    return f"| {name} | {found['rows']:,.0f} | {speed} | {cost} |"


def _runs(results: FieldDict) -> int:
    """How many runs each figure comes from, the fewest."""
    steps = [step["default"] for part in CONVERSIONS for step in results[part]["steps"].values()]
    others = [results[part][arm] for part, arms in OTHERS.items() for arm in arms]
    return int(min(found["runs"] for found in [*steps, *others]))


if __name__ == "__main__":
    print("\n".join(table(json.loads(RESULTS.read_text()))))
