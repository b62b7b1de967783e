"""The anchors of one prompt: what its mono sessions returned, as it travels with the prompt's fused trajectories."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ANCHOR_FIELDS = ("anchor_scores", "anchor_sources", "anchor_versions", "anchor_tokens", "anchor_seconds")
"""Fields that each fused trajectory carries in TransferQueue, beside verl's own."""

KNOWN_FIELD = "known_anchors"
"""A prompt that brings the anchors of an earlier epoch (``algorithm.mars.anchor_every``) has them here, as JSON: a list
of [source, score, weights version]. Empty: its mono sessions run."""

KEPT_METRIC = "mars/kept_groups"
"""Groups of a batch that verl's own filter would have dropped."""


@dataclass(frozen=True)
class Anchor:
    """What one mono session came to."""

    source: str
    score: float = math.nan
    """NaN: no anchor (the session failed, or the prompt has one source only)."""
    version: float = math.nan
    """Weights with which its last token was sampled, as verl counts them (global step); NaN: none, or not known."""
    tokens: int = 0
    """Length of its response; 0 for an anchor of an earlier epoch."""


@dataclass(frozen=True)
class Anchors:
    """The mono sessions of one prompt; K = sources x ``anchors_per_source``."""

    of_session: tuple[Anchor, ...]
    seconds: float = 0.0
    """Wall time from the start of the first mono session to the score of the last."""

    @classmethod
    def missing(cls, sources: Sequence[str]) -> "Anchors":
        """No anchor for any of these sources."""
        return cls(tuple(Anchor(source) for source in sources))

    @classmethod
    def known(cls, text: str) -> "Anchors":
        """Those of an earlier epoch, from :data:`KNOWN_FIELD`."""
        return cls(tuple(Anchor(source, score, version) for source, score, version in json.loads(text)))

    def fields(self) -> dict[str, object]:
        """What a fused trajectory carries (:data:`ANCHOR_FIELDS`)."""
        return {
            "anchor_scores": torch.tensor([anchor.score for anchor in self.of_session], dtype=torch.float32),
            "anchor_sources": [anchor.source for anchor in self.of_session],
            "anchor_versions": torch.tensor([anchor.version for anchor in self.of_session], dtype=torch.float32),
            "anchor_tokens": sum(anchor.tokens for anchor in self.of_session),
            "anchor_seconds": self.seconds,
        }


def anchor_matrix(column: torch.Tensor) -> torch.Tensor:
    """(B, K) of a field of anchors as TransferQueue returns it; prompts with fewer anchors are filled up with NaN."""
    return column.to_padded_tensor(torch.nan) if column.is_nested else column
