"""How far the metrics of one run are from another's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

CLOCK = ("timing_s/", "timing_per_token_ms/", "perf/", "actor/perf/")
"""Metrics of time and memory, which no two runs share."""

Metrics = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Drift:
    """Differences over all steps and metrics, relative to the metric but to no less than 0.01."""

    maximum: float
    mean: float
    worst: str
    count: int


def numbers(metrics: Metrics) -> dict[tuple[int, str], float]:
    """Every metric of every step but those of the clock."""
    return {
        (step, name): float(value)
        for step, values in metrics.items()
        for name, value in values.items()
        if not name.startswith(CLOCK) and isinstance(value, int | float)
    }


def drift(one: Metrics, other: Metrics) -> Drift:
    """Between the metrics that both have. A NaN equals a NaN and is infinitely far from a number."""
    first, second = numbers(one), numbers(other)
    far = {}
    for key in first.keys() & second.keys():
        a, b = first[key], second[key]
        if math.isnan(a) or math.isnan(b):
            far[key] = 0.0 if math.isnan(a) and math.isnan(b) else math.inf
        else:
            far[key] = abs(a - b) / max(abs(a), abs(b), 0.01)
    worst = max(far, key=far.__getitem__)
    step, name = worst
    told = f"step {step}, {name}: {first[worst]!r} against {second[worst]!r}"
    return Drift(far[worst], sum(far.values()) / len(far), told, len(far))


def assert_same(one: Metrics, other: Metrics) -> None:
    """Bit for bit, NaN where there is NaN."""
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    told = {key: (first[key], second[key]) for key in first if repr(first[key]) != repr(second[key])}
    assert told == {}
