"""One file a paper: its settings, sessions, views, advantages and metrics as a :class:`Method`."""

from verl_mars.methods.base import (
    Inputs,
    Method,
    Presentation,
    PromptContext,
    Result,
    RowsToView,
    RowValues,
    Session,
    TokenValues,
    ViewContext,
    mean_over,
)
from verl_mars.methods.reshaping import Reshaping, ReshapingSettings
from verl_mars.methods.table import METHODS, method_of

__all__ = [
    "METHODS",
    "Inputs",
    "Method",
    "Presentation",
    "PromptContext",
    "Reshaping",
    "ReshapingSettings",
    "Result",
    "RowValues",
    "RowsToView",
    "Session",
    "TokenValues",
    "ViewContext",
    "mean_over",
    "method_of",
]
