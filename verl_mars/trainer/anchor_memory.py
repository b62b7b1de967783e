"""Anchors that serve more than one epoch (``Method.anchor_epochs``)."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from tensordict import TensorDict

from verl_mars import store
from verl_mars.methods.estimator import Handover
from verl_mars.rows import KNOWN_ANCHORS, as_list
from verl_mars.store import Batch
from verl_mars.trainer.checkpoints import checkpoint_folder
from verl_mars.trainer.trainer import ViewTrainer

logger = logging.getLogger(__name__)

FILE = "anchors.json"
"""Beside verl's own files in the folder of a checkpoint."""

_IDENTITY = ("data_source", "index", "extra_info")
"""Fields of a prompt that identify it (:func:`prompt_identity`)."""


@dataclass
class AnchorMemory:
    """The anchors of each prompt, until they have been used ``every`` times. A prompt comes once an epoch.

    A prompt with a missing anchor is not remembered: the next epoch runs its sessions again.
    """

    every: int
    anchors: dict[str, list[list[object]]] = field(default_factory=dict)
    """[source, score, weights version, and further values if there are any] of each anchor, by prompt."""
    uses: dict[str, int] = field(default_factory=dict)

    def recall(self, prompt: str) -> str:
        """The anchors of a prompt that is about to be rolled out, as JSON; empty if its sessions must run."""
        if prompt not in self.anchors:
            return ""
        if self.uses[prompt] >= self.every:
            del self.anchors[prompt], self.uses[prompt]
            return ""
        self.uses[prompt] += 1
        return json.dumps(self.anchors[prompt])

    def remember(
        self,
        prompt: str,
        sources: Sequence[str],
        scores: Sequence[float],
        versions: Sequence[float],
        values: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Keep the anchors of a prompt that was rolled out; known ones stay."""
        scores = scores[: len(sources)]  # a batch pads prompts with fewer anchors
        if prompt in self.anchors or not all(map(math.isfinite, scores)):
            return
        entries = [list(entry) for entry in zip(sources, scores, versions, strict=False)]
        for entry, further in zip(entries, values, strict=False):
            entry.append(dict(further))
        self.anchors[prompt] = entries
        self.uses[prompt] = 1

    def save(self, folder: Path) -> None:
        """Write the memory into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"anchors": self.anchors, "uses": self.uses})
        (folder / FILE).write_text(text, encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read the file of :meth:`save`; a checkpoint of a run without a memory has none."""
        file = folder / FILE
        if not file.exists():
            logger.warning("%s has no %s: the mono sessions of every prompt run once more", folder, FILE)
            return
        saved = json.loads(file.read_text(encoding="utf-8"))
        self.anchors, self.uses = saved["anchors"], saved["uses"]


def prompt_identity(data_source: str, index: int, extra_info: object) -> str:
    """Identifies a prompt across epochs; verl draws a new uid each time it is sampled."""
    sample = extra_info.get("sample_id") if isinstance(extra_info, Mapping) else None
    return f"{data_source}/{index if sample is None else sample}"


class RemembersAnchors(ViewTrainer):
    """Hands anchors of earlier epochs to the rollout, and keeps the memory of them in checkpoints."""

    anchor_memory: AnchorMemory | None

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        epochs = self.method.anchor_epochs
        self.anchor_memory = AnchorMemory(epochs) if epochs > 1 else None

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        if self.anchor_memory is not None:
            store.add_texts(batch, KNOWN_ANCHORS, [self.anchor_memory.recall(name) for name in _identities(batch)])
        return super()._submit_batch_to_rollout(batch)

    def on_advantages(self, batch: Batch, handover: Handover) -> None:
        """Remember the batch's anchors."""
        super().on_advantages(batch, handover)
        anchors, counted = handover.values.anchors, handover.values.counted
        if self.anchor_memory is None or anchors is None:
            return
        for row, name in enumerate(_identities(store.read(batch, _IDENTITY))):
            if counted[row]:
                sources = anchors.sources[row]
                columns = {key: column[row].tolist() for key, column in anchors.values.items()}
                values = [{key: column[k] for key, column in columns.items()} for k in range(len(sources))]
                scores, versions = anchors.scores[row].tolist(), anchors.versions[row].tolist()
                self.anchor_memory.remember(name, sources, scores, versions, values if columns else ())

    def _save_checkpoint(self) -> None:
        if self.anchor_memory is not None:
            self.anchor_memory.save(checkpoint_folder(self))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.anchor_memory is not None and self.global_steps > 0:
            trainer = self.config.trainer
            folder = trainer.resume_from_path if trainer.resume_mode == "resume_path" else trainer.default_local_dir
            name = f"global_step_{self.global_steps}"
            self.anchor_memory.load(Path(folder) if Path(folder).name == name else Path(folder) / name)


def _identities(data: TensorDict) -> list[str]:
    """The identity of each prompt of a batch, from its columns :data:`_IDENTITY`."""
    return [prompt_identity(*row) for row in zip(*(as_list(data[name]) for name in _IDENTITY), strict=True)]
