"""What the views of one row say together: its class, and what each source contributes to it.

===============  ==========================================  =====================================================
class            answers                                     reading
===============  ==========================================  =====================================================
complementary    fused right, no source alone                the sources are needed together
redundant        fused right, two or more sources alone      any of them would do
dominant         fused right, one source alone               that source carries the row
interference     fused wrong, a source alone right           another source misleads the model
unsolved         all wrong                                   no view answers the row
===============  ==========================================  =====================================================
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLASSES = ("complementary", "redundant", "dominant", "interference", "unsolved")
MOST_SHAPLEY_SOURCES = 6
"""Shapley values need an answer to each of 2^K subsets of K sources."""


def row_class(fused: bool | None, sources: Mapping[str, bool | None]) -> str | None:
    """The class of a row from which of its views are right; ``dominant:<source>`` names the source.

    None where an answer is missing, or where the row has one source: there is nothing to fuse then.
    """
    if fused is None or len(sources) < 2 or any(right is None for right in sources.values()):
        return None
    alone = [name for name, right in sources.items() if right]
    if not fused:
        return "interference" if alone else "unsolved"
    if not alone:
        return "complementary"
    return "redundant" if len(alone) > 1 else f"dominant:{alone[0]}"


def subsets(sources: Sequence[str]) -> Iterator[frozenset[str]]:
    """All 2^K subsets, the empty one first."""
    for size in range(len(sources) + 1):
        yield from map(frozenset, combinations(sources, size))


def shapley(sources: Sequence[str], accuracy: Mapping[frozenset[str], float]) -> dict[str, float]:
    """What each source adds, averaged over every order in which the sources could be shown.

    phi_s = sum over S without s of |S|! (K - |S| - 1)! / K! (v(S + s) - v(S)); the phi sum to v(all) - v(none).

    Args:
        sources: K names, at most :data:`MOST_SHAPLEY_SOURCES`.
        accuracy: v of every subset; NaN where an answer is missing.

    Returns:
        phi of each source, NaN where an answer that it needs is missing.

    Raises:
        ValueError: too many sources.
    """
    count = len(sources)
    if count > MOST_SHAPLEY_SOURCES:
        raise ValueError(f"Shapley values are computed for at most {MOST_SHAPLEY_SOURCES} sources, got {count}")
    values = {}
    for source in sources:
        total = 0.0
        for others in subsets([name for name in sources if name != source]):
            weight = math.factorial(len(others)) * math.factorial(count - len(others) - 1) / math.factorial(count)
            total += weight * (accuracy.get(others | {source}, math.nan) - accuracy.get(others, math.nan))
        values[source] = total
    return values


def mean_of_sources(accuracies: Floats) -> Floats:
    """(N,) mean over a row's own sources from (N, K); NaN where any of those was not answered.

    Args:
        accuracies: NaN where a source was not answered, +inf where the row has no such source.
    """
    own = ~np.isposinf(accuracies)
    counts = own.sum(axis=1)
    sums = np.where(own, accuracies, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
