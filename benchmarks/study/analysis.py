"""The tables and figures of docs/study.md, from the raw results."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import report
from numpy.typing import NDArray
from scipy import stats

from study.arms import ARMS, TRACKS, Key
from verl_mars.fields import FieldDict, Fields
from verl_mars.probe.statistics import holm
from verl_mars.toy.report import STUDY
from verl_mars.toy.world import REGIMES

RUNS = Path(__file__).parents[1] / "results" / "study.jsonl"
VERL_RUNS = RUNS.with_name("study_verl.jsonl")
ROUNDING_RUNS = RUNS.with_name("study_rounding.jsonl")
PAGE = Path(__file__).parents[2] / "docs" / "study.md"
FIGURE = PAGE.parent / "images" / "study.png"
CONFIDENCE = 0.95
FURTHER = (
    ("mars", "grpo_n10"),
    ("shuffled", "grpo_n10"),
    ("mars", "unsolved_or_mixed"),
    ("solved", "mars"),
    ("acc", "mars"),
    ("pgpo", "pgpo_shuffled"),
    ("vogue", "vogue_no_noise"),
    ("mars_pgpo", "mars"),
    ("mars_top_p", "grpo_top_p"),
    ("mars_dapo", "dapo"),
    ("vppo", "dapo"),
)
"""Arms compared with another than GRPO at as many rollouts: at as many generations, with MARS without an option, with a
control, with what they build on. Descriptive."""
CURVES = ("grpo", "mars", "shuffled", "grpo_n10", "dapo", "mars_dapo")
"""The arms whose curves are drawn."""
PRIMARY = (("interference", "mars", "grpo"), ("interference", "mars", "shuffled"))
"""Track, arm, compared with: the two comparisons that were fixed before the runs."""
SHARED_METRICS = {
    "reward": "reward",
    "info_gain": "information gain",
    "shift_share": "share of the shift",
    "shift_share_solved": "of it on solved groups",
}
"""Metrics of training that loop and verl both have."""

Floats = NDArray[np.float64]


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


def at_tokens(tokens: int) -> Callable[[Fields, str | None], float]:
    """The measure of the accuracy when so many tokens were generated, between evaluations linear."""

    def measure(run: Fields, regime: str | None = None) -> float:
        return float(np.interp(tokens, [each["tokens"] for each in run["evaluations"]], curve(run, regime)))

    return measure


def differences(
    runs: Sequence[Fields],
    track: str,
    arm: str,
    other: str,
    measure: Callable[[Fields, str | None], float],
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


def _shown(samples: Sequence[Floats]) -> str:
    """Mean and interval; of one pair the difference alone."""
    if not samples:
        return "–"
    mean, low, high, _ = interval(samples)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if sum(map(len, samples)) > 1 else f"{mean:+.1f}"


def primary_table(runs: Sequence[Fields]) -> str:
    """The comparisons that were fixed before the runs, with p after Holm's correction."""
    found = {pair: differences(runs, *pair, area) for pair in PRIMARY}
    p_values = {f"{arm} - {other}": interval(found[track, arm, other])[3] for track, arm, other in PRIMARY}
    corrected = holm(p_values)
    head = ["track", "difference", "warm starts x seeds", "mean accuracy over training", "p", "p (Holm)"]
    rows: list[list[str]] = []
    for track, arm, other in PRIMARY:
        samples, name = found[track, arm, other], f"{arm} - {other}"
        size = f"{len(samples)} x {min(map(len, samples))}"
        rows.append([track, name, size, _shown(samples), f"{p_values[name]:.3f}", f"{corrected[name]:.3f}"])
    return report.markdown(head, rows)


def further_table(runs: Sequence[Fields]) -> str:
    """The comparisons that are neither primary nor with grpo, where both arms have run."""
    head = ["track", "difference", "runs", "over training", "at the end", "at equal tokens"]
    rows: list[list[str]] = []
    for track, (arm, other) in itertools.product(TRACKS, FURTHER):
        measures = (area, final, at_tokens(least_tokens(runs, track)))
        of_both = [differences(runs, track, arm, other, measure) for measure in measures]
        if of_both[0]:
            rows.append([track, f"{arm} - {other}", str(sum(map(len, of_both[0]))), *map(_shown, of_both)])
    return report.markdown(head, rows)


def _in_both(runs: Sequence[Fields], in_verl: Sequence[Fields]) -> Iterator[tuple[str, str, list[list[Fields]]]]:
    """Track, arm and its runs in the loop and in verl, where both have at least two."""
    for track, arm in itertools.product(TRACKS, ARMS):
        both = [runs_of(part, track, arm) for part in (runs, in_verl)]
        if min(map(len, both)) > 1:
            yield track, arm, both


