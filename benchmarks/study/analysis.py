"""The study's raw results: the runs, what is measured of one, paired differences and their intervals."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.arms import ARMS, TRACKS, Key
from verl_mars.fields import FieldDict, Fields

RUNS = Path(__file__).parents[1] / "results" / "study.jsonl"
VERL_RUNS = RUNS.with_name("study_verl.jsonl")
ROUNDING_RUNS = RUNS.with_name("study_rounding.jsonl")
CONFIDENCE = 0.95
PRIMARY = (("interference", "mars", "grpo"), ("interference", "mars", "shuffled"))
"""Track, arm, compared with: the two comparisons that were fixed before the runs."""

Floats = NDArray[np.float64]
Measure = Callable[[Fields, str | None], float]


def read_runs(file: Path = RUNS) -> list[FieldDict]:
    """The finished runs, each with its :class:`~study.arms.Key` under ``key``."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row | {"key": Key(row["track"], row["warm_start"], row["arm"], row["seed"])} for row in rows]


def runs_of(runs: Sequence[Fields], track: str, arm: str) -> list[Fields]:
    """The runs of an arm on a track."""
    return [run for run in runs if (run["key"].track, run["key"].arm) == (track, arm)]


def arms_of(runs: Sequence[Fields], track: str) -> list[str]:
    """The arms that have run on a track."""
    return [arm for arm in ARMS if runs_of(runs, track, arm)]


def tracks_of(runs: Sequence[Fields]) -> list[str]:
    """The tracks that have runs."""
    return [track for track in TRACKS if arms_of(runs, track)]


def of_first_warm_start(runs: Sequence[Fields]) -> list[Fields]:
    """Those that the arms have in common: only some arms have run from the others."""
    return [run for run in runs if run["key"].warm_start == 0]


def curve(run: Fields, regime: str | None = None) -> Floats:
    """Accuracy at each evaluation in percent, the one before training first."""
    points = run["evaluations"]
    return 100 * np.array([each["accuracy"] if regime is None else each["by_regime"][regime] for each in points])


def area(run: Fields, regime: str | None = None) -> float:
    """Area under the curve: the mean accuracy over the evaluations of a training, in percent."""
    return float(curve(run, regime)[1:].mean())


def final(run: Fields, regime: str | None = None) -> float:
    """Accuracy after the last step, in percent."""
    return float(curve(run, regime)[-1])


def least_tokens(runs: Sequence[Fields], track: str) -> int:
    """As many tokens as every run of the track has generated; 0 where it is not recorded."""
    return min((run["evaluations"][-1].get("tokens", 0) for run in runs if run["key"].track == track), default=0)


def over_best_source(run: Fields, regime: str | None = None) -> float:
    """Accuracy after the last step, minus that of the best source alone, in points; nan where it is not recorded."""
    last = run["evaluations"][-1]
    if regime is None:
        alone = last["alone"]
    else:
        alone = [of_source[regime] for of_source in last.get("alone_by_regime", ())]
    return final(run, regime) - 100 * max(alone, default=float("nan"))


def at_tokens(tokens: int) -> Measure:
    """The measure of the accuracy when so many tokens were generated, between evaluations linear."""

    def measure(run: Fields, regime: str | None = None) -> float:
        return float(np.interp(tokens, [each["tokens"] for each in run["evaluations"]], curve(run, regime)))

    return measure


def differences(
    runs: Sequence[Fields],
    track: str,
    arm: str,
    other: str,
    measure: Measure,
    regime: str | None = None,
) -> list[Floats]:
    """Paired differences arm - other: one array over the common seeds for each warm start."""
    found = {run["key"]: run for run in runs}
    result = []
    for warm in sorted({key.warm_start for key in found if key.track == track}):
        seeds = sorted({key.seed for key in found if (key.track, key.warm_start) == (track, warm)})
        pairs = [(found.get(Key(track, warm, arm, s)), found.get(Key(track, warm, other, s))) for s in seeds]
        values = [measure(a, regime) - measure(b, regime) for a, b in pairs if a and b]
        if values:
            result.append(np.array(values))
    return result


def interval(samples: Sequence[Floats]) -> tuple[float, float, float, float]:
    """Mean, low, high of the t-interval, and p.

    With several warm starts these are the units (a random effect): the t-interval over their means, which for equal
    numbers of seeds is that of the balanced random-effects analysis of variance. With one, the seeds are the units and
    the interval holds for that warm start.
    """
    units = np.array([each.mean() for each in samples]) if len(samples) > 1 else samples[0]
    mean = float(units.mean())
    if len(units) < 2 or np.ptp(units) == 0:
        return mean, mean, mean, 1.0 if mean == 0 else float("nan")
    error = units.std(ddof=1) / np.sqrt(len(units))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(units) - 1) * error
    return mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean / error), len(units) - 1))
