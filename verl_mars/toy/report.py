"""The summary of a demo run: ``summary.json`` and the table on the screen. The pictures are in ``pictures.py``."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from verl_mars.fields import FieldDict, Fields
from verl_mars.toy.evaluate import FUSED, Evaluation
from verl_mars.toy.runs import Metrics

STUDY = Path(__file__).with_name("study.json")
"""Track -> step -> arm -> held-out accuracy over the seeds of the study; ``make study`` writes it."""


@dataclass(frozen=True)
class Run:
    """Identity of a run, for its summary.

    Attributes:
        seed: of the world, the model and the training.
        track: of the toy.
        algorithm: the demo's name of a recipe.
        steps: training steps.
        seconds: phase -> wall-clock seconds.
    """

    seed: int
    track: str
    algorithm: str
    steps: int
    seconds: Mapping[str, float]


def summarize(run: Run, before: Evaluation, after: Evaluation, metrics: Metrics) -> FieldDict:
    """The content of ``summary.json``: greedy accuracies on held-out rows, training metrics, identity of the run.

    The same seed gives the same summary, except for the seconds.
    """

    def both(measure: Callable[..., float], *what: str) -> dict[str, float | None]:
        return {"before": _rounded(measure(before, *what)), "after": _rounded(measure(after, *what))}

    training = {}
    for name in ("critic/score/mean", "mars/info_gain", "mars/interference_groups", "mars/rescued_groups"):
        values = metrics.series(name)[1]
        if values:
            tail = max(1, len(values) // 5)
            training[name] = {
                "first_steps": _rounded(sum(values[:tail]) / tail),
                "last_steps": _rounded(sum(values[-tail:]) / tail),
            }
    return {
        "accuracy_before": _rounded(before.accuracy()),
        "accuracy_after": _rounded(after.accuracy()),
        "per_regime": {
            regime: {
                "rows": int(before.rows(regime).sum()),
                **both(Evaluation.accuracy, FUSED, regime),
                "mono": {source: both(Evaluation.accuracy, source, regime) for source in before.sources},
                "information_gain": both(Evaluation.information_gain, regime),
            }
            for regime in before.regimes
        },
        "per_source": {source: both(Evaluation.accuracy, source) for source in before.sources},
        "information_gain": both(Evaluation.information_gain),
        "format_rate": both(Evaluation.format_rate),
        "training": training,
        "heldout_rows": len(before.heldout),
        "track": run.track,
        "algorithm": run.algorithm,
        "steps": run.steps,
        "seed": run.seed,
        "seconds": round(sum(run.seconds.values()), 1),
        "seconds_of": {phase: round(value, 1) for phase, value in run.seconds.items()},
    }


def _rounded(value: float) -> float | None:
    """JSON has no NaN: the mean of no values is null."""
    return None if math.isnan(value) else round(value, 4)


def write_summary(summary: Fields, file: Path) -> None:
    file.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def table(before: Evaluation, after: Evaluation) -> Table:
    """Accuracy in percent before and after training: a row for each regime, a column for each view."""
    grid = Table(
        title=f"Accuracy on {len(before.heldout)} held-out scenes, before→after training (%)",
        caption=f"{', '.join(before.sources)}: that source alone. gain: information gain, fused minus single sources.",
        box=box.SIMPLE_HEAD,
    )
    views = (FUSED, *before.sources)
    grid.add_column("", no_wrap=True)
    for name in (*views, "gain"):
        grid.add_column(name, justify="right", no_wrap=True, style="bold" if name == FUSED else None)
    for regime in (None, *before.regimes):
        cells = [_change(before.accuracy(view, regime), after.accuracy(view, regime), "{:.1f}") for view in views]
        gain = _change(before.information_gain(regime), after.information_gain(regime), "{:+.1f}")
        grid.add_row(regime or "overall", *cells, gain, end_section=regime is None)
    return grid


def other_seeds(track: str, steps: int, file: Path = STUDY) -> str | None:
    """What the study's seeds say of a demo as long as this one; None if none of them is.

    Args:
        track: of the toy world.
        steps: of the training.
    """
    arms = json.loads(file.read_text(encoding="utf-8")).get(track, {}).get(str(steps), {})
    ends = [
        f"{name.upper()} {arm['least']:.1f} to {arm['most']:.1f} % (mean {arm['mean']:.1f}, {arm['runs']} seeds)"
        for name, arm in arms.items()
    ]
    if not ends:
        return None
    return f"Over seeds, fused accuracy ends at: {', '.join(ends)} (docs/study.md). One run shows no difference."


def _change(before: float, after: float, form: str) -> str:
    """Both in percent, colored if the difference is at least five points."""
    if math.isnan(before) or math.isnan(after):
        return "-"
    color = "green" if after - before >= 0.05 else "red" if after - before <= -0.05 else "default"
    first, second = (form.format(100 * value).replace("100.0", "100") for value in (before, after))
    return f"{first}→[{color}]{second}[/{color}]"
