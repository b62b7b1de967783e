"""verl's estimator functions, made from METHODS by one adapter.

verl calls a registered estimator with rewards, mask, uids and its section of the configuration, and takes two tensors
back. What a method needs beyond these, and what it returns beyond them, goes through one context variable, which the
trainer sets for the length of verl's advantage computation.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from verl_mars.fields import FieldDict
from verl_mars.methods.base import Inputs, Method, Result, RowValues
from verl_mars.methods.table import METHODS
from verl_mars.rows import AnchorRows

if TYPE_CHECKING:
    from omegaconf import DictConfig

Estimator = Callable[..., tuple[torch.Tensor, torch.Tensor]]

_TOKEN_VALUES = ("log_probs", "view_log_probs", "divergence", "reverse_divergence", "entropy")


class Handover:
    """A method with the values of one batch, and the result of its estimator once verl has called it."""

    def __init__(self, method: Method, values: RowValues) -> None:
        self.method = method
        self.values = values
        self._done: tuple[Inputs, Result] | None = None

    def finish(self, inputs: Inputs, result: Result) -> None:
        """Take the result; once only.

        Raises:
            RuntimeError: the estimator was called twice for one batch.
        """
        if self._done is not None:
            raise RuntimeError(f"verl called the estimator {self.method.name!r} twice for one batch")
        self._done = inputs, result

    @property
    def result(self) -> Result:
        """The result of the estimator.

        Raises:
            RuntimeError: verl has not called it.
        """
        return self._finished()[1]

    def metrics(self) -> dict[str, float]:
        """Metrics of the method, once its estimator has run."""
        return self.method.metrics(*self._finished())

    def _finished(self) -> tuple[Inputs, Result]:
        if self._done is None:
            raise RuntimeError(f"verl did not call the estimator {self.method.name!r}")
        return self._done


_handover: ContextVar[Handover | None] = ContextVar("verl_mars_handover", default=None)


@contextmanager
def hand_over(method: Method, values: RowValues) -> Iterator[Handover]:
    """Hand a method and the values of a batch to the method's estimator for the length of the block."""
    handover = Handover(method, values)
    token = _handover.set(handover)
    try:
        yield handover
    finally:
        _handover.reset(token)


@cache
def estimator(name: str) -> Estimator:
    """The estimator of a method, with verl's signature; the same function each time.

    Raises:
        UserError: the method cannot be loaded.
    """
    method_class = METHODS[name]

    def advantages(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: "Sequence[Hashable] | None" = None,
        config: "DictConfig | None" = None,
        **known: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages of a method in verl's estimator signature.

        Args:
            token_level_rewards: (B, T); a row's reward is the sum over its tokens.
            response_mask: (B, T).
            index: (B,) prompt uids; rows in any order.
            config: verl's section ``algorithm``, with the method's settings.
            known: outside a ``mars_*`` trainer mode, which hands these over: ``anchor_scores`` (B, K), NaN = no anchor;
                ``log_probs``, ``view_log_probs``, ``divergence``, ``reverse_divergence``, ``entropy``, each (B, T).
                Other arguments of verl's are ignored.

        Returns:
            Advantages and returns, both (B, T): 0 outside the responses.

        Raises:
            ValueError: values are missing, and which setting hands them over; wrong settings; or as the method's
                mathematics says.
        """
        given: FieldDict = {
            "rewards": token_level_rewards,
            "response_mask": response_mask,
            "index": index,
            "config": config,
        }
        handover = _handover.get()
        values = _values_outside(len(response_mask), known)
        if handover is None or handover.method.name != name or values is not None:
            outside = values or _no_values(len(response_mask))
            result = method_class(config).advantages(Inputs(**_of(outside), **given))
        else:
            inputs = Inputs(**_of(handover.values), **given)
            result = handover.method.advantages(inputs)
            handover.finish(inputs, result)
        return result.advantages, result.advantages

    advantages.__name__ = advantages.__qualname__ = name
    return advantages


def _values_outside(rows: int, known: FieldDict) -> RowValues | None:
    """The values that a caller outside a trainer gives; None if it gives none."""
    values: FieldDict = {name: known[name] for name in _TOKEN_VALUES if known.get(name) is not None}
    scores = known.get("anchor_scores")
    if scores is not None:
        none = torch.full_like(scores, torch.nan)
        nothing = scores.new_zeros(len(scores))
        values["anchors"] = AnchorRows(scores, none, [[] for _ in scores], nothing, nothing)
    return RowValues(**_of(_no_values(rows)) | values) if values else None


def _no_values(rows: int) -> RowValues:
    """Every row is real and a separate session."""
    return RowValues(real=torch.ones(rows, dtype=torch.bool), last_output=torch.arange(rows))


def _of(values: RowValues) -> FieldDict:
    return {entry.name: getattr(values, entry.name) for entry in fields(RowValues)}
