"""A probe's result in one sentence, as a line of a table, and as a condition for continuous integration."""

from collections.abc import Mapping

from verl_mars.errors import UsageError, UserError
from verl_mars.probe.figures import Figures
from verl_mars.probe.statistics import Estimate


class GainNotShown(UserError):
    """A gain is below what ``--fail-below`` asks for, or too uncertain to say."""

    exit_code = 3


COLUMNS = (
    ("fused", "accuracy", "fused"),
    ("gain_over_mean", "gains", "mean"),
    ("gain_over_best", "gains", "best"),
    ("gain_over_blind", "gains", "blind"),
    ("gain_over_shuffled", "gains", "shuffled"),
    ("complementary", "shares", "complementary"),
    ("redundant", "shares", "redundant"),
    ("dominant", "shares", "dominant"),
    ("interference", "shares", "interference"),
    ("unsolved", "shares", "unsolved"),
)


def points(value: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f}%"


def interval(estimate: Estimate) -> str:
    """The ends of an interval of a gain."""
    if estimate.low is None or estimate.high is None:
        return "no interval: all rows are of one scene"
    return f"{points(estimate.low)} to {points(estimate.high)}"


def best_source(figures: Figures) -> str | None:
    """The source that fused gains least over."""
    over = [name for name in figures.sources if name in figures.gains]
    return min(over, key=lambda name: figures.gains[name].value) if over else None


_AGAINST_BEST = {
    (1, 1): " and beats",
    (1, 0): " but is not shown to beat",
    (1, -1): " but loses to",
    (0, 1): ", but it beats",
    (0, 0): ", nor over",
    (0, -1): ", and it loses to",
    (-1, 1): " but beats",
    (-1, 0): " and is not shown to beat",
    (-1, -1): " and loses to",
}
"""Whether a gain over one source is shown (1, 0, or -1: a loss), and one over the best source: the words between."""


def verdict(figures: Figures) -> str:
    """What the figures say, in one sentence. What an interval leaves open is said to be open."""
    blind, gain = figures.gains.get("blind"), figures.gains.get("mean")
    if blind is not None and blind.shown <= 0:
        return (
            f"The answers do not show that the model sees its images: with them it is {points(blind.value)} points "
            f"ahead of the same questions without ({interval(blind)})."
        )
    if gain is None:
        fused = figures.accuracy.get("fused")
        return "No row has both a fused answer and one from each of its sources" + (
            f"; fused accuracy is {percent(fused.value)}." if fused else "."
        )
    size = points(abs(gain.value)).lstrip("+")
    if gain.shown > 0:
        sentence = f"Seeing all sources gains {size} points over one source ({interval(gain)})"
    elif gain.shown < 0:
        sentence = (
            f"Seeing all sources costs {points(-gain.value).lstrip('+')} points against one source ({interval(gain)})"
        )
    else:
        sentence = f"No gain of seeing all sources over one is shown ({points(gain.value)} points, {interval(gain)})"
    best, name = figures.gains.get("best"), best_source(figures)
    if best is not None and name is not None:
        sentence += _AGAINST_BEST[gain.shown, best.shown]
        sentence += f" the best source alone, {name} ({points(best.value)}, {interval(best)})"
    interference = figures.shares.get("interference")
    if interference is not None:
        sentence += f"; on {percent(interference.value)} of rows a source alone is right and all together are wrong"
    return sentence + "."


def leaderboard(figures: Figures, fixed: Mapping[str, object]) -> list[list[str]]:
    """Header and one line: what identifies the probe, then each figure with its interval."""
    header, line = list(fixed), [str(value) for value in fixed.values()]
    for name, part, key in COLUMNS:
        estimate = getattr(figures, part).get(key)
        header += [name, f"{name}_low", f"{name}_high"]
        values = (estimate.value, estimate.low, estimate.high) if estimate else (None,) * 3
        line += ["" if value is None else f"{value:.4f}" for value in values]
    return [header, line]


def check_condition(name: str, sources: tuple[str, ...], views: tuple[str, ...]) -> None:
    """Whether ``--fail-below NAME GAIN`` can be judged by the views that are asked.

    Raises:
        UsageError: no such gain, or its views are not asked.
    """
    need = {"mean": "mono", "best": "mono", "blind": "blind", "shuffled": "shuffled", **dict.fromkeys(sources, "mono")}
    if name not in need:
        raise UsageError(f"--fail-below {name}: no such gain, allowed: {', '.join(need)}")
    missing = [view for view in ("fused", need[name]) if view not in views]
    if missing:
        raise UsageError(f"--fail-below {name} needs the view {missing[0]}; add it to --views")


def check(figures: Figures, name: str, least: float) -> None:
    """Refuse a gain that the rows do not show: the low end of its interval has to reach ``least``.

    Raises:
        GainNotShown: it does not.
    """
    estimate = figures.gains.get(name)
    if estimate is None:
        raise GainNotShown(f"--fail-below {name}: the gain is unknown, no row has both answers")
    if estimate.low is not None and estimate.low >= least:
        return
    cure = ""
    if estimate.value >= least:
        cure = ". The value reaches it but the interval does not: more rows narrow it, --power says how many"
    raise GainNotShown(
        f"--fail-below {name}: the gain is {points(estimate.value)} points ({interval(estimate)}), but the low end of "
        f"its interval must reach {points(least)}{cure}"
    )
