"""Accuracy of a checkpoint on held-out rows: the fused view, and each source alone.

Reads the parquet files and renders the views as training does, and samples as the CPU rollout engine does: 1,000 rows
with three views take a few seconds. Random numbers come from one seed for each row and view, never from torch's global
state, so an evaluation does not change a training.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerFast

from verl_mars.fields import FieldDict, Fields
from verl_mars.toy.forward import sample
from verl_mars.toy.model import Qwen2_5_VLForConditionalGeneration, no_progress_bars, tokenize_prompt
from verl_mars.toy.warmstart import MAX_RESPONSE, torch_threads, visual_tokens
from verl_mars.toy.world import REGIMES, SIZE, SOURCES, parse_answer
from verl_mars.views import Fused, Mono, sources_of_row

FUSED = "fused"
Messages = list[FieldDict]


@dataclass(frozen=True)
class HeldOut:
    """N rows of a toy file, in their order.

    Attributes:
        ids: sample ids.
        regimes: names of the regimes.
        questions: texts.
        answers: ground truths.
        sources: names of each row's sources.
        images: paths of each row's pictures.
        views: view (``fused`` or a source's name) -> (row, messages) of each row that has it.
    """

    ids: tuple[str, ...]
    regimes: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...]
    images: tuple[tuple[Path, ...], ...]
    views: Mapping[str, tuple[tuple[int, Messages], ...]]

    def __len__(self) -> int:
        return len(self.ids)


def read_heldout(file: Path, limit: int | None = None) -> HeldOut:
    """The first `limit` rows of a parquet file in the project's row schema.

    Raises:
        ValueError: the file has no rows, or a row is not the toy's (it has no ``regime``).
    """
    rows = pq.read_table(file).slice(0, limit).to_pylist()
    if not rows:
        raise ValueError(f"{file}: no rows to evaluate")
    views: dict[str, list[tuple[int, Messages]]] = {FUSED: []}
    for number, row in enumerate(rows):
        if not row["extra_info"].get("regime"):
            raise ValueError(f"{file}, row {number}: extra_info.regime is missing; this is not a file of the toy world")
        row["raw_prompt"] = _messages(row)
        views[FUSED].append((number, Fused().render(row)["raw_prompt"]))
        for source in sources_of_row(row):
            views.setdefault(source.name, []).append((number, Mono(source).render(row)["raw_prompt"]))
    info = [row["extra_info"] for row in rows]
    return HeldOut(
        ids=tuple(each["sample_id"] for each in info),
        regimes=tuple(each["regime"] for each in info),
        questions=tuple(each["question"] for each in info),
        answers=tuple(json.loads(row["reward_model"]["ground_truth"])["answers"][0] for row in rows),
        sources=tuple(tuple(each["sources"]) for each in info),
        images=tuple(tuple(Path(image["image"]) for image in row["images"]) for row in rows),
        views={name: tuple(shown) for name, shown in views.items()},
    )


def _messages(row: Fields) -> Messages:
    """A row's prompt with its ``<image>`` tags as image parts, as verl's RLHFDataset makes it."""
    images = iter(row["images"])
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", **next(images)} if piece == "<image>" else {"type": "text", "text": piece}
                for piece in re.split("(<image>)", message["content"])
                if piece
            ],
        }
        for message in row["prompt"]
    ]


@dataclass(frozen=True)
class Evaluation:
    """Answers of a checkpoint to N rows; None and NaN where a row lacks the view.

    Attributes:
        heldout: the rows.
        responses: view -> (N,) texts.
        ended: view -> (N,) 1 if the response ended by itself, else 0.
        right: view -> (N,) 1 if the answer is exactly the ground truth, in the right format, and the response ended.
        formatted: view -> (N,) 1 if the response has the right format and ended.
    """

    heldout: HeldOut
    responses: Mapping[str, tuple[str | None, ...]]
    ended: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.float64]]
    formatted: Mapping[str, NDArray[np.float64]]

    @property
    def regimes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.heldout.regimes), key=_order(REGIMES)))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted((view for view in self.right if view != FUSED), key=_order(SOURCES)))

    def rows(self, regime: str | None = None) -> NDArray[np.bool_]:
        every = np.array(self.heldout.regimes)
        return np.ones(len(every), bool) if regime is None else every == regime

    def accuracy(self, view: str = FUSED, regime: str | None = None) -> float:
        """Share of right answers among the rows that have the view; NaN where none has."""
        return _mean(self.right[view][self.rows(regime)])

    def mono_accuracy(self, regime: str | None = None) -> float:
        """Mean over rows of the mean over the row's sources."""
        return _mean(self._mono()[self.rows(regime)])

    def information_gain(self, regime: str | None = None) -> float:
        """Mean over rows of: fused right, minus the mean over the row's sources."""
        return _mean((self.right[FUSED] - self._mono())[self.rows(regime)])

    def format_rate(self, view: str = FUSED) -> float:
        return _mean(self.formatted[view])

    def _mono(self) -> NDArray[np.float64]:
        return np.nanmean(np.stack([self.right[source] for source in self.sources]), axis=0)


def _order(known: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Sort key: the known names in their order, then others by name."""
    return lambda name: (known.index(name) if name in known else len(known), name)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def evaluate(
    checkpoint: Path,
    heldout: HeldOut,
    temperature: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    views: Sequence[str] | None = None,
) -> Evaluation:
    """Answers of the checkpoint in a model folder to every view of the rows.

    Args:
        checkpoint: a folder that transformers loads.
        heldout: the rows.
        temperature: 0 is greedy; above, one response is sampled for each row and view.
        seed: of that sampling.
        threads: torch threads.
        views: the views to ask for; all by default.

    Raises:
        ValueError: a folder without a model, a model of another family, an unknown view.
    """
    views = list(heldout.views) if views is None else list(views)
    unknown = sorted(set(views) - set(heldout.views))
    if unknown:
        raise ValueError(f"no row has the view {unknown[0]!r}; the rows have {sorted(heldout.views)}")
    responses: dict[str, tuple[str | None, ...]] = {}
    ended, right, formatted = {}, {}, {}
    with torch_threads(threads):
        model, tokenizer = load(checkpoint)
        files = sorted({path for paths in heldout.images for path in paths})
        visual = visual_tokens(model, np.stack([_pixels(path) for path in files])[:, None])[:, 0]
        place = {str(path): number for number, path in enumerate(files)}
        for number, view in enumerate(views):
            rows = [row for row, _ in heldout.views[view]]
            seeds = [_seed(seed, number, row) for row in rows]
            messages = [messages for _, messages in heldout.views[view]]
            outcomes = _answer(model, tokenizer, messages, visual, place, temperature, seeds)
            text_of = {row: text for row, (text, _) in zip(rows, outcomes, strict=True)}
            responses[view] = tuple(text_of.get(row) for row in range(len(heldout)))
            ended[view], right[view], formatted[view] = np.full((3, len(heldout)), np.nan)
            for row, (text, stopped) in zip(rows, outcomes, strict=True):
                answer = parse_answer(text) if stopped else None
                ended[view][row] = stopped
                formatted[view][row] = answer is not None
                right[view][row] = answer == heldout.answers[row]
    return Evaluation(heldout, responses, ended, right, formatted)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _answer(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Messages],
    visual: Tensor,
    place: Mapping[str, int],
    temperature: float,
    seeds: Sequence[int],
) -> list[tuple[str, bool]]:
    """Responses to prompts that all have the same number of pictures, and whether each ended by itself.

    `visual` has the visual tokens of all pictures; `place` says which belong to a path.
    """
    pictures = [
        [place[part["image"]] for message in messages for part in message["content"] if part["type"] == "image"]
        for messages in conversations
    ]
    prompts = [tokenize_prompt(tokenizer, messages) for messages in conversations]
    responses = sample(model, prompts, visual[torch.tensor(pictures)], MAX_RESPONSE, temperature, seeds)
    ids = [response.token_ids[: len(response.token_ids) - response.ended] for response in responses]
    return list(zip(tokenizer.batch_decode(ids), [response.ended for response in responses], strict=True))


def load(checkpoint: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Model and tokenizer of a model folder, in fp32."""
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint}: no model there (config.json is missing)")
    with no_progress_bars():
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if model.config.model_type != "qwen2_5_vl":
        raise ValueError(f"{checkpoint}: a model of type {model.config.model_type!r}; the toy's is 'qwen2_5_vl'")
    return model, AutoTokenizer.from_pretrained(checkpoint)


def model_folder(step: Path) -> Path:
    """Where verl saves the model folder of a step, whose folder is ``global_step_N``."""
    return step / "actor" / "huggingface"


def latest_checkpoint(run: Path) -> Path:
    """The model folder of the last step that verl saved under `run` (its ``trainer.default_local_dir``).

    verl writes one if ``actor_rollout_ref.actor.checkpoint.save_contents`` has ``hf_model``.

    Raises:
        ValueError: no step has one.
    """
    steps = {int(path.name.removeprefix("global_step_")): path for path in run.glob("global_step_*")}
    for _, path in sorted(steps.items(), reverse=True):
        folder = model_folder(path)
        if any(folder.glob("*.safetensors")):
            return folder
    raise ValueError(
        f"{run}: no checkpoint with a model folder; actor_rollout_ref.actor.checkpoint.save_contents needs `hf_model` "
        f"and trainer.save_freq must reach a step (steps saved: {sorted(steps) or 'none'})"
    )


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        if image.size != (SIZE, SIZE):
            raise ValueError(f"{path}: {image.size[0]}x{image.size[1]} pixels; the toy's pictures have {SIZE}x{SIZE}")
        return np.asarray(image.convert("RGB"))
