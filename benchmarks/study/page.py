"""What the study writes: the tables and the figure of docs/study.md, and what the demo says of other seeds."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import report

from study.analysis import (
    ROUNDING_RUNS,
    RUNS,
    VERL_RUNS,
    Floats,
    area,
    arms_of,
    curve,
    differences,
    interval,
    of_first_warm_start,
    read_runs,
    runs_of,
    tracks_of,
)
from study.arms import TRACKS
from study.tables import tables
from verl_mars.fields import FieldDict, Fields
from verl_mars.toy.report import STUDY

PAGE = Path(__file__).parents[2] / "docs" / "study.md"
FIGURE = PAGE.parent / "images" / "study.png"
CURVES = ("grpo", "mars", "shuffled", "grpo_n10", "dapo", "mars_dapo")
"""The arms whose curves are drawn."""


def publish() -> str:
    """Write tables and figure from the results; returns where they are."""
    runs = read_runs()
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables(runs, read_runs(VERL_RUNS), read_runs(ROUNDING_RUNS)).items():
        page = report.exchange(page, name, table)
    PAGE.write_text(page, encoding="utf-8")
    STUDY.write_text(json.dumps(seeds(runs), indent=1) + "\n", encoding="utf-8")
    draw(runs)
    return f"{len(runs)} runs: {RUNS}; tables: {PAGE}; figure: {FIGURE}"


def seeds(runs: Sequence[Fields]) -> FieldDict:
    """What the demo says of other seeds: fused accuracy of grpo and mars at each evaluation of the first warm start."""
    found: FieldDict = {}
    first = of_first_warm_start(runs)
    for track in TRACKS:
        for arm in ("grpo", "mars"):
            of_arm = runs_of(first, track, arm)
            for place, point in enumerate(of_arm[0]["evaluations"][1:] if of_arm else (), start=1):
                values = [float(curve(run)[place]) for run in of_arm]
                found.setdefault(track, {}).setdefault(str(point["step"]), {})[arm] = {
                    "runs": len(values),
                    "mean": round(float(np.mean(values)), 2),
                    "least": round(min(values), 2),
                    "most": round(max(values), 2),
                }
    return found


def draw(runs: Sequence[Fields], file: Path = FIGURE) -> None:
    """Curves of some arms with bands of one standard error, and a forest plot of all differences from grpo."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = of_first_warm_start(runs)
    forests = {track: _forest(runs, track) for track in tracks_of(runs)}
    heights = [max(3.5, 0.32 * len(shown)) for shown in forests.values()]
    figure, axes = plt.subplots(
        len(forests), 2, figsize=(10, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for (track, shown), (left, right) in zip(forests.items(), axes, strict=True):
        for arm in filter(CURVES.__contains__, arms_of(first, track)):
            of_arm = runs_of(first, track, arm)
            steps = [each["step"] for each in of_arm[0]["evaluations"]]
            values = np.stack([curve(run) for run in of_arm])
            (line,) = left.plot(steps, values.mean(0), label=f"{arm} ({len(of_arm)})")
            if len(values) > 1:
                error = values.std(0, ddof=1) / np.sqrt(len(values))
                left.fill_between(
                    steps, values.mean(0) - error, values.mean(0) + error, alpha=0.15, color=line.get_color()
                )
        left.set(title=f"{track}: held-out accuracy", xlabel="step", ylabel="%")
        left.legend(fontsize=8)
        for place, (mean, low, high, _) in enumerate(map(interval, shown.values())):
            right.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color="C0")
        right.axvline(0, color="grey", linewidth=1)
        right.set(yticks=range(len(shown)), yticklabels=list(shown), xlabel="points")
        right.set_ylim(len(shown) - 0.3, -0.7)  # the first on top
        right.set_title(f"{track}: mean accuracy over training, minus grpo", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _forest(runs: Sequence[Fields], track: str) -> dict[str, list[Floats]]:
    """Differences from grpo over a training: of each arm from the first warm start, and from all where it has more."""
    found: dict[str, list[Floats]] = {}
    for arm in arms_of(runs, track):
        if arm == "grpo":
            continue
        first, every = (differences(part, track, arm, "grpo", area) for part in (of_first_warm_start(runs), runs))
        if first:
            found[arm] = first
        if len(every) > len(first):
            found[f"{arm}, {len(every)} warm starts"] = every
    return found
