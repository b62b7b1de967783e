"""What is in data files, counted: rows, tasks, sources, images, sizes, boxes, answers, prompt lengths."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.readers import as_files, row_batches
from verl_mars.fields import FieldDict, Fields
from verl_mars.vision.families import IMAGE_LIMITS

TOKEN_BIN = 256
MAX_ANSWERS = 1000


@dataclass
class Stats:
    """Counts over all rows of the files."""

    files: list[str]
    bytes: int = 0
    rows: int = 0
    data_sources: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    sources_per_row: Counter[int] = field(default_factory=Counter)
    images_per_row: Counter[int] = field(default_factory=Counter)
    image_sizes: Counter[str] = field(default_factory=Counter)
    boxes_per_row: Counter[int] = field(default_factory=Counter)
    own_prompts: Counter[str] = field(default_factory=Counter)
    """Rows in which a source has its own prompt, by source."""
    own_truths: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    """Answers other than boxes; the first 1,000 different ones."""
    tokens: dict[str, Counter[int]] = field(default_factory=dict)
    """Model family -> rows by prompt length, an upper bound, in bins of 256 tokens."""
    max_tokens: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    """Rows of another form than the schema's; ``verl-mars data validate`` says what is wrong."""

    def as_dict(self) -> FieldDict:
        """Plain data for JSON."""
        return {key: _plain(value) for key, value in vars(self).items()}


def collect(files: Sequence[str]) -> Stats:
    """Count what is in the files.

    Raises:
        DataError: a file cannot be read.
    """
    stats = Stats(as_files(files))
    stats.bytes = sum(os.path.getsize(file) for file in stats.files)
    lengths = {name: PromptLength(limits) for name, limits in IMAGE_LIMITS.items()}
    for file in stats.files:
        for batch in row_batches(file):
            for row in batch:
                stats.rows += 1
                try:
                    _count(stats, row, lengths)
                except (TypeError, KeyError, ValueError, AttributeError, IndexError):
                    stats.unreadable += 1
    return stats


def _count(stats: Stats, row: Fields, lengths: Mapping[str, PromptLength]) -> None:
    extra = row["extra_info"]
    stats.data_sources[str(row["data_source"])] += 1
    stats.splits[str(extra.get("split"))] += 1
    stats.tasks[str(extra.get("task"))] += 1
    sources = row.get("sources") or []
    stats.sources_per_row[len(sources)] += 1
    for source in sources:
        stats.sources[source["name"]] += 1
        stats.own_prompts[source["name"]] += source.get("prompt") is not None
        stats.own_truths[source["name"]] += source.get("ground_truth") is not None
    images = row.get("images") or []
    stats.images_per_row[len(images)] += 1
    sizes = [tuple(size) for size in extra.get("image_sizes") or []]
    stats.image_sizes.update(f"{width} x {height}" for width, height in sizes)
    truth = json.loads(row["reward_model"]["ground_truth"])
    if "boxes" in truth:
        stats.boxes_per_row[len(truth["boxes"])] += 1
    else:
        answer = str(truth.get("letter") or (truth.get("answers") or [truth.get("value", truth.get("answer"))])[0])
        known = answer in stats.answers or len(stats.answers) < MAX_ANSWERS
        stats.answers[answer if known else "(others)"] += 1
    limits = [(image.get("min_pixels"), image.get("max_pixels")) for image in images if isinstance(image, Mapping)]
    low, high = limits[0] if limits else (None, None)
    for name, length in lengths.items():
        tokens = length(row["prompt"], sizes, low, high)
        stats.tokens.setdefault(name, Counter())[tokens // TOKEN_BIN * TOKEN_BIN] += 1
        stats.max_tokens[name] = max(stats.max_tokens.get(name, 0), tokens)


def _plain(value: object) -> object:
    if isinstance(value, Counter):
        return {str(key): count for key, count in value.most_common()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
