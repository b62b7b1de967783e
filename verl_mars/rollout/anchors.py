"""The anchors of one prompt: what its mono sessions returned, as it travels with the prompt's fused trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ANCHOR_FIELDS = ("anchor_scores", "anchor_sources", "anchor_seconds")
"""Fields that each fused trajectory carries in TransferQueue, beside verl's own."""


@dataclass(frozen=True)
class Anchors:
    """Rewards of the mono sessions of one prompt; K = sources x ``anchors_per_source``."""

    scores: tuple[float, ...]
    """(K) rewards; NaN = no anchor (the session failed, or the prompt has one source only)."""
    sources: tuple[str, ...]
    """(K) the source of each."""
    seconds: float
    """Wall time from the start of the first mono session to the score of the last."""

    @classmethod
    def missing(cls, sources: Sequence[str], seconds: float = 0.0) -> "Anchors":
        """No anchor for any of these sources."""
        return cls((float("nan"),) * len(sources), tuple(sources), seconds)

    def fields(self) -> dict[str, object]:
        """What a fused trajectory carries (:data:`ANCHOR_FIELDS`)."""
        return {
            "anchor_scores": torch.tensor(self.scores, dtype=torch.float32),
            "anchor_sources": list(self.sources),
            "anchor_seconds": self.seconds,
        }
