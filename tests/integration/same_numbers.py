"""Comparing runs number by number."""

import math

CLOCK = ("timing_s/", "timing_per_token_ms/", "perf/", "actor/perf/")
"""Metrics of time and memory."""


def numbers(run):
    """Every metric of every step but those of the clock; NaN made equal to itself."""
    return {
        (step, name): "nan" if isinstance(value, float) and math.isnan(value) else value
        for step, metrics in run.metrics.items()
        for name, value in metrics.items()
        if not name.startswith(CLOCK)
    }


def assert_same(one, other):
    """Bit for bit, over two steps: the second was trained on what the first one made."""
    one, other = numbers(one), numbers(other)
    assert one.keys() == other.keys()
    assert {key: (one[key], other[key]) for key in one if one[key] != other[key]} == {}
    assert len([key for key in one if key[0] == 2]) > 50
