"""A contract with verl fails with a sentence: what changed in verl, and which file of ours to look at."""

import inspect


def expect(condition, change, ours):
    """Fail with a sentence: what changed in verl, and where verl-mars depends on it."""
    assert condition, f"verl changed: {change}. Look at {ours}."


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]  # Ray adds that one
