"""Anchors that are used for more than one epoch: ``algorithm.mars.anchor_every``."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE = "anchors.json"
"""Beside verl's own files in the folder of a checkpoint."""


@dataclass
class AnchorMemory:
    """The anchors of each prompt, until they were used ``every`` times. A prompt comes once an epoch.

    A prompt one of whose mono sessions failed is not remembered: the next epoch runs them again.
    """

    every: int
    anchors: dict[str, list[list[Any]]] = field(default_factory=dict)
    """[source, score, weights version] of each anchor, by prompt."""
    uses: dict[str, int] = field(default_factory=dict)

    def recall(self, prompt: str) -> str:
        """The anchors of a prompt that is about to be rolled out, as JSON; empty where its mono sessions must run."""
        if prompt not in self.anchors:
            return ""
        if self.uses[prompt] >= self.every:
            del self.anchors[prompt], self.uses[prompt]
            return ""
        self.uses[prompt] += 1
        return json.dumps(self.anchors[prompt])

    def remember(self, prompt: str, sources: list[str], scores: list[float], versions: list[float]) -> None:
        """Keep the anchors of a prompt that was rolled out; those that are known already stay."""
        scores = scores[: len(sources)]  # a batch fills up prompts with fewer anchors
        if prompt in self.anchors or not all(map(math.isfinite, scores)):
            return
        self.anchors[prompt] = [list(entry) for entry in zip(sources, scores, versions, strict=False)]
        self.uses[prompt] = 1

    def save(self, folder: Path) -> None:
        """Write all into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"anchors": self.anchors, "uses": self.uses})
        (folder / FILE).write_text(text, encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what :meth:`save` wrote; a checkpoint of a run without ``anchor_every`` has nothing."""
        file = folder / FILE
        if not file.exists():
            logger.warning("%s has no %s: the mono sessions of every prompt run once more", folder, FILE)
            return
        saved = json.loads(file.read_text(encoding="utf-8"))
        self.anchors, self.uses = saved["anchors"], saved["uses"]


def prompt_identity(data_source: Any, index: Any, extra_info: Any) -> str:
    """What a prompt is in every epoch: verl's uid is new each time it is drawn."""
    sample = extra_info.get("sample_id") if isinstance(extra_info, Mapping) else None
    return f"{data_source}/{index if sample is None else sample}"