def in_verl_table(runs: Sequence[Fields], in_verl: Sequence[Fields]) -> str:
    """The loop against verl, arm by arm: mean accuracy (sd), and verl - loop with Welch's t-interval over runs."""
    head = ["track", "arm", "runs: loop, verl"]
    for measure in ("over training", "at the end"):
        head += [f"{measure}: loop", "verl", "verl - loop"]
    rows: list[list[str]] = []
    for track, arm, both in _in_both(runs, in_verl):
        cells = [track, arm, ", ".join(str(len(part)) for part in both)]
        for measured in (area, final):
            loop, verl = ([measured(run) for run in part] for part in both)
            cells += [_spread(loop), _spread(verl)]
            welch = stats.ttest_ind(verl, loop, equal_var=False).confidence_interval(CONFIDENCE)
            cells.append(f"{np.mean(verl) - np.mean(loop):+.1f} [{welch.low:+.1f}, {welch.high:+.1f}]")
        rows.append(cells)
    return report.markdown(head, rows)


def in_verl_means_table(runs: Sequence[Fields], in_verl: Sequence[Fields]) -> str:
    """What training itself reports, in the loop and in verl: mean over a training, and its sd over runs."""
    head = ["track", "arm", *(f"{name}: {place}" for name in SHARED_METRICS.values() for place in ("loop", "verl"))]
    rows: list[list[str]] = []
    for track, arm, both in _in_both(runs, in_verl):
        cells = [track, arm]
        for name in SHARED_METRICS:
            for part in both:
                series = [[each["training"].get(name, np.nan) for each in run["evaluations"][1:]] for run in part]
                means = np.array(series).mean(1)
                cells.append("" if np.isnan(means).any() else f"{means.mean():.3f} (sd {means.std(ddof=1):.3f})")
        rows.append(cells)
    return report.markdown(head, rows)


def rounding_table(runs: Sequence[Fields], rounded: Sequence[Fields]) -> str:
    """How far the same seeds end apart on a processor that rounds in another way."""
    head = ["track", "arm", "seeds", "over training: mean, most", "at the end: mean, most", "sd over seeds at the end"]
    rows: list[list[str]] = []
    found = {run["key"]: run for run in runs}
    for track, arm in itertools.product(TRACKS, ARMS):
        pairs = [(found[run["key"]], run) for run in runs_of(rounded, track, arm) if run["key"] in found]
        if not pairs:
            continue
        cells = [track, arm, str(len(pairs))]
        for measure in (area, final):
            apart = [abs(measure(here) - measure(there)) for here, there in pairs]
            cells.append(f"{np.mean(apart):.1f}, {max(apart):.1f}")
        cells.append(f"{np.std([final(run) for run in runs_of(runs, track, arm)], ddof=1):.1f}")
        rows.append(cells)
    return report.markdown(head, rows)


