"""Which prompts are longer than a run allows, fused or with one source alone; found without decoding an image.

verl raises at such a prompt while it is rolled out: its group has no rollouts, and the step continues with the others.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from verl_mars.data.check import Fault
from verl_mars.data.cures import CURES
from verl_mars.data.images import read_header
from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.readers import row_batches
from verl_mars.errors import SampleError
from verl_mars.fields import Fields
from verl_mars.views import MonoPrompt, Row, sources_of_row
from verl_mars.vision.resize import ImageLimits, Size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def view_lengths(row: Row, length: PromptLength, mono: MonoPrompt = "repeat") -> Iterator[tuple[str, int]]:
    """(where, tokens) of the row's fused prompt, then of each source alone.

    Raises:
        ValueError, TypeError, KeyError, IndexError, AttributeError: a row of another form, which has no length.
    """
    sizes, limits = _sizes(row), _limits(row)
    yield "prompt", length(row["prompt"], sizes, *limits)
    for source in sources_of_row(row) if row.get("sources") else ():
        own = [sizes[i] for i in source.images]
        if source.prompt is not None:
            chat = [message for message in row["prompt"] if message["role"] == "system"]
            yield f"sources: {source.name}", length([*chat, {"role": "user", "content": source.prompt}], own, *limits)
        elif mono == "repeat":
            shown = [own[i % len(own)] for i in range(len(sizes))]
            yield f"sources: {source.name}", length(row["prompt"], shown, *limits)
        # `drop` leaves out images of the fused prompt, and adds nothing


@dataclass
class LongPrompts:
    """What :func:`find_long_prompts` found."""

    faults: list[Fault] = field(default_factory=list)
    """The first of them."""
    count: int = 0
    """All prompts that are too long."""
    filtered: int = 0
    """Rows that verl's own filter leaves out."""
    longest: int = 0
    """Tokens of the longest prompt that is too long."""

    def sentences(self) -> list[str]:
        """A line for each fault spelled out, and one for all."""
        if not self.count:
            return []
        lines = [str(fault) for fault in self.faults]
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines)} more prompts that are too long")
        return [*lines, f"the longest prompt has {self.longest} tokens. {CURES['too_long']}"]


def find_long_prompts(
    files: Sequence[str],
    image_limits: ImageLimits,
    tokenizer: "PreTrainedTokenizerBase",
    limit: int,
    *,
    mono: MonoPrompt = "repeat",
    filters: bool = False,
    max_faults: int = 20,
) -> LongPrompts:
    """Look at every row; those of another form are passed over, as :mod:`verl_mars.data.check` reports them.

    Text is bounded by its bytes first, which settles most prompts without a tokenizer.

    Args:
        files: as verl's ``data.train_files``.
        image_limits: of the model's image processor.
        tokenizer: the model's.
        limit: ``data.max_prompt_length``.
        mono: ``algorithm.mars.mono_prompt``.
        filters: ``data.filter_overlong_prompts``: verl leaves out rows whose fused prompt is too long, and looks at no
            other prompt.
        max_faults: how many are spelled out.
    """
    bound, exact = PromptLength(image_limits), PromptLength(image_limits, tokenizer)
    found = LongPrompts()
    for file in files:
        for number, row in enumerate(itertools.chain.from_iterable(row_batches(file, _COLUMNS))):
            with contextlib.suppress(*OF_ANOTHER_FORM):
                if all(tokens <= limit for _, tokens in view_lengths(row, bound, mono)):
                    continue
                too_long = {key: tokens for key, tokens in view_lengths(row, exact, mono) if tokens > limit}
                if filters and "prompt" in too_long:
                    found.filtered += 1
                    continue
                for key, tokens in too_long.items():
                    found.count += 1
                    found.longest = max(found.longest, tokens)
                    if len(found.faults) < max_faults:
                        found.faults.append(Fault(file, number, key, too_long_message(tokens, limit), "too_long"))
    return found


def too_long_message(tokens: int, limit: int) -> str:
    """What is wrong with such a prompt."""
    return f"{tokens} tokens, data.max_prompt_length allows {limit}: verl drops such a group"


OF_ANOTHER_FORM = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What :func:`view_lengths` raises for rows that have no length."""

_COLUMNS = ("prompt", "images", "extra_info", "sources")


def _sizes(row: Fields) -> list[Size]:
    sizes = row["extra_info"].get("image_sizes")
    if sizes:
        return [(size[0], size[1]) for size in sizes]
    images = [image if isinstance(image, str) else image.get("bytes") or image["image"] for image in row["images"]]
    return [read_header(image).size for image in images]


def _limits(row: Fields) -> tuple[int | None, int | None]:
    """The pixel limits of the row's images; one pair for all, as converters write them."""
    entries = [image for image in row["images"] if isinstance(image, Mapping)]
    pairs = {(entry.get("min_pixels"), entry.get("max_pixels")) for entry in entries}
    if len(pairs) > 1:
        raise SampleError("image_sizes", "images of one row have different pixel limits, so no length is computed")
    return pairs.pop() if pairs else (None, None)
