"""From scored answers to figures: accuracies, gains, contributions, shares of rows.

Every figure is the mean of one number a row, so one resampling of scenes gives all intervals
(:func:`verl_mars.probe.statistics.means`). A row counts where it has all the answers that its number needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from verl_mars.fields import FieldDict
from verl_mars.probe.shares import CLASSES, MOST_SHAPLEY_SOURCES, mean_of_sources, row_class, shapley
from verl_mars.probe.statistics import Estimate, cluster_numbers, holm, means, rows_needed, sign_flip_p, smallest

Floats = NDArray[np.float64]

RIGHT = 0.5
"""An answer whose accuracy reaches this is right: exact tasks have 0 or 1, grounding a fraction."""


@dataclass(frozen=True)
class ScoredRow:
    """A row of the data with the accuracies of its answers."""

    number: int
    """Position in the data."""
    sources: tuple[str, ...]
    group: str | None
    accuracy: Mapping[str, Sequence[float]]
    """View -> accuracy of each sample that was answered; empty where none was."""

    def of(self, view: str) -> float:
        """Mean accuracy of a view; NaN where it was not answered."""
        values = self.accuracy.get(view)
        return float(np.mean(values)) if values else float("nan")

    def right(self, view: str) -> bool | None:
        """Whether a view is right; None where it was not answered."""
        value = self.of(view)
        return None if np.isnan(value) else value >= RIGHT

    @property
    def share_class(self) -> str | None:
        """The row's class, see :mod:`verl_mars.probe.shares`."""
        return row_class(self.right("fused"), {source: self.right(source) for source in self.sources})


@dataclass(frozen=True)
class Figures:
    """All figures of a probe."""

    rows: int
    scenes: int
    sources: tuple[str, ...]
    accuracy: dict[str, Estimate]
    gains: dict[str, Estimate]
    """``mean``: fused minus the mean over the row's sources; ``best``: minus the best source; a source's name; then
    ``blind`` and ``shuffled``."""
    mcnemar: dict[str, dict[str, float]]
    """Source -> rows on which only fused or only the source is right, p, and p after Holm's correction."""
    leave_one_out: dict[str, Estimate]
    """Source -> fused minus the view without it."""
    shapley: dict[str, Estimate]
    own_prompt: dict[str, Estimate]
    """Source -> the source alone as it is asked, minus the repeated fused prompt."""
    shares: dict[str, Estimate]
    needed: dict[str, int] = field(default_factory=dict)
    """Gain -> rows needed to find it if it is of the size asked for."""


def compute(rows: Sequence[ScoredRow], *, power: float | None = None, resamples: int = 4000, seed: int = 0) -> Figures:
    """All figures that the answers allow.

    Raises:
        ValueError: no rows, or an impossible ``power``.
    """
    if not rows:
        raise ValueError("no rows to compute figures of")
    clusters = cluster_numbers([row.group for row in rows])
    sources = tuple(dict.fromkeys(source for row in rows for source in row.sources))
    views = sorted(dict.fromkeys(view for row in rows for view in row.accuracy), key=lambda view: _place(view, sources))
    of = {view: np.array([row.of(view) for row in rows]) for view in views}
    absent = np.full(len(rows), np.nan)

    def column(view: str) -> Floats:
        return of.get(view, absent)

    fused = column("fused")
    own = np.array([[row.of(source) if source in row.sources else np.inf for source in sources] for row in rows])
    gains = {"mean": fused - mean_of_sources(own)}
    gains |= {f"over:{source}": fused - column(source) for source in sources}
    gains |= {view: fused - column(view) for view in ("blind", "shuffled")}
    columns = {f"accuracy|{view}": of[view] for view in views}
    columns |= {f"gain|{name}": values for name, values in gains.items()}
    columns |= {f"without|{source}": fused - column(f"without_{source}") for source in sources}
    columns |= {f"prompt|{source}": column(source) - column(f"repeat_{source}") for source in sources}
    columns |= {f"shapley|{source}": values for source, values in _shapley(rows, sources).items()}
    columns |= {f"share|{name}": values for name, values in _shares(rows).items()}
    proportions = {name for name in columns if name.startswith(("accuracy|", "share|"))}
    estimates = means(columns, clusters, resamples=resamples, seed=seed, proportions=proportions)

    def part(name: str) -> dict[str, Estimate]:
        return {key.split("|", 1)[1]: e for key, e in estimates.items() if key.startswith(f"{name}|")}

    found = part("gain")
    tests = {name: sign_flip_p(gains[name], clusters, seed=seed) for name in found}
    found = {name: _with_p(estimate, tests[name]) for name, estimate in found.items()}
    over = {source: found.pop(f"over:{source}") for source in sources if f"over:{source}" in found}
    best = {"best": smallest(list(over.values()))} if len(over) > 1 else {}
    ordered = {name: found[name] for name in ("mean",) if name in found} | best | over
    ordered |= {name: found[name] for name in ("blind", "shuffled") if name in found}
    corrected = holm({source: tests[f"over:{source}"] for source in over})
    needed = {}
    if power is not None:
        wanted = {"mean": "mean", **{source: f"over:{source}" for source in over}, "blind": "blind"}
        for name, key in wanted.items():
            if np.count_nonzero(~np.isnan(gains[key])) > 1:
                needed[name] = rows_needed(power, gains[key], clusters)
    return Figures(
        rows=len(rows),
        scenes=int(clusters.max()) + 1,
        sources=sources,
        accuracy=part("accuracy"),
        gains=ordered,
        mcnemar={s: _discordant(rows, s) | {"p": tests[f"over:{s}"], "p_holm": corrected[s]} for s in over},
        leave_one_out=part("without"),
        shapley=part("shapley"),
        own_prompt=part("prompt"),
        shares=part("share"),
        needed=needed,
    )


