"""The tables of docs/study.md."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import report
from scipy import stats

from study.analysis import (
    CONFIDENCE,
    PRIMARY,
    Floats,
    Measure,
    area,
    arms_of,
    at_tokens,
    curve,
    differences,
    final,
    interval,
    least_tokens,
    of_first_warm_start,
    over_best_source,
    runs_of,
    tracks_of,
)
from study.arms import ARMS, TRACKS
from verl_mars.fields import Fields
from verl_mars.probe.statistics import holm
from verl_mars.toy.world import CONFLICTING, REGIMES

FURTHER = (
    ("mars", "shuffled"),
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
    ("mars_dapo_fused", "dapo"),
    ("mars_dapo_fused", "mars_dapo"),
    ("vppo", "dapo"),
)
"""Arms compared with another than GRPO at as many rollouts: at as many generations, with MARS without an option, with a
control, with what they build on. Descriptive."""
SHARED_METRICS = {
    "reward": "reward",
    "info_gain": "information gain",
    "shift_share": "share of the shift",
    "shift_share_solved": "of it on solved groups",
}
"""Metrics of training that loop and verl both have."""


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
        counts = sorted({min(map(len, samples)), max(map(len, samples))})
        size = f"{len(samples)} x {' to '.join(map(str, counts))}"
        rows.append([track, name, size, _shown(samples), f"{p_values[name]:.3f}", f"{corrected[name]:.3f}"])
    return report.markdown(head, rows)


def warm_starts_table(runs: Sequence[Fields]) -> str:
    """The arms of the primary comparisons from each warm start, and over all."""
    track = PRIMARY[0][0]
    arms = ["grpo", *dict.fromkeys(arm for pair in PRIMARY for arm in pair[1:] if arm != "grpo")]
    equal = at_tokens(least_tokens([run for run in runs if run["key"].arm in arms], track))
    measured = [(*pair[1:], area) for pair in PRIMARY] + [("mars", "grpo", final), ("mars", "grpo", equal)]
    head = ["warm start", "seeds", "before training", *(f"{arm}: over training" for arm in arms)]
    head += [f"{arm} - {other}: over training" for _, arm, other in PRIMARY]
    head += ["mars - grpo: at the end", "at equal tokens"]
    rows: list[list[str]] = []
    compared = [run for arm in arms for run in runs_of(runs, track, arm)]
    before = {run["key"].warm_start: curve(run)[0] for run in compared}
    for number in sorted(before):
        part = [run for run in compared if run["key"].warm_start == number]
        means = [f"{np.mean([area(run) for run in runs_of(part, track, arm)]):.1f}" for arm in arms]
        found = [differences(part, track, arm, other, measure) for arm, other, measure in measured]
        rows.append([str(number), str(len(found[0][0])), f"{before[number]:.1f}", *means, *map(_shown, found)])
    found = [differences(compared, track, arm, other, measure) for arm, other, measure in measured]
    seeds = ", ".join(str(len(each)) for each in found[0])
    rows.append(["all", seeds, f"{np.mean(list(before.values())):.1f}", *[""] * len(arms), *map(_shown, found)])
    return report.markdown(head, rows)


def sources_table(runs: Sequence[Fields]) -> str:
    """Both sources together against the best one alone after training: of all scenes, and of the conflicting ones."""
    head = ["track", "arm", "runs"]
    for scenes in ("all scenes", "conflicting scenes"):
        head += [scenes, "minus the best source"]
    rows: list[list[str]] = []
    for track in tracks_of(runs):
        for arm in arms_of(runs, track):
            of_arm = runs_of(runs, track, arm)
            cells = [track, arm, str(len(of_arm))]
            for regime in (None, CONFLICTING):
                margins = np.array([over_best_source(run, regime) for run in of_arm])
                cells.append(f"{np.mean([final(run, regime) for run in of_arm]):.1f}")
                cells.append("" if np.isnan(margins).any() else _shown([margins]))
            rows.append(cells)
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
    measures: dict[str, Measure] = {"over training": area, "at the end": final}
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
    """Every table of the page by the name of its marks.

    All but the primary comparisons are of the first warm start alone, from which every arm has run.
    """
    found: dict[str, str] = {}
    if all(differences(runs, *pair, area) for pair in PRIMARY):
        found["primary"] = primary_table(runs)
        found["warm-starts"] = warm_starts_table(runs)
    runs = of_first_warm_start(runs)
    for track in tracks_of(runs):
        found[f"{track}-arms"] = arms_table(runs, track)
        found[f"{track}-mechanism"] = mechanism_table(runs, track)
    if runs:
        found["further"] = further_table(runs)
        found["sources"] = sources_table(runs)
    if any("/" in name for run in runs for name in run["evaluations"][-1]["training"]):
        found["views"] = views_table(runs)
    if in_verl:
        found["in-verl"] = in_verl_table(runs, in_verl)
        found["in-verl-means"] = in_verl_means_table(runs, in_verl)
        found["verl-arms"] = arms_table(in_verl, "interference")
    if rounded:
        found["rounding"] = rounding_table(runs, rounded)
    return found
