"""A synthetic multi-source world and a tiny vision-language model that learns in it within minutes on a CPU."""

from importlib import import_module
from typing import Any

_HOMES = {"PrepareToy": "callback", "ToyPaths": "prepare", "prepare": "prepare"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