def _place(view: str, sources: Sequence[str]) -> tuple[int, str]:
    """Where a view stands among the others: fused, the sources, the controls, then what is made of some sources."""
    if view in sources:
        return 1, f"{list(sources).index(view):03}"
    return {"fused": 0, "blind": 2, "shuffled": 3}.get(view, 4), view


def _with_p(estimate: Estimate, p: float) -> Estimate:
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.rows, estimate.clusters, p)


def _discordant(rows: Iterable[ScoredRow], source: str) -> dict[str, float]:
    pairs = [(row.right("fused"), row.right(source)) for row in rows if source in row.sources]
    return {
        "only_fused": sum(fused is True and alone is False for fused, alone in pairs),
        "only_source": sum(fused is False and alone is True for fused, alone in pairs),
    }


def _shares(rows: Sequence[ScoredRow]) -> dict[str, Floats]:
    """Class -> 1 on rows of it, 0 on others, NaN on rows without a class; ``dominant`` as a whole and by source."""
    classes = [row.share_class for row in rows]
    by_source = sorted({name for name in classes if name is not None and name.startswith("dominant:")})

    def is_in(name: str | None, wanted: str) -> float:
        return np.nan if name is None else float(name == wanted or name.split(":")[0] == wanted)

    names: list[str] = []
    for name in CLASSES:
        names += [name, *by_source] if name == "dominant" else [name]
    return {wanted: np.array([is_in(name, wanted) for name in classes]) for wanted in names}


def _shapley(rows: Sequence[ScoredRow], sources: Sequence[str]) -> dict[str, Floats]:
    columns = {source: np.full(len(rows), np.nan) for source in sources}
    for number, row in enumerate(rows):
        if 2 <= len(row.sources) <= MOST_SHAPLEY_SOURCES:
            for source, value in shapley(row.sources, _values(row)).items():
                columns[source][number] = value
    return columns


def _values(row: ScoredRow) -> dict[frozenset[str], float]:
    """Accuracy of every subset of the row's sources that was asked."""
    own = row.sources
    values = {frozenset(own): row.of("fused"), frozenset[str](): row.of("blind")}
    values |= {frozenset((source,)): row.of(source) for source in own}
    if len(own) > 2:  # of two sources, the view without one is another prompt for the other alone
        values |= {frozenset(own) - {source}: row.of(f"without_{source}") for source in own}
    for view in row.accuracy:
        if "+" in view:
            values[frozenset(view.split("+"))] = row.of(view)
    return values


def compare(
    rows: Sequence[ScoredRow], others: Sequence[ScoredRow], *, resamples: int = 4000, seed: int = 0
) -> dict[str, FieldDict]:
    """This probe minus another, paired by row: the accuracy of each view that both have, and the information gain.

    Returns:
        view -> estimate, with ``p_holm`` over the views; ``information_gain``: the difference of the gains over the
        mean of the sources.

    Raises:
        ValueError: no row is in both.
    """
    by_number = {row.number: row for row in others}
    pairs = [(row, by_number[row.number]) for row in rows if row.number in by_number]
    if not pairs:
        raise ValueError("the two probes have no row in common")
    clusters = cluster_numbers([row.group for row, _ in pairs])
    views = list(dict.fromkeys(view for row, other in pairs for view in row.accuracy if view in other.accuracy))
    columns = {view: np.array([row.of(view) - other.of(view) for row, other in pairs]) for view in views}
    columns["information_gain"] = np.array([_gain(row) - _gain(other) for row, other in pairs])
    estimates = means(columns, clusters, resamples=resamples, seed=seed)
    tests = {name: sign_flip_p(columns[name], clusters, seed=seed) for name in estimates}
    corrected = holm(tests)
    return {name: {**_with_p(e, tests[name]).as_dict(), "p_holm": corrected[name]} for name, e in estimates.items()}


def _gain(row: ScoredRow) -> float:
    return row.of("fused") - float(np.mean([row.of(source) for source in row.sources]))