def _spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation if there is one."""
    mean = f"{np.mean(values):.1f}"
    return f"{mean} (sd {np.std(values, ddof=1):.1f})" if len(values) > 1 else mean


def arms_table(runs: Sequence[Fields], track: str) -> str:
    """Each arm: accuracy, and its paired difference from grpo. Descriptive.

    The last measure is the accuracy at as many tokens as every run of the track has generated.
    """
    measures: dict[str, Callable[[Fields, str | None], float]] = {"over training": area, "at the end": final}
    if least := least_tokens(runs, track):
        measures[f"at {least / 1000:.0f} thousand tokens"] = at_tokens(least)
    head = ["arm", "runs", *measures, *(f"{name} - grpo" for name in measures), *REGIMES]
    rows: list[list[str]] = []
    for arm in arms_of(runs, track):
        of_arm = runs_of(runs, track, arm)
        cells = [arm, str(len(of_arm))]
        for measure in measures.values():
            cells.append(_spread([measure(run, None) for run in of_arm]))
        for measure in measures.values():
            cells.append("" if arm == "grpo" else _shown(differences(runs, track, arm, "grpo", measure)))
        cells += [f"{np.mean([final(run, regime) for run in of_arm]):.1f}" for regime in REGIMES]
        rows.append(cells)
    return report.markdown(head, rows)


def mechanism_table(runs: Sequence[Fields], track: str) -> str:
    """Means over the training of what an arm did to its groups."""
    columns = {
        "solved": "groups all right",
        "unsolved": "groups all wrong",
        "with_gradient": "groups with a gradient",
        "info_gain": "information gain",
        "shift_share": "share of the shift in sum of abs A",
        "shift_share_solved": "of it on solved groups",
        "pushed_up_unsolved": "unsolved groups pushed up",
        "entropy": "entropy at the end, nats a token",
    }
    head = ["arm", *columns.values(), "tokens, thousands"]
    rows: list[list[str]] = []
    for arm in arms_of(runs, track):
        of_arm = runs_of(runs, track, arm)
        cells = []
        for name in columns:
            series = [[each["training"].get(name) for each in run["evaluations"][1:]] for run in of_arm]
            if any(value is None for row in series for value in row):
                cells.append("")
                continue
            values = np.array(series)
            cells.append(f"{values[:, -1].mean() if name == 'entropy' else values.mean():.3f}")
        tokens = np.mean([run["evaluations"][-1]["tokens"] for run in of_arm]) / 1000
        rows.append([arm, *cells, f"{tokens:.0f}"])
    return report.markdown(head, rows)


def views_table(runs: Sequence[Fields]) -> str:
    """What methods with another view say of it, at the beginning of a training and at its end."""
    head = ["track", "arm", "metric", "first 20 steps", "last 20 steps"]
    rows: list[list[str]] = []
    for track, arm in itertools.product(TRACKS, ARMS):
        trainings = [[each["training"] for each in run["evaluations"][1:]] for run in runs_of(runs, track, arm)]
        names = dict.fromkeys(name for training in trainings for name in training[0] if "/" in name)
        for name in names:
            values = np.array([[training[0][name], training[-1].get(name, np.nan)] for training in trainings])
            rows.append([track, arm, f"`{name}`", *(f"{mean:.3g}" for mean in values.mean(0))])
    return report.markdown(head, rows)


def tables(runs: Sequence[Fields], in_verl: Sequence[Fields] = (), rounded: Sequence[Fields] = ()) -> dict[str, str]:
    """Every table of the page by the name of its marks."""
    present = tracks_of(runs)
    found = {f"{track}-arms": arms_table(runs, track) for track in present}
    found |= {f"{track}-mechanism": mechanism_table(runs, track) for track in present}
    if all(differences(runs, *pair, area) for pair in PRIMARY):
        found["primary"] = primary_table(runs)
        found["further"] = further_table(runs)
    if any("/" in name for run in runs for name in run["evaluations"][-1]["training"]):
        found["views"] = views_table(runs)
    if in_verl:
        found["in-verl"] = in_verl_table(runs, in_verl)
        found["in-verl-means"] = in_verl_means_table(runs, in_verl)
        found["verl-arms"] = arms_table(in_verl, "interference")
    if rounded:
        found["rounding"] = rounding_table(runs, rounded)
    return found


def seeds(runs: Sequence[Fields]) -> FieldDict:
    """What the demo says of other seeds: fused accuracy of grpo and mars at each evaluation of the first warm start."""
    found: FieldDict = {}
    for track in TRACKS:
        for arm in ("grpo", "mars"):
            of_arm = [run for run in runs_of(runs, track, arm) if run["key"].warm_start == 0]
            for place, point in enumerate(of_arm[0]["evaluations"][1:] if of_arm else (), start=1):
                values = [float(curve(run)[place]) for run in of_arm]
                found.setdefault(track, {}).setdefault(str(point["step"]), {})[arm] = {
                    "runs": len(values),
                    "mean": round(float(np.mean(values)), 2),
                    "least": round(min(values), 2),
                    "most": round(max(values), 2),
                }
    return found


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


def draw(runs: Sequence[Fields], file: Path = FIGURE) -> None:
    """Curves of some arms with bands of one standard error, and a forest plot of all differences from grpo."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = {track: arms_of(runs, track) for track in tracks_of(runs)}
    heights = [max(3.5, 0.32 * len(names)) for names in arms.values()]
    figure, axes = plt.subplots(
        len(arms), 2, figsize=(10, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for (track, names), (left, right) in zip(arms.items(), axes, strict=True):
        for arm in filter(CURVES.__contains__, names):
            of_arm = runs_of(runs, track, arm)
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
        others = [arm for arm in names if arm != "grpo" and differences(runs, track, arm, "grpo", area)]
        for place, arm in enumerate(reversed(others)):
            mean, low, high, _ = interval(differences(runs, track, arm, "grpo", area))
            right.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color="C0")
        right.axvline(0, color="grey", linewidth=1)
        right.set(yticks=range(len(others)), yticklabels=list(reversed(others)), xlabel="points")
        right.set_ylim(-0.7, len(others) - 0.3)
        right.set_title(f"{track}: mean accuracy over training, minus grpo", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
